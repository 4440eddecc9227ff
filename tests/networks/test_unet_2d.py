"""The UNet against PyTorch's: every argument of the original is computed as it computes it, or refused."""

import dataclasses
import functools

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict

from rats_jax.aot.flops import count_flops
from rats_jax.networks.lora import Adapted, init_adapters, variables, with_adapters
from rats_jax.networks.unet_2d import UNet2DConditionModel
from rats_jax.networks.unet_2d_config import FIELDS
from tests import tiny
from tests.networks.parity import (
    Recorder,
    assert_refused,
    assert_walks_all,
    assert_weight_gradients,
    compile_quickly,
    from_torch,
    make_original,
    to_torch,
    weights_of,
)
from tests.torch_pipelines import UNETS

CROSS_DOWN, CROSS_UP, DOWN, UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D", "DownBlock2D", "UpBlock2D"
BASE = {
    "block_out_channels": [32, 64],
    "down_block_types": [CROSS_DOWN] * 2,
    "up_block_types": [CROSS_UP] * 2,
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "cross_attention_dim": 24,
}
XL = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 20 + 6 * 8,
}
NESTED = {"transformer_layers_per_block": [1, [2]], "reverse_transformer_layers_per_block": [[2, 1], 1]}


def changes(name, value, **more):
    """A value that PyTorch computes something else with than with the default, and so do we."""
    return name, {name: value} | more, True


def same(name, value, **more):
    """A value that changes nothing in PyTorch, nor here."""
    return name, {name: value} | more, False


