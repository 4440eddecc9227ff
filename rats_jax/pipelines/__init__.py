"""Pipelines: families of models as pure functions with weights, one file each, one line each in PIPELINES."""

from __future__ import annotations

from collections.abc import Mapping

from rats_jax.pipelines import flux, stable_diffusion, stable_diffusion_3, stable_diffusion_xl, wan
from rats_jax.pipelines.base import Family

PIPELINES: Mapping[str, Family] = {
    "StableDiffusionPipeline": stable_diffusion.FAMILY,
    "StableDiffusionXLPipeline": stable_diffusion_xl.FAMILY,
    "StableDiffusion3Pipeline": stable_diffusion_3.FAMILY,
    "FluxPipeline": flux.FAMILY,
    "WanPipeline": wan.FAMILY,
}
"""By the class that model_index.json names."""
