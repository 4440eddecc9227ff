"""Options of XLA by kind of device, each with its reason; XLA_FLAGS have the last word."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

GPU_OPTIONS: Mapping[str, Any] = {
    # The matrix products of cuBLAS are faster than XLA's own, 0.043 s and 0.056 s for an evaluation of FLUX
    # on an H100, and compiled four times as fast. With its own XLA (jaxlib 0.10.2) ends the compilation of
    # SDXL at 1024x1024, a picture at a time, after minutes: "Couldn't find output tile sizes", of the resize
    # before a reward.
    "xla_gpu_enable_triton_gemm": False,
    # Else XLA makes one product of layers that read the same, as queries, keys and values, or a layer and its
    # adapter: it copies their weights side by side for it and the results apart. By the programs for an H100
    # an update of SD1.5 moves 0.77 TB without and 0.80 with, of FLUX 6.3 and 6.5 (jax 0.12).
    "xla_gpu_dot_merger_threshold_mb": 0,
}


def compiler_options(device: Any) -> dict[str, Any]:
    """Give the options that programs are compiled with: all that the environment's XLA_FLAGS do not name.

    Args:
        device: of jax, real or of a topology that is only compiled for.
    """
    given = set(re.findall(r"--(\w+)", os.environ.get("XLA_FLAGS", "")))
    options = GPU_OPTIONS if device.platform == "gpu" else {}
    return {name: value for name, value in options.items() if name not in given}
