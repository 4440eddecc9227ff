"""Options of XLA by kind of program and device, each with its reason; XLA_FLAGS have the last word."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any

_TRITON = "xla_gpu_enable_triton_gemm"

UNET_ON_GPU = (
    # With matrix products of its own XLA (jaxlib 0.10.2) ends the compilation of SDXL at 1024x1024, a picture
    # at a time, after minutes: "Couldn't find output tile sizes", of the resize before a reward.
    (_TRITON, False),
)
TRANSFORMER_ON_GPU = (
    # Of a scanned transformer the matrix products of cuBLAS are faster than XLA's own, 0.043 s and 0.056 s
    # for an evaluation of FLUX on an H100, and compiled four times as fast.
    (_TRITON, False),
    # Else XLA makes one product of a layer and of its adapter, which read the same, and copies the weights of
    # both side by side for it: 6.5 TB of an update of FLUX in place of 6.3, by its program (jax 0.12).
    ("xla_gpu_dot_merger_threshold_mb", 0),
)
"""Name and value of each."""


def choose_options(options: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Give the options that are compiled with: all that the environment's XLA_FLAGS do not name.

    Args:
        options: name and value of each.
    """
    given = set(re.findall(r"--(\w+)", os.environ.get("XLA_FLAGS", "")))
    return {name: value for name, value in options if name not in given}
