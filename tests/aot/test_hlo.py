"""The count of compiled programs: against closed forms and traces on a CPU, and in the text of a TPU's."""

import base64

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rats_jax.aot.flops import count_flops
from rats_jax.aot.hlo import Collective, count_costs


def struct(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def compiled(fn, *args, **options):
    return count_costs(jax.jit(fn, **options).lower(*args).compile().as_text())


def step(x, w):
    return jnp.tanh(x @ w), None


def scan(x, w):
    return jax.lax.scan(step, x, w)[0]


def nested(x, w):
    return jax.lax.scan(lambda c, _: (scan(c, w), None), x, None, length=5)[0]


def conv(x, kernel, stride=1, **options):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=numbers, **options
    )


def conv_net(params, x):
    def block(x, _):
        y = jax.nn.silu(conv(x, params["down"], stride=2))
        y = jax.nn.silu(conv(jnp.repeat(jnp.repeat(y, 2, axis=1), 2, axis=2), params["up"]))
        return x + conv(y, params["mix"], feature_group_count=2), None

    return jnp.sum(jax.lax.scan(block, x, None, length=3)[0] ** 2)


CONV_ARGS = (
    {"down": struct(3, 3, 4, 8), "up": struct(3, 3, 8, 4), "mix": struct(1, 1, 2, 4)},
    struct(2, 10, 8, 4),
)


def test_every_turn_of_a_loop_counts():
    one = 2 * 16 * 64 * 64
    x, w = struct(16, 64), struct(6, 64, 64)
    assert compiled(scan, x, w) == (6 * one, {}, [])
    assert compiled(nested, x, w).flops == 30 * one
    assert (
        compiled(lambda x, w: jax.lax.fori_loop(3, 10, lambda _, x: x @ w, x), x, struct(64, 64)).flops
        == 7 * one
    )


def test_a_condition_and_a_counter_that_are_fused_are_read():
    text = jax.jit(nested).lower(struct(16, 64), struct(6, 64, 64)).compile().as_text()
    assert "fusion(" in text and '"known_trip_count"' in text
    assert count_costs(text.replace('"known_trip_count"', '"unknown"')) == count_costs(text)


def test_a_batched_dot_is_the_product_of_its_sizes():
    shapes = struct(2, 9, 4, 8), struct(2, 5, 4, 8)
    costs = compiled(lambda q, k: jnp.einsum("bqhd,bkhd->bhqk", q, k), *shapes)
    assert costs.flops == 2 * (2 * 4) * 9 * 5 * 8


@pytest.mark.parametrize(
    ("fn", "args"),
    [
        (conv_net, CONV_ARGS),
        (jax.grad(conv_net), CONV_ARGS),
        (
            jax.grad(lambda x, w: jnp.sum(nested(x, w) ** 2), argnums=(0, 1)),
            (struct(16, 64), struct(6, 64, 64)),
        ),
    ],
)
def test_a_program_counts_what_its_trace_does(fn, args):
    counted = count_flops(fn, *args)
    assert counted > 0
    assert compiled(fn, *args).flops == counted


def test_the_most_expensive_branch_counts():
    branches = [lambda x: x, lambda x: x @ x @ x, lambda x: x @ x]
    costs = compiled(lambda i, x: jax.lax.switch(i, branches, x), struct(dtype=jnp.int32), struct(32, 32))
    assert costs.flops == 2 * 2 * 32**3


def test_an_unknown_trip_count_is_refused_only_where_it_matters():
    with pytest.raises(ValueError, match="while.*trip count"):
        compiled(lambda x: jax.lax.while_loop(lambda x: jnp.sum(x) < 3, lambda x: x @ x, x), struct(32, 32))
    free = compiled(lambda x: jax.lax.while_loop(lambda x: x < 1, lambda x: x * 2, x), struct())
    assert free == (0, {}, [])


@pytest.fixture(scope="module")
def mesh():
    return Mesh(np.array(jax.devices()), ("fsdp",))


