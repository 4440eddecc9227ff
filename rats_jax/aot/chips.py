"""Chips of TPUs that are not there; needs no jax, whose environment depends on it."""

from __future__ import annotations

CHIPS = {
    # generation: memory of a chip in bytes, and the machine that libtpu is told it runs on
    "v4": (32 * 10**9, "v4-8"),
    "v5e": (16 * 10**9, "v5litepod-4"),
    "v5p": (95 * 10**9, "v5p-8"),
    "v6e": (32 * 10**9, "v6e-4"),
}


def describe_machine(generation: str) -> dict[str, str]:
    """Give the environment in which libtpu compiles for a generation of TPUs where there is none."""
    return {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": CHIPS[generation][1],
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # beside a run, or another compilation, on the same machine
    }
