"""Options of XLA by kind of program and device, each with its reason; XLA_FLAGS have the last word."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any

TRANSFORMER_ON_GPU = (
    # Of a scanned transformer the matrix products of cuBLAS are faster than XLA's own, 0.043 s and 0.056 s
    # for an evaluation of FLUX on an H100, and compiled four times as fast.
    ("xla_gpu_enable_triton_gemm", False),
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