@pytest.mark.parametrize(("fn", "turns"), [(scan, 6), (nested, 30)])
def test_weights_are_gathered_in_every_turn(mesh, fn, turns):
    rows = NamedSharding(mesh, PartitionSpec("fsdp"))
    columns = NamedSharding(mesh, PartitionSpec(None, None, "fsdp"))
    costs = compiled(fn, struct(16, 64), struct(6, 64, 64), in_shardings=(rows, columns))
    assert costs.flops == turns * 2 * (16 // 8) * 64 * 64
    assert costs.collective_bytes == {"all-gather": turns * 64 * 64 * 4}
    (gather,) = costs.collectives
    assert gather == Collective("all-gather", 64 * 64 * 4, turns, "f32[64,64]", gather.op_name)
    assert "while/body" in gather.op_name


def test_collectives_count_the_bytes_of_the_whole(mesh):
    def fn(x):
        return (
            jax.lax.psum(x, "fsdp"),
            jax.lax.all_gather(x * 2, "fsdp"),
            jax.lax.psum_scatter(x * 3, "fsdp", scatter_dimension=1, tiled=True),
            jax.lax.all_to_all(x * 4, "fsdp", 1, 0, tiled=True),
            jax.lax.ppermute(x * 5, "fsdp", [(i, (i + 1) % 8) for i in range(8)]),
        )

    split = PartitionSpec("fsdp")
    sharded = jax.shard_map(fn, mesh=mesh, in_specs=split, out_specs=split, check_vma=False)
    each = 4 * 64 * 4
    assert compiled(sharded, struct(32, 64)).collective_bytes == {
        "all-reduce": each,
        "all-gather": 8 * each,
        "reduce-scatter": each,
        "all-to-all": each,
        "collective-permute": each,
    }


# Cut out of the gradient of six layers, batch 16, weights bf16[1024,1024] split in 4, on a v5e:2x2: a gather
# that other work overlaps is written three times, and a reduce-scatter as an all-reduce.
FSDP = """HloModule jit_grad, is_scheduled=true, num_partitions=4

%start (p.0: bf16[1024,256]) -> (bf16[1024,256], bf16[1024,1024], u32[]) {
  %p.0 = bf16[1024,256]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %all-gather.19 = bf16[1024,1024]{1,0:T(8,128)(2,1)} all-gather(%p.0), channel_id=8, dimensions={1}, frontend_attributes={chain_id="0"}, metadata={op_name="jit(grad)/while/body/dot_general" stack_frame_id=15}, backend_config={"async_collective_fusion_config":{"flag_start":"-1","flag_end":"-1"}}
  ROOT %custom-call.19 = (bf16[1024,256]{1,0:T(8,128)(2,1)S(1)}, bf16[1024,1024]{1,0:T(8,128)(2,1)S(1)}, u32[]{:S(2)}) custom-call(%all-gather.19), custom_call_target="AsyncCollectiveStart"
}

%step (p.1: bf16[1024,256], p.2: bf16[16,1024], p.3: bf16[16,1024]) -> (bf16[1024,1024], bf16[1024,1024]) {
  %p.2 = bf16[16,1024]{1,0:T(8,128)(2,1)S(1)} parameter(1)
  %p.3 = bf16[16,1024]{1,0:T(8,128)(2,1)S(1)} parameter(2)
  %convolution.13 = bf16[1024,1024]{1,0:T(8,128)(2,1)} convolution(%p.2, %p.3), dim_labels=fb_io->bf
  %p.1 = bf16[1024,256]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %all-gather.21 = bf16[1024,1024]{1,0:T(8,128)(2,1)S(1)} all-gather(%p.1), channel_id=8, dimensions={1}, frontend_attributes={chain_id="0"}, backend_config={"async_collective_fusion_config":{"flag_start":"2","flag_end":"15"}}
  ROOT %tuple.1 = (bf16[1024,1024]{1,0:T(8,128)(2,1)S(1)}, /*index=1*/bf16[1024,1024]{1,0:T(8,128)(2,1)S(1)}) tuple(%convolution.13, %all-gather.21)
}

%done (p.4: bf16[1024,256], p.5: u32[]) -> bf16[1024,1024] {
  %p.4 = bf16[1024,256]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %p.5 = u32[]{:S(2)} parameter(1)
  %all-gather.23 = bf16[1024,1024]{1,0:T(8,128)(2,1)} all-gather(%p.4), channel_id=8, dimensions={1}, frontend_attributes={chain_id="0"}, backend_config={"async_collective_fusion_config":{"flag_start":"2","flag_end":"15"}}
  ROOT %custom-call.23 = bf16[1024,1024]{1,0:T(8,128)(2,1)S(1)} custom-call(%p.4, %all-gather.23, %p.5), custom_call_target="AsyncCollectiveDone"
}

%add (x: bf16[], y: bf16[]) -> bf16[] {
  %x = bf16[]{:T(256)} parameter(0)
  %y = bf16[]{:T(256)} parameter(1)
  ROOT %add.1 = bf16[]{:T(256)} add(%x, %y)
}

%all-reduce-scatter.clone.1 (input: bf16[1024,1024]) -> bf16[1024,256] {
  %input = bf16[1024,1024]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %all-reduce.4 = bf16[1024,1024]{1,0:T(8,128)(2,1)} all-reduce(%input), channel_id=6, replica_groups={{0,1,2,3}}, to_apply=%add
  %zero = s32[] constant(0)
  ROOT %slice = bf16[1024,256]{1,0:T(8,128)(2,1)S(1)} dynamic-slice(%all-reduce.4, %zero, %zero), dynamic_slice_sizes={1024,256}
}

%last (p.6: bf16[1024,1024], p.7: bf16[16,1024]) -> bf16[16,1024] {
  %p.6 = bf16[1024,1024]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %p.7 = bf16[16,1024]{1,0:T(8,128)(2,1)S(1)} parameter(1)
  ROOT %convolution.11 = bf16[16,1024]{1,0:T(8,128)(2,1)S(1)} convolution(%p.7, %p.6), dim_labels=bf_oi->bf
}

%body (state: (s32[], bf16[16,1024], bf16[1024,256], s32[])) -> (s32[], bf16[16,1024], bf16[1024,256], s32[]) {
  %state = (s32[]{:T(128)}, bf16[16,1024]{1,0:T(8,128)(2,1)S(1)}, bf16[1024,256]{1,0:T(8,128)(2,1)}, s32[]{:T(128)}) parameter(0)
  %constant.1 = s32[]{:T(128)} constant(1)
  %gte.0 = s32[]{:T(128)} get-tuple-element(%state), index=0
  %gte.1 = bf16[16,1024]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%state), index=1
  %gte.2 = bf16[1024,256]{1,0:T(8,128)(2,1)} get-tuple-element(%state), index=2
  %gte.3 = s32[]{:T(128)} get-tuple-element(%state), index=3
  %async-start = (bf16[1024,256]{1,0:T(8,128)(2,1)S(1)}, bf16[1024,1024]{1,0:T(8,128)(2,1)S(1)}, u32[]{:S(2)}) fusion(%gte.2), kind=kCustom, output_to_operand_aliasing={{0}: (0, {})}, calls=%start
  %gte.4 = u32[]{:S(2)} get-tuple-element(%async-start), index=2
  %fusion.26 = (bf16[1024,1024]{1,0:T(8,128)(2,1)S(1)}, bf16[1024,1024]{1,0:T(8,128)(2,1)S(1)}) fusion(%gte.2, %gte.1, %gte.1), kind=kOutput, calls=%step
  %gte.5 = bf16[1024,1024]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%fusion.26), index=0
  %fusion.24 = bf16[1024,256]{1,0:T(8,128)(2,1)S(1)} fusion(%gte.5), kind=kCustom, calls=%all-reduce-scatter.clone.1, metadata={op_name="jit(grad)/transpose/dot_general"}
  %async-done = bf16[1024,1024]{1,0:T(8,128)(2,1)S(1)} fusion(%gte.2, %gte.4), kind=kCustom, calls=%done
  %fusion.22 = bf16[16,1024]{1,0:T(8,128)(2,1)S(1)} fusion(%async-done, %gte.1), kind=kOutput, calls=%last
  %add.26 = s32[]{:T(128)} add(%gte.0, %constant.1)
  ROOT %tuple.55 = (s32[]{:T(128)}, bf16[16,1024]{1,0:T(8,128)(2,1)S(1)}, bf16[1024,256]{1,0:T(8,128)(2,1)}, s32[]{:T(128)}) tuple(%add.26, %fusion.22, %fusion.24, %gte.3)
}

%condition (state.1: (s32[], bf16[16,1024], bf16[1024,256], s32[])) -> pred[] {
  %state.1 = (s32[]{:T(128)}, bf16[16,1024]{1,0:T(8,128)(2,1)S(1)}, bf16[1024,256]{1,0:T(8,128)(2,1)}, s32[]{:T(128)}) parameter(0)
  %gte.6 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  %gte.7 = s32[]{:T(128)} get-tuple-element(%state.1), index=3
  ROOT %lt = pred[]{:T(512)} compare(%gte.6, %gte.7), direction=LT
}

ENTRY %main (x.1: bf16[16,1024], w: bf16[1024,256]) -> bf16[1024,256] {
  %constant.0 = s32[]{:T(128)} constant(START)
  %bound = s32[]{:T(128)} constant(6)
  %x.1 = bf16[16,1024]{1,0:T(8,128)(2,1)} parameter(0)
  %w = bf16[1024,256]{1,0:T(8,128)(2,1)} parameter(1)
  %copy.9 = s32[]{:T(128)} copy(%constant.0)
  %tuple.13 = (s32[]{:T(128)}, bf16[16,1024]{1,0:T(8,128)(2,1)S(1)}, bf16[1024,256]{1,0:T(8,128)(2,1)}, s32[]{:T(128)}) tuple(%copy.9, %x.1, %w, %bound)
  %while.9 = (s32[]{:T(128)}, bf16[16,1024]{1,0:T(8,128)(2,1)S(1)}, bf16[1024,256]{1,0:T(8,128)(2,1)}, s32[]{:T(128)}) while(%tuple.13), condition=%condition, body=%body
  ROOT %gte.8 = bf16[1024,256]{1,0:T(8,128)(2,1)} get-tuple-element(%while.9), index=2
}
"""  # noqa: E501


def tpu(start="0"):
    return FSDP.replace("START", start)


@pytest.mark.parametrize(("start", "turns"), [("0", 6), ("2", 4), ("6", 0), ("9", 0), ("-1", 7)])
def test_a_tpu_loop_turns_as_its_condition_says(start, turns):
    costs = count_costs(tpu(start))
    whole = 1024 * 1024 * 2
    assert costs.flops == turns * 2 * 2 * 16 * 1024 * 1024
    assert costs.collectives == [
        Collective("all-gather", whole, turns, "bf16[1024,1024]", "jit(grad)/while/body/dot_general"),
        Collective("reduce-scatter", whole, turns, "bf16[1024,1024]", "jit(grad)/transpose/dot_general"),
    ]
    assert costs.collective_bytes == {"all-gather": turns * whole, "reduce-scatter": turns * whole}


def test_a_known_trip_count_is_taken():
    known = tpu().replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"50"}}')
    assert count_costs(known).flops == 50 / 6 * count_costs(tpu()).flops


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("direction=LT", "direction=NE", "while.9: the trip count of the loop body"),
        (
            "s32[]{:T(128)} add(%gte.0, %constant.1)",
            "s32[]{:T(128)} add(%gte.0, %gte.0)",
            "while.9: the trip count",
        ),
        ("s32[]{:T(128)} constant(1)", "s32[]{:T(128)} constant(-1)", "while.9: the trip count"),
        ("copy(%constant.0)", "negate(%constant.0)", "while.9: the trip count"),
        ('"AsyncCollectiveStart"', '"SomethingElse"', "without its start"),
        ("ENTRY ", "", "no ENTRY computation"),
    ],
)
def test_text_that_cannot_be_read_is_refused(old, new, complaint):
    assert old in tpu()
    with pytest.raises(ValueError, match=complaint):
        count_costs(tpu().replace(old, new))


