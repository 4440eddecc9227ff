"""Guidance: its closed form, its special scales, one evaluation, and samples that stay on their device."""

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rats_jax.diffusion.guidance import guide, guided, with_guidance
from rats_jax.networks.layers import match_batch
from rats_jax.types import PromptEmbeds

SHAPE = (3, 2, 2, 2)


def outputs(seed):
    return np.random.default_rng(seed).normal(size=(2, *SHAPE)).astype(np.float32)


def toy_denoise_fn(params, latents, timestep, embeds):
    """Depends on each sample's own embeds, a pytree as SDXL has it, and on the timestep."""
    latents, _ = match_batch(latents, embeds["pooled"])
    scale = jnp.mean(embeds["tokens"], axis=(1, 2)) + embeds["pooled"][:, 0]
    return params * jnp.tanh(latents) * scale[:, None, None, None] + 0.01 * timestep


def toy_arguments(batch=3):
    rng = np.random.default_rng(7)

    def embeds():
        return {
            "tokens": jnp.asarray(rng.normal(size=(batch, 4, 5)), jnp.float32),
            "pooled": jnp.asarray(rng.normal(size=(batch, 2)), jnp.float32),
        }

    latents = jnp.asarray(rng.normal(size=(batch, *SHAPE[1:])), jnp.float32)
    return jnp.float32(1.3), latents, jnp.int32(11), PromptEmbeds(cond=embeds(), uncond=embeds())


@pytest.mark.parametrize("jit", [False, True])
def test_guide_matches_a_slow_loop(jit):
    cond, uncond = outputs(0)
    expected = np.empty_like(cond)
    for index in np.ndindex(cond.shape):
        expected[index] = uncond[index] + 7.5 * (cond[index] - uncond[index])
    function = jax.jit(guide) if jit else guide
    chex.assert_trees_all_close(function(cond, uncond, 7.5), expected, rtol=1e-5, atol=1e-5)


@hypothesis.given(seed=st.integers(0, 2**31 - 1), scale=st.floats(0, 15))
@hypothesis.settings(deadline=None, max_examples=20)
def test_guide_is_a_line_through_both_models(seed, scale):
    cond, uncond = outputs(seed)
    chex.assert_trees_all_close(guide(cond, uncond, 1.0), cond, atol=1e-5)
    chex.assert_trees_all_close(guide(cond, uncond, 0.0), uncond)
    chex.assert_trees_all_close(guide(cond, cond, scale), cond)
    # Swapping the models mirrors the scale about 1/2.
    chex.assert_trees_all_close(guide(cond, uncond, scale), guide(uncond, cond, 1 - scale), atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 8), (3, 4, 2), (3, 1, 2, 2, 2)])
def test_samples_of_any_rank_are_guided_alike(shape):
    params, latents, timestep, _ = toy_arguments()
    embeds = PromptEmbeds(cond=jnp.array([1.0, 2.0, 3.0]), uncond=jnp.array([0.5, -1.0, 0.1]))

    def elementwise_fn(params, latents, timestep, embeds):
        latents, _ = match_batch(latents, embeds)
        return params * jnp.tanh(latents) * embeds.reshape(-1, *(1,) * (latents.ndim - 1)) + timestep

    function = guided(elementwise_fn, guidance_scale=4.0)
    expected = function(params, latents, timestep, embeds)
    actual = function(params, latents.reshape(shape), timestep, embeds)
    chex.assert_trees_all_close(actual.reshape(expected.shape), expected, rtol=1e-5)
    assert actual.shape == shape


def test_gradients_are_those_of_finite_differences():
    cond, uncond = (jnp.asarray(x) for x in outputs(1))
    chex.assert_numerical_grads(
        jax.jit(lambda c, u: jnp.sum(jnp.sin(guide(c, u, 3.0)))),
        (cond, uncond),
        order=1,
        atol=1e-2,
        rtol=1e-2,
    )


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("scale", [0.0, 3.0, 7.5])
def test_with_guidance_is_two_evaluations_combined(scale, jit):
    params, latents, timestep, embeds = toy_arguments()
    cond = toy_denoise_fn(params, latents, timestep, embeds.cond)
    uncond = toy_denoise_fn(params, latents, timestep, embeds.uncond)
    function = with_guidance(toy_denoise_fn, guidance_scale=scale)
    actual = (jax.jit(function) if jit else function)(params, latents, timestep, embeds)
    chex.assert_trees_all_close(actual, uncond + scale * (cond - uncond), rtol=1e-5, atol=1e-5)


def test_the_scale_may_be_known_only_when_it_runs():
    params, latents, timestep, embeds = toy_arguments()

    @jax.jit
    def draw(scale):
        return guided(toy_denoise_fn, guidance_scale=scale)(params, latents, timestep, embeds)

    for scale in (1.0, 2.0, 7.5):
        expected = guided(toy_denoise_fn, guidance_scale=scale)(params, latents, timestep, embeds)
        chex.assert_trees_all_close(draw(jnp.float32(scale)), expected, rtol=1e-5, atol=1e-5)


def test_scale_one_is_exactly_the_conditional_model():
    params, latents, timestep, embeds = toy_arguments()
    actual = with_guidance(toy_denoise_fn, guidance_scale=1.0)(params, latents, timestep, embeds)
    chex.assert_trees_all_equal(actual, toy_denoise_fn(params, latents, timestep, embeds.cond))


@pytest.mark.parametrize(("scale", "batch_sizes"), [(1.0, [3]), (4.0, [6])])
def test_the_network_is_evaluated_once(scale, batch_sizes):
    seen = []

    def counting_fn(params, latents, timestep, embeds):
        seen.append(embeds["pooled"].shape[0])
        assert latents.shape[0] == 3
        chex.assert_tree_shape_prefix(embeds, tuple(seen))
        return toy_denoise_fn(params, latents, timestep, embeds)

    with_guidance(counting_fn, guidance_scale=scale)(*toy_arguments())
    assert seen == batch_sizes


def test_permuting_the_batch_permutes_the_output():
    params, latents, timestep, embeds = toy_arguments()
    order = np.array([2, 0, 1])
    function = with_guidance(toy_denoise_fn, guidance_scale=5.0)
    permuted = function(params, latents[order], timestep, jax.tree.map(lambda x: x[order], embeds))
    chex.assert_trees_all_close(permuted, function(params, latents, timestep, embeds)[order])


def test_embeds_of_different_structure_are_rejected():
    params, latents, timestep, embeds = toy_arguments()
    embeds = PromptEmbeds(cond=embeds.cond, uncond={"tokens": embeds.uncond["tokens"]})
    with pytest.raises(AssertionError):
        with_guidance(toy_denoise_fn, guidance_scale=5.0)(params, latents, timestep, embeds)


def test_a_sharded_batch_is_guided_without_moving_samples():
    num_devices = jax.device_count()
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    over_batch = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    params, latents, timestep, embeds = toy_arguments(batch=num_devices)
    latents, embeds = jax.device_put((latents, embeds), over_batch)
    function = jax.jit(with_guidance(toy_denoise_fn, guidance_scale=5.0), out_shardings=over_batch)
    program = function.lower(params, latents, timestep, embeds).compile().as_text()
    for collective in ("all-gather", "all-to-all", "collective-permute", "all-reduce"):
        assert collective not in program
