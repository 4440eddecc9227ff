"""Classifier-free guidance: a network with a prompt, steered away from itself without one."""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp

from rats_jax.types import Array, DenoiseFn, Params, PromptEmbeds


def guide(cond_output: Array, uncond_output: Array, guidance_scale: Array | float) -> Array:
    """Extrapolate from the unconditional to the conditional output.

    guided = uncond + guidance_scale * (cond - uncond); scale 1 is the conditional model, 0 the unconditional.

    Args:
        cond_output: the output with the prompt, [B, ...] float32.
        uncond_output: the output without it, the same shape.
        guidance_scale: scalar, usually 1 to 15.

    Returns:
        The guided model_output, [B, ...] float32, differentiable in both outputs.

    Source: Ho and Salimans, Classifier-Free Diffusion Guidance, arXiv 2207.12598, eq. 6, where its w is
        guidance_scale - 1.
    """
    chex.assert_equal_shape([cond_output, uncond_output])
    chex.assert_rank(guidance_scale, 0)
    return uncond_output + guidance_scale * (cond_output - uncond_output)


def with_guidance(denoise_fn: DenoiseFn, guidance_scale: Array | float) -> DenoiseFn:
    """Turn a network into one that reads PromptEmbeds and applies guidance, or none at a scale of exactly 1.

    Args:
        denoise_fn: (params, latents [B, ...], timestep [], embeds) -> model_output [R * B, ...], with embeds
            a pytree of [R * B, ...]; R is 2 under guidance.
        guidance_scale: a number, or a traced scalar, which is compared with 1 when the program runs.

    Returns:
        `conditional` or `guided`.
    """
    without, steered = conditional(denoise_fn), guided(denoise_fn, guidance_scale=guidance_scale)
    if isinstance(guidance_scale, int | float):
        return without if guidance_scale == 1.0 else steered

    def chosen_fn(*inputs: Any) -> Array:
        return jax.lax.cond(guidance_scale == 1.0, without, steered, *inputs)

    return chosen_fn


def conditional(denoise_fn: DenoiseFn) -> DenoiseFn:
    """Let a network read PromptEmbeds without guidance: one evaluation a step, on `cond` alone."""

    def conditional_fn(params: Params, latents: Array, timestep: Array, embeds: PromptEmbeds) -> Array:
        return denoise_fn(params, latents, timestep, embeds.cond)

    return conditional_fn


def guided(denoise_fn: DenoiseFn, *, guidance_scale: Array | float) -> DenoiseFn:
    """Let a network read PromptEmbeds and apply guidance: one evaluation a step, of two prompts a sample.

    Args:
        denoise_fn: (params, latents [B, ...], timestep [], embeds) -> model_output [2 * B, ...], with embeds
            a pytree of [2 * B, ...] in which uncond and cond of a sample lie side by side.
        guidance_scale: scalar, which may be traced.

    Returns:
        A function of the same signature whose embeds are PromptEmbeds; differentiable wherever denoise_fn is.

    Source: Ho and Salimans, arXiv 2207.12598, algorithm 2.
    """

    def guided_fn(params: Params, latents: Array, timestep: Array, embeds: PromptEmbeds) -> Array:
        chex.assert_trees_all_equal_structs(embeds.uncond, embeds.cond)
        both = jax.tree.map(_interleave, embeds.uncond, embeds.cond)
        both_outputs = denoise_fn(params, latents, timestep, both)
        outputs = both_outputs.reshape((latents.shape[0], 2) + both_outputs.shape[1:])
        return guide(outputs[:, 1], outputs[:, 0], guidance_scale)

    return guided_fn


def _interleave(uncond: Array, cond: Array) -> Array:
    """Merge two batches as u0 c0 u1 c1 ...: a batch sharded over devices then stays where it is.

    Concatenation would put all of `uncond` on the first half of the devices and move every sample twice.
    """
    chex.assert_equal_shape([uncond, cond])
    return jnp.stack([uncond, cond], axis=1).reshape((2 * uncond.shape[0],) + uncond.shape[1:])
