"""Kernels of a device: what attention, convolutions and group norms are computed with on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rats_jax.networks.attention import AttendFn, attend, attend_cudnn, attend_in_columns
from rats_jax.networks.attention_flash import attend_flash
from rats_jax.networks.convolution import ConvolveFn, convolve, convolve_in_loops
from rats_jax.networks.group_norm import GroupNormFn, group_norm, group_norm_by_products


@dataclass(frozen=True)
class Kernels:
    """A choice of kernels, an attribute of every module; the default is right on every device.

    Attributes:
        attend: attention.
        convolve: two-dimensional convolution.
        group_norm: normalisation of groups of channels.
    """

    attend: AttendFn = attend
    convolve: ConvolveFn = convolve
    group_norm: GroupNormFn = group_norm


PLAIN = Kernels()
"""XLA's own on every device."""


def find_kernels(device: Any) -> Kernels:
    """Choose the kernels of a device.

    Args:
        device: of jax, real or of a topology that is only compiled for.

    Returns:
        cuDNN's flash attention on NVIDIA's GPUs from Ampere on; flash attention of TPUs there; on processors
        attention with scores in columns, convolutions whose gradients are fast inside loops and group norms
        by products; else PLAIN.
    """
    if device.platform == "cpu":
        return Kernels(attend_in_columns, convolve_in_loops, group_norm_by_products)
    if device.platform == "gpu" and _has_flash(device):
        return Kernels(attend=attend_cudnn)
    if device.platform == "tpu":
        return Kernels(attend=attend_flash)
    return PLAIN


def _has_flash(device: Any) -> bool:
    """Tell whether a GPU, real or only compiled for, is NVIDIA's, from Ampere on."""
    is_cuda = "cuda" in device.client.platform_version or device.device_kind.startswith("NVIDIA")
    return is_cuda and float(device.compute_capability) >= 8.0
