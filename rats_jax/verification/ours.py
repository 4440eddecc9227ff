"""Pipeline of this package on the inputs of a verification, one network in memory at a time."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.diffusion.rollout import rollout
from rats_jax.diffusion.sampler import SAMPLERS
from rats_jax.parallel.compiler import compiler_options
from rats_jax.pipelines.base import Pipeline
from rats_jax.types import Array, Params, PromptEmbeds
from rats_jax.verification.inputs import NUM_STEPS, PROMPTS, Inputs, NotifyFn, Outputs, first_row


def run_pipeline(
    pipeline: Pipeline, inputs: Inputs, embeds: PromptEmbeds, *, dtype: Any, notify: NotifyFn
) -> Outputs:
    """Compute all that is compared.

    Args:
        pipeline: opened, its networks computing in `dtype`; each of its weights is read when it is needed,
            and dropped.
        inputs: for both sides.
        embeds: of PROMPTS by PyTorch's text encoders, which the network is compared on.
        dtype: that weights are kept in.
        notify: is told each part.

    Raises:
        WeightsError: a weight that is not finite.
    """
    kinds = {
        name: jax.tree.map(lambda _: dtype, getattr(pipeline, name)) for name in ("text_encoder", "decoder")
    }
    # On GPUs and TPUs products of float32 are rounded otherwise.
    with jax.default_matmul_precision("highest" if np.dtype(dtype) == np.float32 else "default"):
        notify("text encoders of rats_jax")
        own = _encode(pipeline, _place(pipeline.text_encoder, kinds["text_encoder"]))
        notify(f"{pipeline.network_name} of rats_jax")
        levels, latents = _denoise(
            pipeline, _place(pipeline.network, pipeline.network_dtypes(dtype)), inputs, embeds, own
        )
        notify("decoder of rats_jax")
        decoder = _place(pipeline.decoder, kinds["decoder"])
        decode = jax.jit(pipeline.decode_fn)
        decoded = np.asarray(decode(decoder, inputs.decoded))
        images = np.clip(np.asarray(decode(decoder, latents)), 0.0, 1.0)
    return Outputs(own, levels, decoded, images)


def _place(tree: Params, dtypes: Any) -> Params:
    """Read weights onto the first device, the largest first: while one is read, it is there twice."""
    leaves, structure = jax.tree.flatten(tree)
    kinds, placed = jax.tree.leaves(dtypes), [None] * len(leaves)
    for i in sorted(range(len(leaves)), key=lambda i: -leaves[i].size):
        placed[i] = jax.device_put(np.asarray(leaves[i].astype(kinds[i])))
    return jax.tree.unflatten(structure, placed)


def _encode(pipeline: Pipeline, params: Params) -> PromptEmbeds:
    embeds = jax.jit(pipeline.encode_fn)(params, pipeline.tokenize(list(PROMPTS)))
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), embeds)


def _denoise(
    pipeline: Pipeline, params: Params, inputs: Inputs, embeds: PromptEmbeds, own: PromptEmbeds
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Evaluate the network at each level, and sample: the outputs, and the latents of the sample."""
    options = compiler_options(jax.devices()[0])
    evaluate = jax.jit(pipeline.guided_fn(network_scale(pipeline)), compiler_options=options)
    kind = np.float32 if inputs.flow else np.int32
    levels = [
        np.asarray(evaluate(params, inputs.latents, kind(timestep), first_row(embeds)))
        for timestep in inputs.timesteps
    ]
    grid, sampler = pipeline.grid_fn(NUM_STEPS, inputs.timestep_spacing), SAMPLERS["ddim"]

    def sample(params: Params, noise: Array, embeds: PromptEmbeds) -> Array:
        return rollout(
            pipeline.guided_fn(inputs.guidance_scale),
            params,
            noise,
            embeds,
            grid=grid,
            prediction_type=pipeline.prediction_type,
            step_fn=sampler.step,
            correction=sampler.correction(grid),
            gradient_steps=NUM_STEPS,
            remat="none",
            unroll=False,
            keep=np.array([NUM_STEPS - 1]),
        ).latents

    noise = jnp.asarray(inputs.latents)
    latents = jax.jit(sample, compiler_options=options)(params, noise, first_row(own))
    return tuple(levels), np.asarray(latents)


def network_scale(pipeline: Pipeline) -> float:
    """Give the guidance scale of one evaluation: the one that a network is told, or 1, which is none."""
    return pipeline.guidance_scale if pipeline.evaluations(pipeline.guidance_scale) == 1 else 1.0
