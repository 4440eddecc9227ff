"""Weights in 8 bits: what they are, what networks compute with them, and that no copy of them is kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from rats_jax.aot.flops import count_flops
from rats_jax.networks.int8 import SCALE, Int8Kernel, Int8Scale, quantize
from rats_jax.networks.lora import Adapted, init_adapters, with_adapters
from rats_jax.pipelines.open import Options, load_pipeline, open_pipeline
from rats_jax.types import PromptEmbeds
from rats_jax.weights.stored import StoredArray
from tests.networks.jaxprs import equations

SHAPES = {"linear": (300, 256), "stack": (3, 300, 256), "convolution": (3, 3, 40, 256)}


def read(leaf):
    """Read all of a leaf, whatever it is."""
    return np.asarray(leaf[(slice(None),) * len(leaf.shape)])


def draw(shape):
    kernel = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    kernel[..., 5] = 0.0
    kernel[..., 6] *= 1000.0
    return kernel


def dequantize(params):
    """Give weights in float32 back: kernel * scale, written out."""
    flat = {path: read(leaf) for path, leaf in flatten_dict(params).items()}
    for path in [path for path in flat if path[-1] == SCALE]:
        kernel, scale = (*path[:-1], "kernel"), flat.pop(path)
        flat[kernel] = flat[kernel] * (scale[:, None, :] if scale.ndim == 2 else scale)
    return unflatten_dict(flat)


@pytest.mark.parametrize("name", SHAPES)
def test_each_output_has_a_scale_and_is_kept_to_half_of_it(name):
    kernel = draw(SHAPES[name])
    params = {"block": {"kernel": kernel, "bias": np.ones(256, np.float32)}}
    quantized = quantize(params, params)["block"]
    assert quantized["bias"] is params["block"]["bias"]
    assert quantized["kernel"].dtype == np.int8 and quantized["kernel"].shape == kernel.shape
    scale = read(quantized[SCALE])
    error = np.abs(dequantize({"block": quantized})["block"]["kernel"] - kernel)
    limits = scale[:, None, :] if kernel.ndim == 3 else scale
    assert np.all(error <= 0.5001 * limits) and np.all(error[..., 5] == 0)
    integers = read(quantized["kernel"])
    assert np.abs(integers.astype(int)).max() == 127 and np.abs(integers[..., 7]).max() == 127


@pytest.mark.parametrize("name", SHAPES)
def test_parts_are_parts_of_the_whole_also_of_what_lies_in_a_file(name):
    kernel = draw(SHAPES[name])
    stored = StoredArray(kernel.T, tuple(reversed(range(kernel.ndim))))
    whole, scale = Int8Kernel(kernel), Int8Scale(kernel)
    part = tuple(slice(1, length // 2 + 1) for length in kernel.shape)
    np.testing.assert_array_equal(Int8Kernel(stored)[part], read(whole)[part])
    part = tuple(slice(1, length // 2 + 1) for length in scale.shape)
    np.testing.assert_array_equal(Int8Scale(stored)[part], read(scale)[part])


def test_small_kernels_those_outside_of_blocks_and_those_to_skip_stay():
    large, small = np.ones((128, 128), np.float32), np.ones((127, 128), np.float32)
    params = {
        "x_embedder": {"kernel": large},
        "blocks_0": {"a": {"kernel": large}, "b": {"kernel": small}, "norm": {"kernel": large}},
    }
    quantized = flatten_dict(quantize(params, params, skip="norm"), sep="/")
    assert [name for name, leaf in quantized.items() if leaf.dtype == np.int8] == ["blocks_0/a/kernel"]


def test_shapes_alone_are_told_as_weights_are(flux):
    network = flux.network
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), network)
    told, real = quantize(shapes, shapes), quantize(network, network)
    jax.tree.map(lambda t, r: np.testing.assert_equal((t.shape, t.dtype), (r.shape, r.dtype)), told, real)
    assert sum(leaf.dtype == np.int8 for leaf in jax.tree.leaves(told)) == 20


@pytest.fixture(scope="module")
def flux():
    return load_pipeline("assets/scenes/pipeline", options=Options(height=32, width=32))


@pytest.fixture(scope="module")
def unet():
    return load_pipeline("assets/emoji/pipeline")


def inputs_of(pipeline):
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(2, *pipeline.latent_shape)).astype(np.float32)
    embeds: PromptEmbeds = jax.jit(pipeline.encode_fn)(pipeline.text_encoder, pipeline.tokenize(["a", "b"]))
    return latents, jnp.float32(500), embeds


@pytest.mark.parametrize("family", ["unet", "flux"])
def test_a_network_computes_with_them_what_it_does_with_their_values(family, request):
    pipeline = request.getfixturevalue(family)
    quantized = jax.tree.map(read, quantize(pipeline.network, pipeline.network))
    adapters = init_adapters(pipeline.network, targets="to_q|conv1|net_2", rank=2, seed=0)
    adapters = jax.tree.map(lambda x: x + 0.05, adapters)
    adapted = with_adapters(pipeline.guided_fn(1.0), scale=0.5)
    latents, timestep, embeds = inputs_of(pipeline)

    @jax.jit
    def run(base):
        def loss(adapters, latents):
            outputs = adapted(Adapted(base, adapters), latents, timestep, embeds)
            return jnp.sum(jnp.sin(outputs)), outputs

        (_, outputs), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(adapters, latents)
        return outputs, gradients

    (outputs, gradients), (wanted, theirs) = run(quantized), run(dequantize(quantized))
    np.testing.assert_allclose(outputs, wanted, atol=1e-4 * np.std(wanted))
    for mine, original in zip(jax.tree.leaves(gradients), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(mine, original, atol=1e-3 * np.abs(original).max())
    # They are not what the network computes with its own weights, though near it.
    exact, _ = run(pipeline.network)
    assert 1e-4 < np.sqrt(np.mean((outputs - exact) ** 2)) / np.std(exact) < 0.05


def test_the_gradient_keeps_no_kernel_and_multiplies_no_more(flux):
    """A layer's kernel in the dtype of the computation is made where it is used, in every loop."""
    quantized = quantize(flux.network, flux.network)
    base, plain = (
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
        for tree in (quantized, flux.network)
    )
    adapters = init_adapters(flux.network, targets="to_q", rank=2, seed=0)
    adapted = with_adapters(flux.guided_fn(1.0), scale=0.5)
    latents, timestep, embeds = inputs_of(flux)

    def gradient(base, adapters):
        def loss(adapters):
            return jnp.sum(adapted(Adapted(base, adapters), latents, timestep, embeds))

        return jax.grad(loss)(adapters)

    stacked = {leaf.shape for leaf in jax.tree.leaves(base) if leaf.dtype == np.int8 and len(leaf.shape) == 3}
    program = jax.make_jaxpr(gradient)(base, adapters)
    kept = {v.aval.shape for e in equations(program) for v in e.outvars if v.aval.dtype == np.float32}
    assert stacked and not stacked & kept
    assert count_flops(gradient, base, adapters) == count_flops(gradient, plain, adapters)


def test_a_pipeline_that_is_still_in_its_files_is_quantized_as_one_that_was_read(flux):
    stored = open_pipeline("assets/scenes/pipeline", options=Options(height=32, width=32)).network
    path = ("transformer_blocks_0_to_1", "attn", "to_q")
    mine, right = (flatten_dict(quantize(tree, tree)) for tree in (stored, flux.network))
    for name in ("kernel", SCALE):
        np.testing.assert_array_equal(read(mine[*path, name]), read(right[*path, name]))
