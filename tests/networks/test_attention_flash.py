"""Flash attention of TPUs: its numbers by jax's interpreter of kernels, its programs by a TPU's compiler."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from rats_jax.aot.chips import describe_machine
from rats_jax.aot.flops import count_flops
from rats_jax.networks.attention import attend
from rats_jax.networks.attention_flash import _choose_block, attend_flash
from rats_jax.parallel.mesh import AXES, make_mesh
from tests.tiny import mesh_sizes

ROOT = Path(__file__).parents[2]
LIBTPU = Path(sys.prefix) / "libtpu"  # where the Makefile puts it
NOTHING = contextlib.nullcontext()


def shapes(batch=1, length=1024, context=1024, heads=1, features=64, dtype=jnp.float32):
    """Describe query, key, value and the gradient of what is attended."""
    lengths = length, context, context, length
    return [jax.ShapeDtypeStruct((batch, n, heads, features), dtype) for n in lengths]


def draw(**sizes):
    keys = jax.random.split(jax.random.key(0), 4)
    return [jax.random.normal(key, x.shape, x.dtype) for key, x in zip(keys, shapes(**sizes), strict=True)]


def with_gradients(fn):
    """Give a function of query, key, value and the gradient of the result: the result and three gradients."""

    def run(*inputs):
        result, pull = jax.vjp(fn, *inputs[:3])
        return result, *pull(inputs[3])

    return run


def interpret(fn, *inputs, mesh=None):
    """Run kernels on a CPU, by jax's operations; its slower interpreter knows no kernel under a vmap."""
    with pltpu.force_tpu_interpret_mode(True), jax.set_mesh(mesh) if mesh else NOTHING:  # pyright: ignore[reportArgumentType]
        return jax.block_until_ready(jax.jit(fn)(*inputs))


@pytest.mark.parametrize(
    "sizes",
    [
        {"features": 128},
        {"batch": 2, "length": 1357, "context": 1100},
        {"length": 1100, "context": 1357, "dtype": jnp.bfloat16},
        {"features": 40, "context": 512},
        {"features": 80, "dtype": jnp.bfloat16, "length": 1100},
    ],
)
def test_values_and_gradients_are_those_of_the_scores(sizes):
    inputs = draw(**sizes)
    results = interpret(with_gradients(attend_flash), *inputs)
    exact = jax.jit(with_gradients(attend))(*(x.astype(jnp.float32) for x in inputs))
    plain = jax.jit(with_gradients(attend))(*inputs)
    for mine, wanted, others in zip(results, exact, plain, strict=True):
        assert mine.dtype == others.dtype and mine.shape == wanted.shape
        error, other = (np.sqrt(np.mean((x.astype(jnp.float32) - wanted) ** 2)) for x in (mine, others))
        # In bfloat16 not further away than what rounds its scores.
        assert error < (1e-6 if mine.dtype == jnp.float32 else 1.02 * other)


def test_a_stack_of_layers_on_a_mesh_is_that_of_one_device():
    mesh = make_mesh(mesh_sizes(data=2, fsdp=2, tensor=2))
    inputs = draw(batch=4, heads=2)

    def run(attend_fn):
        @jax.checkpoint
        def layer(x, _):
            return x + attend_fn(x, inputs[1], x), None

        return jax.grad(lambda x: jnp.sum(inputs[3] * jax.lax.scan(layer, x, length=2)[0]))

    mine = interpret(run(attend_flash), inputs[0], mesh=mesh)
    np.testing.assert_allclose(mine, jax.jit(run(attend))(inputs[0]), atol=2e-5)