COMPUTED = [
    same("sample_size", 16),
    same("sample_size", [8, 16]),
    changes("in_channels", 5),
    changes("out_channels", 3),
    changes("center_input_sample", True),
    changes("flip_sin_to_cos", False),
    changes("freq_shift", 1),
    changes("down_block_types", [DOWN, CROSS_DOWN]),
    changes("mid_block_type", None),
    changes("mid_block_type", "UNetMidBlock2D"),
    changes("up_block_types", [UP, CROSS_UP]),
    changes("only_cross_attention", [True, False], cross_attention_dim=64, block_out_channels=[64, 64]),
    changes("only_cross_attention", True),
    changes("block_out_channels", [64, 32]),
    changes("block_out_channels", [32, 32, 64], down_block_types=[DOWN] * 3, up_block_types=[UP] * 3),
    changes("layers_per_block", 2),
    changes("layers_per_block", [1, 2]),
    changes("downsample_padding", 0),
    changes("mid_block_scale_factor", 2),
    same("dropout", 0.5),
    changes("act_fn", "gelu"),
    changes("act_fn", "mish"),
    changes("act_fn", "relu"),
    same("act_fn", "swish"),
    changes("norm_num_groups", 16),
    changes("norm_eps", 0.1),
    changes("norm_eps", 1e-3),
    changes("cross_attention_dim", 40),
    changes(
        "cross_attention_dim", [16, 40], down_block_types=[DOWN, CROSS_DOWN], up_block_types=[CROSS_UP, UP]
    ),
    changes("transformer_layers_per_block", 2),
    changes("transformer_layers_per_block", [2, 1]),
    changes("transformer_layers_per_block", [0, 1]),
    ("transformer_layers_per_block", NESTED, True),
    ("reverse_transformer_layers_per_block", NESTED, True),
    changes("reverse_transformer_layers_per_block", [1, 2]),
    changes("attention_head_dim", 4),
    changes("attention_head_dim", [2, 4]),
    changes("attention_head_dim", [4, 2]),
    changes("attention_head_dim", 5),  # heads of 6 and 12 features, and projections to 30 and 60
    same("use_linear_projection", True),  # the same numbers in a convolution of 1 x 1
    changes("use_linear_projection", True, attention_head_dim=5),
    ("addition_embed_type", XL, True),
    ("addition_time_embed_dim", XL | {"flip_sin_to_cos": False, "freq_shift": 1, "act_fn": "gelu"}, True),
    same("addition_time_embed_dim", 8),
    ("projection_class_embeddings_input_dim", XL, True),
    same("projection_class_embeddings_input_dim", 100),
    same("upcast_attention", True),
    same("upcast_attention", None),  # of the published SDXL
    same("use_linear_projection", None),
    changes("resnet_time_scale_shift", "scale_shift"),
    same("resnet_skip_time_act", True),
    same("resnet_out_scale_factor", 2.0),
    changes("time_embedding_dim", 48),
    changes("time_embedding_act_fn", "silu"),
    changes("time_embedding_act_fn", "gelu"),
    changes("timestep_post_act", "silu"),
    changes("timestep_post_act", "mish"),
    changes("conv_in_kernel", 5),
    changes("conv_out_kernel", 1),
    same("mid_block_only_cross_attention", True),
    same("cross_attention_norm", "layer_norm"),
    same("addition_embed_type_num_heads", 32),
]
REFUSED = [
    ("sample_size", {"sample_size": [8, 8, 8]}),
    ("down_block_types", {"down_block_types": ["AttnDownBlock2D", DOWN]}),
    ("down_block_types", {"down_block_types": [CROSS_DOWN]}),
    ("mid_block_type", {"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}),
    ("up_block_types", {"up_block_types": ["ResnetUpsampleBlock2D", UP]}),
    ("up_block_types", {"up_block_types": [CROSS_UP] * 3}),
    ("only_cross_attention", {"only_cross_attention": [True]}),
    ("layers_per_block", {"layers_per_block": 0}),
    ("layers_per_block", {"layers_per_block": [1, 1, 1]}),
    ("downsample_padding", {"downsample_padding": 2}),
    ("mid_block_scale_factor", {"mid_block_scale_factor": 0}),
    ("act_fn", {"act_fn": "tanh"}),
    ("norm_num_groups", {"norm_num_groups": None}),
    ("norm_num_groups", {"norm_num_groups": 24}),
    ("norm_eps", {"norm_eps": "small"}),
    ("cross_attention_dim", {"cross_attention_dim": [24, 40]}),
    ("cross_attention_dim", {"cross_attention_dim": [24, 40], "down_block_types": [CROSS_DOWN, DOWN]}),
    ("transformer_layers_per_block", {"transformer_layers_per_block": [1, 2, 3]}),
    ("transformer_layers_per_block", {"transformer_layers_per_block": [1, (2, 1)]}),
    ("reverse_transformer_layers_per_block", {"reverse_transformer_layers_per_block": [(1,), 1]}),
    ("encoder_hid_dim", {"encoder_hid_dim": 64}),
    ("encoder_hid_dim_type", {"encoder_hid_dim_type": "text_proj"}),
    ("attention_head_dim", {"attention_head_dim": 64}),
    ("attention_head_dim", {"attention_head_dim": [2, 2, 2]}),
    ("num_attention_heads", {"num_attention_heads": 4}),
    ("dual_cross_attention", {"dual_cross_attention": True}),
    ("class_embed_type", {"class_embed_type": "timestep"}),
    ("addition_embed_type", {"addition_embed_type": "text"}),
    ("addition_time_embed_dim", XL | {"addition_time_embed_dim": None}),
    ("projection_class_embeddings_input_dim", XL | {"projection_class_embeddings_input_dim": None}),
    ("projection_class_embeddings_input_dim", XL | {"projection_class_embeddings_input_dim": 48}),
    ("num_class_embeds", {"num_class_embeds": 10}),
    ("resnet_time_scale_shift", {"resnet_time_scale_shift": "spatial"}),
    ("time_embedding_type", {"time_embedding_type": "fourier"}),
    ("time_cond_proj_dim", {"time_cond_proj_dim": 256}),
    ("conv_in_kernel", {"conv_in_kernel": 4}),
    ("attention_type", {"attention_type": "gated"}),
    ("class_embeddings_concat", {"class_embeddings_concat": True}),
    ("freq_shift", {"freq_shift": 16}),
    ("freq_shift", XL | {"freq_shift": 4}),
    ("block_out_channels", {"block_out_channels": []}),
    ("a_field_of_tomorrow", {"a_field_of_tomorrow": 1}),
]


def draw_inputs(config, *, height=8, width=8, tokens=5):
    """Latents, timesteps, tokens and, for SDXL, a pooled embedding and sizes."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    dim = config["cross_attention_dim"]
    dim = dim if isinstance(dim, int) else dim[-1]
    inputs = (
        normal(2, height, width, config.get("in_channels", 4)),
        np.array([501, 20]),
        normal(2, tokens, dim),
    )
    if config.get("addition_embed_type") is None:
        return inputs
    width = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
    return *inputs, normal(2, width), np.array([[64, 48, 0, 3, 64, 32]] * 2, np.float32)


def run_original(original, latents, timesteps, tokens, pooled=None, time_ids=None):
    added = None if pooled is None else {"text_embeds": to_torch(pooled), "time_ids": to_torch(time_ids)}
    arrays = (x if isinstance(x, torch.Tensor) else to_torch(x) for x in (latents, timesteps, tokens))
    return original(*arrays, added_cond_kwargs=added).sample


def make_pair(config, **options):
    """The original, our network and its weights."""
    original = make_original(diffusers.UNet2DConditionModel, config)
    network = UNet2DConditionModel.from_config(config, **options)
    return original, network, weights_of(original, network)


@functools.cache
def default_output():
    with torch.no_grad():
        return from_torch(
            run_original(make_original(diffusers.UNet2DConditionModel, BASE), *draw_inputs(BASE))
        )


def assert_as_original(config, **sizes):
    original, network, params = make_pair(config)
    inputs = draw_inputs(config, **sizes)
    with torch.no_grad():
        wanted = from_torch(run_original(original, *inputs))
    # Not compiled as a whole: most cases share all operations, and those are compiled once.
    actual = network.apply({"params": params}, *inputs)
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, wanted, atol=1e-4)
    return wanted


def test_the_table_has_every_argument_of_the_original():
    assert_walks_all(
        [*COMPUTED, *(case for case in REFUSED if case[0] in FIELDS)], FIELDS, diffusers.UNet2DConditionModel
    )


@pytest.mark.parametrize(("name", "config", "differs"), COMPUTED)
def test_what_is_accepted_is_computed(name, config, differs):
    wanted, default = assert_as_original(BASE | config), default_output()
    unlike = wanted.shape != default.shape or np.abs(wanted - default).max() > 1e-3
    assert unlike == differs


@pytest.mark.parametrize(("name", "config"), REFUSED)
def test_what_is_not_computed_is_refused(name, config):
    assert_refused(UNet2DConditionModel.from_config, BASE | config, name)


def test_what_says_how_to_compute_or_nothing_is_no_matter():
    more = {"_class_name": "UNet2DConditionModel", "split_head_dim": True, "a_field_of_tomorrow": None}
    more |= diffusers.training_utils.EMAModel([torch.nn.Parameter(torch.zeros(1))]).state_dict()
    del more["shadow_params"]  # which `save_pretrained` leaves out, too
    assert UNet2DConditionModel.from_config(BASE | more) == UNet2DConditionModel.from_config(BASE)


@pytest.mark.parametrize(("padding", "height", "width"), [(1, 6, 10), (1, 7, 5), (0, 9, 8)])
def test_latents_of_any_size(padding, height, width):
    blocks = {"down_block_types": [DOWN, CROSS_DOWN], "up_block_types": [CROSS_UP, UP]}
    assert_as_original(BASE | blocks | {"downsample_padding": padding}, height=height, width=width)


@pytest.mark.parametrize(
    ("config", "share"),
    [
        ({}, 0.97),
        ({"resnet_time_scale_shift": "scale_shift"}, 0.97),
        ({"only_cross_attention": True}, 0.98),  # the first block reads the prompt at once
        ({"down_block_types": [DOWN, DOWN], "up_block_types": [UP, UP]}, 0.9),
        (XL, 0.99),  # the time knows the prompt
    ],
)
def test_what_comes_before_the_prompt_is_computed_once_for_several_prompts(config, share):
    config = BASE | config
    network = UNet2DConditionModel.from_config(config)
    params = tiny.random_params(network.abstract_params(), seed=0)
    latents, timesteps, *prompts = draw_inputs(config)
    latents, timesteps = latents[:1], timesteps[:1]
    if len(prompts) > 1:
        prompts[1][1] += 1.0

    def predict(params, *inputs):
        return network.apply({"params": params}, *inputs)

    twice = [np.repeat(x, 2, axis=0) for x in (latents, timesteps)]
    wanted, actual = predict(params, *twice, *prompts), predict(params, latents, timesteps, *prompts)
    assert np.abs(wanted[0] - wanted[1]).max() > 1e-3
    np.testing.assert_allclose(actual, wanted, atol=1e-5)
    with pytest.raises(AssertionError, match="divisible"):
        predict(params, *twice, *(x[:1] for x in prompts))
    once = count_flops(predict, params, latents, timesteps, *prompts)
    assert once < share * count_flops(predict, params, *twice, *prompts)


def test_one_timestep_counts_for_all():
    network = UNet2DConditionModel.from_config(BASE)
    params = tiny.random_params(network.abstract_params(), seed=0)
    latents, _, tokens = draw_inputs(BASE)
    one, two = (
        network.apply({"params": params}, latents, t, tokens) for t in (jnp.int32(7), jnp.array([7, 7]))
    )
    np.testing.assert_array_equal(one, two)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sd1", "sdxl"])  # XL covers 2.x: linear projections, heads by block
def test_gradients_are_those_of_the_original(kind):
    original, network, params = make_pair(UNETS[kind])
    latents, *others = draw_inputs(UNETS[kind])
    weights = np.random.default_rng(1).normal(size=latents.shape).astype(np.float32)
    nchw = to_torch(latents).double().requires_grad_()
    exact = [x.astype(np.float64) if x.dtype == np.float32 else x for x in others]
    output = run_original(original.double(), nchw, *exact)
    torch.sum(output * to_torch(weights)).backward()

    def total(params, latents, network):
        output = network.apply({"params": params}, latents, *others)
        return jnp.sum(output * weights), output

    take = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True), static_argnames="network")
    (_, found), (of_params, of_latents) = take(params, latents, network=network)
    np.testing.assert_allclose(found, from_torch(output), atol=1e-4)
    np.testing.assert_allclose(of_latents, from_torch(nchw.grad), atol=1e-4, rtol=1e-4)
    assert_weight_gradients(original, network, of_params)

    # Eight bits of mantissa: outputs are off by 1.4 to 1.8 %, gradients by 2.3 to 2.7 %.
    half = dataclasses.replace(network, dtype=jnp.bfloat16)
    (_, rounded), (_, rounded_gradient) = take(params, latents, network=half)
    assert rounded.dtype == jnp.bfloat16
    for mine, exact, tolerance in ((rounded, found, 0.03), (rounded_gradient, of_latents, 0.04)):
        error = np.linalg.norm(np.asarray(mine, np.float32) - exact) / np.linalg.norm(exact)
        assert 0 < error < tolerance, error


def test_attention_and_convolutions_go_through_the_kernels():
    recorder, config = Recorder(), BASE | XL | {"upcast_attention": True}
    network = UNet2DConditionModel.from_config(config, dtype=jnp.bfloat16, kernels=recorder.kernels)
    params = network.abstract_params()
    recorder.attended.clear(), recorder.convolved.clear()
    program = jax.make_jaxpr(network.apply)({"params": params}, *draw_inputs(config))
    dtype = jnp.bfloat16  # what asks for float32 is about the range of float16
    high, low = (2, 64, 2, 16), (2, 16, 2, 32)
    levels = [high, low, low, low, low, high, high]  # down, middle, up
    assert recorder.attended == [
        (level, context, dtype, dtype) for level in levels for context in (level, (2, 5, *level[2:]))
    ]
    kernels = [leaf for path, leaf in flatten_dict(params).items() if path[-1] == "kernel" and leaf.ndim == 4]
    assert sorted(shape for shape, _, _ in recorder.convolved) == sorted(leaf.shape for leaf in kernels)
    assert [s for _, s, _ in recorder.convolved if s != (1, 1)] == [(2, 2)]
    assert {dtype for _, _, dtype in recorder.convolved} == {jnp.dtype(jnp.bfloat16)}
    text = str(program)
    assert text.count("conv_general_dilated[") == len(kernels)
    assert program.out_avals[0].dtype == jnp.bfloat16


def test_sinusoids_are_float32_whatever_the_dtype():
    network = UNet2DConditionModel.from_config(BASE, dtype=jnp.bfloat16)
    latents, _, tokens = draw_inputs(BASE)
    variables = {"params": network.abstract_params()}
    program = str(jax.make_jaxpr(network.apply)(variables, latents, jnp.int32(3), tokens))
    waves = [line for line in program.splitlines() if " = cos " in line or " = sin " in line]
    assert len(waves) == 2 and all(":f32[2,16]" in line for line in waves)


@pytest.mark.slow
def test_every_layer_with_a_kernel_can_be_adapted():
    config = BASE | {"use_linear_projection": True}
    network = UNet2DConditionModel.from_config(config)
    params = tiny.random_params(network.abstract_params(), seed=0)
    adapters = init_adapters(params, targets="", rank=2, seed=0)
    inputs = draw_inputs(config)

    def denoise_fn(params, latents, timestep, tokens):
        return network.apply(variables(params), latents, timestep, tokens)

    adapted_fn = with_adapters(denoise_fn, scale=0.5)

    def total(adapters):
        output = adapted_fn(Adapted(params, adapters), *inputs)
        return jnp.sum(output), output

    take = compile_quickly(jax.grad(total, has_aux=True), adapters)
    gradients, output = take(adapters)
    np.testing.assert_allclose(output, denoise_fn(params, *inputs), atol=1e-5)
    moved = {
        path for path, leaf in flatten_dict(gradients).items() if path[-1] == "up" and np.abs(leaf).max() > 0
    }
    kernels = {path[:-1] for path in flatten_dict(params) if path[-1] == "kernel"}
    assert {path[:-1] for path in moved} == kernels