def entry(*lines):
    return "\n".join(["ENTRY %main (a: f32[]) -> f32[] {", *(f"  {line}" for line in lines), "}"])


@pytest.mark.parametrize(
    ("lhs", "rhs", "out", "attributes", "multiply_adds"),
    [
        # Of the gradient of an attention with 8 heads, 256 tokens and 64 features: batches are holes.
        (
            "8,256,64",
            "8,256,64",
            "8,256,256",
            "window={size=8 stride=7 lhs_dilate=8}, dim_labels=0bf_0oi->0bf",
            8 * 256 * 256 * 64,
        ),
        (
            "64,8,256",
            "8,256,256",
            "8,256,64",
            "window={size=8 stride=8 pad=7_7 lhs_dilate=7 rhs_reversal=1}, dim_labels=b0f_0oi->0fb",
            8 * 256 * 256 * 64,
        ),
        # Of a convolution of 5 positions, 3 taps and stride 3, the last of which falls off.
        ("1,5,1", "3,1,1", "1,2,1", "window={size=3 stride=3 pad=0_2}, dim_labels=b0f_0io->b0f", 5),
        # Of a convolution 3x3 with stride 2 of 32x32 pixels, and its two gradients.
        (
            "2,32,32,4",
            "3,3,4,8",
            "2,16,16,8",
            "window={size=3x3 stride=2x2 pad=0_1x0_1}, dim_labels=b01f_01io->b01f",
            2 * 47**2 * 32,
        ),
        (
            "2,16,16,8",
            "3,3,4,8",
            "2,32,32,4",
            "window={size=3x3 pad=2_1x2_1 lhs_dilate=2x2 rhs_reversal=1x1}, dim_labels=b01f_01oi->b01f",
            2 * 47**2 * 32,
        ),
        (
            "2,32,32,4",
            "2,16,16,8",
            "3,3,4,8",
            "window={size=16x16 pad=0_1x0_1 rhs_dilate=2x2}, dim_labels=f01b_i01o->01bf",
            2 * 47**2 * 32,
        ),
    ],
)
def test_holes_and_padding_do_not_count(lhs, rhs, out, attributes, multiply_adds):
    text = entry(
        f"%l = bf16[{lhs}]{{3,2,1,0:T(8,128)(2,1)S(1)}} parameter(0)",
        f"%r = bf16[{rhs}]{{3,2,1,0:T(8,128)(2,1)}} parameter(1)",
        f"ROOT %convolution.1 = bf16[{out}]{{3,2,1,0:T(8,128)(2,1)}} convolution(%l, %r), {attributes}",
    )
    assert count_costs(text).flops == 2 * multiply_adds


