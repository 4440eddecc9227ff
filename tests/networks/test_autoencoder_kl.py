"""The autoencoder against PyTorch's: every argument of the original is computed as there, or refused."""

import functools

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict

from rats_jax.networks.autoencoder_kl import FIELDS, AutoencoderKL
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
from tests.networks.test_unet_2d import changes, same

BASE = {
    "block_out_channels": [32, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
}
COMPUTED = [
    changes("in_channels", 4),
    changes("out_channels", 1),
    ("block_out_channels", {k: v[:1] for k, v in BASE.items()}, True),
    ("down_block_types", BASE, False),
    ("up_block_types", BASE, False),
    changes("layers_per_block", 2),
    changes("act_fn", "gelu"),
    changes("act_fn", "mish"),
    changes("latent_channels", 16),
    changes("norm_num_groups", 16),
    same("sample_size", [64, 32]),
    same("scaling_factor", 0.5),
    same("shift_factor", 0.1),
    same("force_upcast", False),
    changes("use_quant_conv", False),
    changes("use_post_quant_conv", False),
    changes("mid_block_add_attention", False),
]
REFUSED = [
    ("down_block_types", {"down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]}),
    ("down_block_types", {"down_block_types": ["DownEncoderBlock2D"]}),
    ("up_block_types", {"up_block_types": ["UpDecoderBlock2D", "AttnUpDecoderBlock2D"]}),
    ("up_block_types", {"up_block_types": ["UpDecoderBlock2D"] * 3}),
    ("act_fn", {"act_fn": "tanh"}),
    ("norm_num_groups", {"norm_num_groups": 24}),
    ("sample_size", {"sample_size": [8, 8, 8]}),
    ("scaling_factor", {"scaling_factor": None}),
    ("latents_mean", {"latents_mean": [-1.6574, 1.886, -1.383, 2.5155]}),
    ("latents_std", {"latents_std": [8.4927, 5.9022, 6.5498, 5.2299]}),
    ("a_field_of_tomorrow", {"a_field_of_tomorrow": 1}),
]


def draw_inputs(config, *, height=8, width=8):
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (2, height, width, config.get("in_channels", 3))).astype(np.float32)
    return images, rng.normal(size=(2, 4, 6, config.get("latent_channels", 4))).astype(np.float32)


def run_original(original, images, latents):
    posterior = original.encode(to_torch(images)).latent_dist
    return posterior.mean, posterior.logvar, original.decode(to_torch(latents)).sample


def run(network):
    def apply(params, images, latents):
        moments = network.apply({"params": params}, images, method=network.encode)
        return *moments, network.apply({"params": params}, latents, method=network.decode)

    return apply


@functools.cache
def default_outputs():
    with torch.no_grad():
        original = make_original(diffusers.AutoencoderKL, BASE)
        return [from_torch(x) for x in run_original(original, *draw_inputs(BASE))]


def assert_as_original(config, **sizes):
    original = make_original(diffusers.AutoencoderKL, config)
    network, inputs = AutoencoderKL.from_config(config), draw_inputs(config, **sizes)
    with torch.no_grad():
        wanted = [from_torch(x) for x in run_original(original, *inputs)]
    params = weights_of(original, network)
    actual = compile_quickly(run(network), params, *inputs)(params, *inputs)
    for mine, theirs in zip(actual, wanted, strict=True):
        assert mine.dtype == jnp.float32
        np.testing.assert_allclose(mine, theirs, atol=1e-4)
    return wanted


def test_the_table_has_every_argument_of_the_original():
    cases = [*COMPUTED, *(case for case in REFUSED if case[0] in FIELDS)]
    assert_walks_all(cases, FIELDS, diffusers.AutoencoderKL)


@pytest.mark.parametrize(("name", "config", "differs"), COMPUTED)
def test_what_is_accepted_is_computed(name, config, differs):
    pairs = zip(assert_as_original(BASE | config), default_outputs(), strict=True)
    assert differs == any(x.shape != y.shape or np.abs(x - y).max() > 1e-3 for x, y in pairs)


@pytest.mark.parametrize(("name", "config"), REFUSED)
def test_what_is_not_computed_is_refused(name, config):
    assert_refused(AutoencoderKL.from_config, BASE | config, name)


def test_pictures_whose_sides_are_odd():
    assert_as_original(BASE, height=9, width=14)


def test_logarithms_of_variances_are_clipped():
    config = BASE | {"use_quant_conv": False}
    network = AutoencoderKL.from_config(config)
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), network.abstract_params())
    params["encoder"]["conv_out"]["bias"] = jnp.array([-40.0, 40.0] * 4)
    mean, logarithm = network.apply({"params": params}, draw_inputs(config)[0], method=network.encode)
    assert set(np.unique(mean)) == {-40.0, 40.0} and set(np.unique(logarithm)) == {-30.0, 20.0}


@pytest.mark.slow
def test_gradients_are_those_of_the_original():
    original = make_original(diffusers.AutoencoderKL, BASE)
    network = AutoencoderKL.from_config(BASE)
    params, (images, latents) = weights_of(original, network), draw_inputs(BASE)

    def total(params, images, latents):
        return sum(jnp.sum(jnp.sin(x)) for x in run(network)(params, images, latents))

    of_params, of_images, of_latents = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(params, images, latents)
    nchw = [to_torch(x).double().requires_grad_() for x in (images, latents)]
    posterior = original.double().encode(nchw[0]).latent_dist
    outputs = posterior.mean, posterior.logvar, original.decode(nchw[1]).sample
    sum(torch.sum(torch.sin(x)) for x in outputs).backward()
    np.testing.assert_allclose(of_images, from_torch(nchw[0].grad), atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(of_latents, from_torch(nchw[1].grad), atol=1e-4, rtol=1e-4)
    assert_weight_gradients(original, network, of_params)


def test_attention_and_convolutions_go_through_the_kernels():
    recorder = Recorder()
    network = AutoencoderKL.from_config(BASE, dtype=jnp.bfloat16, kernels=recorder.kernels)
    params, (images, latents) = network.abstract_params(), draw_inputs(BASE)
    recorder.attended.clear(), recorder.convolved.clear()
    program = jax.make_jaxpr(run(network))(params, images, latents)
    dtype = jnp.bfloat16
    coded, decoded = ((2, n, 1, 64) for n in (16, 24))
    assert recorder.attended == [(coded, coded, dtype, dtype), (decoded, decoded, dtype, dtype)]
    kernels = [leaf.shape for path, leaf in flatten_dict(params).items() if path[-1] == "kernel"]
    kernels = sorted(shape for shape in kernels if len(shape) == 4)
    assert sorted(shape for shape, _, _ in recorder.convolved) == kernels
    assert str(program).count("conv_general_dilated[") == len(kernels)
    assert {value.dtype for value in program.out_avals} == {jnp.dtype(dtype)}
