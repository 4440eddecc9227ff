"""Chips of TPUs that are not there; needs no jax, whose environment depends on it."""

from __future__ import annotations

from typing import NamedTuple


class Chip(NamedTuple):
    """A generation of TPUs, by what its maker publishes of a chip.

    Attributes:
        memory_bytes: of a chip.
        machine: that libtpu is told it runs on.
        flops: multiplications and additions a second of matrix products in bfloat16.
        memory_bandwidth: bytes a second between chip and memory.
        link_bandwidth: bytes a second between a chip and all its neighbours.

    Source: Google Cloud's documentation of TPU v4, v5e, v5p and v6e.
    """

    memory_bytes: int
    machine: str
    flops: float
    memory_bandwidth: float
    link_bandwidth: float


CHIPS = {
    "v4": Chip(32 * 10**9, "v4-8", 275e12, 1228e9, 300e9),
    "v5e": Chip(16 * 10**9, "v5litepod-4", 197e12, 819e9, 200e9),
    "v5p": Chip(95 * 10**9, "v5p-8", 459e12, 2765e9, 600e9),
    "v6e": Chip(32 * 10**9, "v6e-4", 918e12, 1638e9, 448e9),
}
"""By generation."""


def describe_machine(generation: str) -> dict[str, str]:
    """Give the environment in which libtpu compiles for a generation of TPUs where there is none."""
    return {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": CHIPS[generation].machine,
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # beside a run, or another compilation, on the same machine
    }


def estimate_seconds(
    chip: Chip, *, flops: float, weight_bytes: float, collective_bytes: float
) -> dict[str, float]:
    """Estimate the seconds of an update from what it does and what a chip is said to do at most.

    Nobody measured them: matrix products at the peak, weights read from memory once for each layer of each
    evaluation, and collectives at the peak of the links, each by itself. All at once an update takes at least
    the longest; published runs of such models reach 40 to 60 % of the peak of matrix products.

    Args:
        chip: the kind.
        flops: of a chip and update.
        weight_bytes: that a chip reads of weights.
        collective_bytes: that a chip sends or receives.

    Returns:
        Seconds of each, and `at_least`.
    """
    seconds = {
        "matrix_products": flops / chip.flops,
        "reading_weights": weight_bytes / chip.memory_bandwidth,
        "collectives": collective_bytes / chip.link_bandwidth,
    }
    return {name: round(value, 3) for name, value in (seconds | {"at_least": max(seconds.values())}).items()}