def kernel(label, target="tpu_custom_call", body=""):
    config = base64.b64encode(body.encode()).decode()
    return entry(
        "%s = bf16[8,4096,1024]{2,1,0:T(8,128)(2,1)} parameter(0)",
        "%v = bf16[8,1024,40]{2,1,0:T(8,128)(2,1)} parameter(1)",
        f"ROOT %{label} = bf16[8,4096,40]{{2,1,0:T(8,128)(2,1)}} custom-call(%s, %v), "
        f'custom_call_target="{target}", backend_config={{"custom_call_config":{{"body":"{config}"}}}}',
    )


def test_custom_calls_count_or_are_refused():
    assert count_costs(kernel("online-softmax.3", body="tpu.matmul")).flops == 2 * 8 * 4096 * 1024 * 40
    assert count_costs(kernel("sum", body="arith.addf")).flops == 0
    assert count_costs(kernel("buffer", target="AllocateBuffer")).flops == 0
    for hidden in (
        kernel("flash", body="tpu.matmul"),
        kernel("flash"),
        kernel("dot", target="__onednn$matmul"),
    ):
        with pytest.raises(ValueError, match="out of sight"):
            count_costs(hidden)


def test_asynchronous_pairs_count_once():
    text = """%wrapped (p: s8[4,64]) -> s8[4,64] {
  %p = s8[4,64]{1,0} parameter(0)
  ROOT %all-to-all.1 = s8[4,64]{1,0} all-to-all(%p), replica_groups={{0,1,2,3}}, dimensions={1}
}

""" + entry(
        "%a = bf16[256,64]{1,0:T(8,128)(2,1)} parameter(0)",
        "%b = f32[] parameter(1)",
        "%c = s8[4,64]{1,0} parameter(2)",
        "%ags = ((bf16[256,64]{1,0}, f32[]), (bf16[1024,64]{1,0}, f32[4]{0}), u32[]{:S(2)}) "
        "all-gather-start(%a, %b), dimensions={0}",
        "%agd = (bf16[1024,64]{1,0}, f32[4]{0}) all-gather-done(%ags)",
        "%cps = (bf16[256,64]{1,0:T(8,128)(2,1)}, bf16[256,64]{1,0:T(8,128)(2,1)S(1)}, u32[]{:S(2)}, "
        "/*index=3*/u32[]{:S(2)}) collective-permute-start(%a), source_target_pairs={{0,1}}",
        "%cpd = bf16[256,64]{1,0:T(8,128)(2,1)S(1)} collective-permute-done(%cps)",
        "%ars = (bf16[256,64]{1,0}, f32[]) all-reduce-start(%a, %b), to_apply=%add",
        "%ard = (bf16[256,64]{1,0}, f32[]) all-reduce-done(%ars)",
        "%as = ((s8[4,64]{1,0}), s8[4,64]{1,0}, s32[]) async-start(%c), calls=%wrapped",
        "%au = ((s8[4,64]{1,0}), s8[4,64]{1,0}, s32[]) async-update(%as), calls=%wrapped",
        "ROOT %ad = s8[4,64]{1,0} async-done(%au), calls=%wrapped",
    )
    costs = count_costs(text)
    assert costs.collective_bytes == {
        "all-gather": 4 * (256 * 64 * 2 + 4),
        "collective-permute": 256 * 64 * 2,
        "all-reduce": 256 * 64 * 2 + 4,
        "all-to-all": 4 * 64,
    }
    assert costs.collectives[0].shape == "bf16[1024,64], f32[4]"
