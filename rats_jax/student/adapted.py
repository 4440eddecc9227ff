"""A student's adapters beside the weights that they adapt, where merging would round them away."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from rats_jax.networks.lora import Adapted, with_adapters
from rats_jax.pipelines.base import Pipeline
from rats_jax.types import Array, DenoiseFn, Params


def with_student_adapters(pipeline: Pipeline, adapters: Params, *, scale: float) -> Pipeline:
    """Let a pipeline draw with adapters, and leave its weights as they are.

    In bfloat16 a weight has eight bits: a merged kernel keeps nothing of what an adapter adds below half of a
    weight's last bit. Beside the weights, as in the training, nothing is lost.

    Args:
        pipeline: whose weights are kept in bfloat16.
        adapters: from `lora.init_adapters`, trained.
        scale: alpha / rank.

    Returns:
        The pipeline, whose network is `Adapted` now; its adapters hold the scale.
    """

    def guided_fn(guidance_scale: Array | float) -> DenoiseFn:
        return with_adapters(pipeline.guided_fn(guidance_scale), scale=1.0)

    def scaled(path: Any, leaf: np.ndarray) -> np.ndarray:
        return np.asarray(leaf) * np.float32(scale if path[-1].key == "up" else 1.0)

    network = Adapted(pipeline.network, jax.tree_util.tree_map_with_path(scaled, adapters))
    return dataclasses.replace(pipeline, network=network, guided_fn=guided_fn)


def without_effect(network: Adapted) -> Adapted:
    """Give the same weights with adapters that add nothing, for the programs that draw with adapters."""
    return network._replace(adapters=jax.tree.map(np.zeros_like, network.adapters))