@pytest.mark.parametrize(
    ("changes", "takes"),
    [
        ({}, True),
        ({"length": 1357, "context": 4096}, True),
        ({"features": 128, "dtype": jnp.bfloat16}, True),
        ({"features": 512}, True),
        ({"batch": 4, "heads": 2, "mesh": (2, 2, 2)}, True),
        ({"batch": 8, "heads": 3, "mesh": (1, 8, 1)}, True),
        ({"mask": True}, False),
        ({"length": 1023}, False),
        ({"context": 512}, True),
        ({"context": 255}, False),
        ({"features": 40}, True),
        ({"features": 80, "batch": 4, "heads": 2, "mesh": (2, 2, 2)}, True),
        ({"features": 640}, False),
        ({"batch": 6, "heads": 2, "mesh": (2, 2, 2)}, False),
        ({"batch": 4, "heads": 3, "mesh": (2, 2, 2)}, False),
        ({"batch": "b"}, False),
    ],
)
def test_the_kernel_takes_what_it_can(changes, takes):
    changes = dict(changes)
    mask = jnp.ones((1024, 1024), bool) if changes.pop("mask", False) else None
    mesh = changes.pop("mesh", None)
    if "b" in changes.values():
        (changes["batch"],) = jax.export.symbolic_shape("b")
    inputs = shapes(**changes)[:3]
    with jax.set_mesh(make_mesh(mesh_sizes(**dict(zip(AXES, mesh, strict=True))))) if mesh else NOTHING:
        programs = [jax.make_jaxpr(lambda *x, f=f: f(*x, mask))(*inputs) for f in (attend_flash, attend)]
    mine, plain = map(str, programs)
    assert (mine == plain) == (not takes)
    assert ("pallas_call" in mine) == takes and ("shard_map" in mine) == (takes and mesh is not None)


def test_blocks_pad_little_and_fit_into_fast_memory():
    lengths = [1024, 1357, 1536, 2304, 4096, 4429, 4608, 9216]
    assert [_choose_block(n, 2 * 128) for n in lengths] == [512, 768, 768, 768, 512, 640, 768, 768]
    sizes = 2 * 256, 4 * 256, 2 * 512, 4 * 512
    assert [_choose_block(4608, size) for size in sizes] == [768, 512, 512, 256]


def test_the_products_of_its_kernels_are_counted():
    one = 2 * 24 * 1536 * 1536 * 128
    inputs = shapes(length=1536, context=1536, heads=24, features=128)
    assert count_flops(attend_flash, *inputs[:3]) == 2 * one
    # Backward two kernels compute the scores and their gradient again: 3 and 4 products where 4 are needed.
    assert count_flops(with_gradients(attend_flash), *inputs) == pytest.approx(9 * one, rel=1e-3)


# One attention of FLUX at 512x512, and of Stable Diffusion 3 at 512x512 with 333 tokens of a prompt.
PROGRAM = """
import json, sys
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from rats_jax.aot.hlo import count_costs
from rats_jax.aot.trace import find_devices
from rats_jax.networks.attention_flash import attend_flash
from rats_jax.parallel.mesh import make_mesh

topology, sizes, shape = map(json.loads, sys.argv[1:])
mesh = make_mesh(sizes, find_devices(topology))
layout = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), None, "tensor"))
x = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=layout)

def run(query, key, value, gradient):
    result, pull = jax.vjp(attend_flash, query, key, value)
    return result, pull(gradient)

with jax.set_mesh(mesh):
    traced = jax.jit(run).trace(x, x, x, x)
compiled = traced.lower(lowering_platforms=("tpu",)).compile({"exec_time_optimization_effort": -1.0})
text = compiled.as_text()
print(json.dumps({
    "kernels": text.count('custom_call_target="tpu_custom_call"'),
    "scores": [n for n in (shape[1], 1536) if f"{n},{n}]" in text],
    "flops": count_costs(text).flops,
}))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("topology", "sizes", "shape"),
    [
        ("v5p:2x2x1", {"fsdp": 4}, (4, 1536, 24, 128)),
        ("v6e:2x2", {"fsdp": 2, "tensor": 2}, (2, 1357, 24, 64)),
    ],
)
def test_it_compiles_for_tpus_without_a_matrix_of_scores(topology, sizes, shape):
    environment = os.environ | describe_machine(topology.partition(":")[0])
    environment |= {"PYTHONPATH": f"{LIBTPU}{os.pathsep}{ROOT}"}
    environment.pop("XLA_FLAGS", None)
    arguments = [json.dumps(x) for x in (topology, mesh_sizes(**sizes), shape)]
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["kernels"] == 3 and report["scores"] == []
    batch, _, heads, features = shape
    assert report["flops"] == 9 * 2 * (batch * heads // 4) * 1536 * 1536 * features
