"""Adapters on a UNet: they change nothing at first, and then what merged weights would."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from rats_jax.networks.lora import Adapted, init_adapters, merge_adapters, with_adapters
from rats_jax.pipelines.open import load_pipeline
from rats_jax.types import PromptEmbeds

# Linear layers, a 1x1 and a 3x3 convolution.
TARGETS = "to_q|to_k|to_v|to_out_0|proj_in|resnets_0/conv1"
SCALE = 0.75


@pytest.fixture(scope="module")
def network(models):
    pipeline = load_pipeline(models / "pipeline")
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(2, 8, 8, 4)).astype(np.float32)
    embeds = rng.normal(size=(2, 8, 32)).astype(np.float32)
    return pipeline, (latents, jnp.int32(501), PromptEmbeds(embeds, embeds))


def draw(adapters):
    """Give `up` values too."""
    rng = np.random.default_rng(1)
    flat = flatten_dict(adapters)
    return unflatten_dict({k: 0.3 * rng.normal(size=v.shape).astype(np.float32) for k, v in flat.items()})


def merge(params, adapters):
    """Add the product of both parts to the weights: what adapters mean, written out."""
    merged = dict(flatten_dict(params))
    flat = flatten_dict(adapters)
    for path in {path[:-1] for path in flat}:
        down, up = flat[(*path, "down")], flat[(*path, "up")]
        merged[(*path, "kernel")] = merged[(*path, "kernel")] + SCALE * np.einsum("...ir,ro->...io", down, up)
    return unflatten_dict(merged)


def test_new_adapters_change_nothing_and_lie_where_they_were_asked_for(network):
    pipeline, inputs = network
    adapters = init_adapters(pipeline.network, targets=TARGETS, rank=3, seed=0)
    layers = {"/".join(path[:-1]) for path in flatten_dict(adapters)}
    kernels = {"/".join(path[:-1]) for path in flatten_dict(pipeline.network) if path[-1] == "kernel"}
    expected = {n for n in kernels if any(t in n for t in TARGETS.split("|"))}
    assert layers == expected and any("conv1" in n for n in layers) and any("to_q" in n for n in layers)
    adapted = jax.jit(with_adapters(pipeline.guided_fn(1.0), scale=SCALE))
    plain = jax.jit(pipeline.guided_fn(1.0))(pipeline.network, *inputs)
    np.testing.assert_array_equal(adapted(Adapted(pipeline.network, adapters), *inputs), plain)
    np.testing.assert_array_equal(adapted(Adapted(pipeline.network, {}), *inputs), plain)


def test_adapters_do_what_merged_weights_do(network):
    pipeline, inputs = network
    adapters = draw(init_adapters(pipeline.network, targets=TARGETS, rank=3, seed=0))
    adapted_fn = with_adapters(pipeline.guided_fn(1.0), scale=SCALE)
    actual = jax.jit(adapted_fn)(Adapted(pipeline.network, adapters), *inputs)
    expected = jax.jit(pipeline.guided_fn(1.0))(merge(pipeline.network, adapters), *inputs)
    np.testing.assert_allclose(actual, expected, atol=1e-4)
    plain = jax.jit(pipeline.guided_fn(1.0))(pipeline.network, *inputs)
    assert np.abs(np.asarray(actual - plain)).max() > 0.01


def test_weights_are_merged_as_adapters_mean_it(network):
    pipeline, _ = network
    adapters = draw(init_adapters(pipeline.network, targets=TARGETS, rank=3, seed=0))
    merged = merge_adapters(pipeline.network, adapters, scale=SCALE)
    chex.assert_trees_all_close(merged, merge(pipeline.network, adapters), rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal(merge_adapters(pipeline.network, {}, scale=SCALE), pipeline.network)


def test_gradients_are_those_of_merged_weights(network):
    pipeline, inputs = network
    adapters = draw(init_adapters(pipeline.network, targets=TARGETS, rank=3, seed=0))

    def loss(fn):
        return jnp.sum(jnp.sin(fn))

    adapted_fn = with_adapters(pipeline.guided_fn(1.0), scale=SCALE)
    actual = jax.jit(jax.grad(lambda a: loss(adapted_fn(Adapted(pipeline.network, a), *inputs))))(adapters)

    def merged_loss(adapters):
        flat, params = flatten_dict(adapters), dict(flatten_dict(pipeline.network))
        for path in {path[:-1] for path in flat}:
            delta = jnp.einsum("...ir,ro->...io", flat[(*path, "down")], flat[(*path, "up")])
            params[(*path, "kernel")] = params[(*path, "kernel")] + SCALE * delta
        return loss(pipeline.guided_fn(1.0)(unflatten_dict(params), *inputs))

    expected = jax.jit(jax.grad(merged_loss))(adapters)
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, atol=2e-3, rtol=1e-3), actual, expected)


def test_a_target_that_no_layer_matches_is_refused(network):
    pipeline, _ = network
    with pytest.raises(ValueError, match="targets='to_nowhere': expected an expression that a layer"):
        init_adapters(pipeline.network, targets="to_nowhere", rank=3, seed=0)
