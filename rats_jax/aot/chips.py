"""Chips that are not there: TPUs and NVIDIA's GPUs; needs no jax, whose environment depends on it."""

from __future__ import annotations

from typing import NamedTuple

from rats_jax.parallel.environment import GPU_MEMORY_SHARE


class Chip(NamedTuple):
    """A generation of TPUs or a GPU, by what its maker publishes of a chip.

    Attributes:
        platform: 'tpu' or 'gpu', as jax calls it.
        memory_bytes: of a chip.
        flops: multiplications and additions a second of matrix products in bfloat16, summed in float32.
        memory_bandwidth: bytes a second between chip and memory.
        link_bandwidth: bytes a second between a chip and all its neighbours, in both directions.
        machine: that libtpu is told it runs on; '' of a GPU.

    Sources: Google Cloud's documentation of TPU v4, v5e, v5p and v6e; NVIDIA's data sheets and white papers
    of its architectures Ampere, Ada, Hopper and Blackwell.
    """

    platform: str
    memory_bytes: int
    flops: float
    memory_bandwidth: float
    link_bandwidth: float
    machine: str = ""

    @property
    def usable_bytes(self) -> int:
        """Bytes that a run's programs and arrays have: of a GPU, CUDA and cuDNN keep the rest."""
        return round(self.memory_bytes * (GPU_MEMORY_SHARE if self.platform == "gpu" else 1.0))


def _gpu(gigabytes: int, flops: float, memory_bandwidth: float, link_bandwidth: float) -> Chip:
    return Chip("gpu", gigabytes * 10**9, flops, memory_bandwidth, link_bandwidth)


_PCIE_4, _PCIE_5 = 64e9, 128e9
CHIPS = {
    "v4": Chip("tpu", 32 * 10**9, 275e12, 1228e9, 300e9, "v4-8"),
    "v5e": Chip("tpu", 16 * 10**9, 197e12, 819e9, 200e9, "v5litepod-4"),
    "v5p": Chip("tpu", 95 * 10**9, 459e12, 2765e9, 600e9, "v5p-8"),
    "v6e": Chip("tpu", 32 * 10**9, 918e12, 1638e9, 448e9, "v6e-4"),
    "rtx3090": _gpu(24, 71e12, 936e9, _PCIE_4),
    "rtx4090": _gpu(24, 165.2e12, 1008e9, _PCIE_4),
    "rtx5090": _gpu(32, 209.5e12, 1792e9, _PCIE_5),
    "a6000": _gpu(48, 154.8e12, 768e9, _PCIE_4),
    "l4": _gpu(24, 121e12, 300e9, _PCIE_4),
    "l40s": _gpu(48, 362e12, 864e9, _PCIE_4),
    "a100_40": _gpu(40, 312e12, 1555e9, 600e9),
    "a100": _gpu(80, 312e12, 2039e9, 600e9),
    "h100": _gpu(80, 989e12, 3352e9, 900e9),
    "h200": _gpu(141, 989e12, 4800e9, 900e9),
    "b200": _gpu(180, 2250e12, 7672e9, 1800e9),
}
"""By generation of TPUs and by name of GPUs."""


def describe_machine(name: str) -> dict[str, str]:
    """Give the environment in which a chip of `CHIPS` is compiled for where there is none."""
    if CHIPS[name].platform == "gpu":
        return {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2"}  # else its compiler tells what it does
    return {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": CHIPS[name].machine,
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # beside a run, or another compilation, on the same machine
    }


def estimate_seconds(
    chip: Chip, *, flops: float, weight_bytes: float, collective_bytes: float, moved_bytes: float = 0.0
) -> dict[str, float]:
    """Estimate the seconds of an update from what it does and what a chip is said to do at most.

    Nobody measured them: matrix products at the peak, weights read from memory once for each layer of each
    evaluation, all that moves through memory, and collectives at the peak of the links, each by itself. All
    at once an update takes at least the longest; published runs of such models reach 40 to 60 % of the peak
    of matrix products.

    Args:
        chip: the kind.
        flops: of a chip and update.
        weight_bytes: that a chip reads of weights.
        collective_bytes: that a chip sends or receives.
        moved_bytes: that its kernels read and write, weights among them; 0 where nobody counted.

    Returns:
        Seconds of each, and `at_least`.
    """
    seconds = {
        "matrix_products": flops / chip.flops,
        "reading_weights": weight_bytes / chip.memory_bandwidth,
        "collectives": collective_bytes / chip.link_bandwidth,
    }
    if moved_bytes:
        seconds["memory"] = moved_bytes / chip.memory_bandwidth
    return {name: round(value, 3) for name, value in (seconds | {"at_least": max(seconds.values())}).items()}
