"""GPUs as XLA is told of them, so that it compiles for one that is not there."""

from __future__ import annotations

from typing import NamedTuple

from rats_jax.errors import expect


class Card(NamedTuple):
    """A GPU's multiprocessors, by which XLA and cuDNN choose kernels.

    Attributes:
        title: as the driver names it.
        capability: of CUDA, major and minor.
        cores: multiprocessors.
        lanes: of a multiprocessor, for float32.
        threads: that a multiprocessor holds.
        shared_bytes: of a multiprocessor.
        cache_bytes: of the level 2.
        clock: its fastest, GHz.

    Sources: `xla/backends/gpu/target_config/specs` of OpenXLA, and NVIDIA's CUDA programming guide, table of
    compute capabilities, and data sheets for those that are not there.
    """

    title: str
    capability: tuple[int, int]
    cores: int
    lanes: int
    threads: int
    shared_bytes: int
    cache_bytes: int
    clock: float


_KIB, _MIB = 2**10, 2**20
CARDS = {
    "rtx3090": Card("NVIDIA GeForce RTX 3090", (8, 6), 82, 128, 1536, 100 * _KIB, 6 * _MIB, 1.695),
    "rtx4090": Card("NVIDIA GeForce RTX 4090", (8, 9), 128, 128, 1536, 100 * _KIB, 72 * _MIB, 2.52),
    "rtx5090": Card("NVIDIA GeForce RTX 5090", (12, 0), 170, 128, 1536, 100 * _KIB, 96 * _MIB, 2.407),
    "a6000": Card("NVIDIA RTX A6000", (8, 6), 84, 128, 1536, 100 * _KIB, 6 * _MIB, 1.8),
    "l4": Card("NVIDIA L4", (8, 9), 58, 128, 1536, 100 * _KIB, 48 * _MIB, 2.04),
    "l40s": Card("NVIDIA L40S", (8, 9), 142, 128, 1536, 100 * _KIB, 96 * _MIB, 2.52),
    "a100_40": Card("NVIDIA A100-SXM4-40GB", (8, 0), 108, 64, 2048, 164 * _KIB, 40 * _MIB, 1.41),
    "a100": Card("NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 2048, 164 * _KIB, 40 * _MIB, 1.41),
    "h100": Card("NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 2048, 228 * _KIB, 50 * _MIB, 1.98),
    "h200": Card("NVIDIA H200", (9, 0), 132, 128, 2048, 228 * _KIB, 50 * _MIB, 1.98),
    "b200": Card("NVIDIA B200", (10, 0), 148, 128, 2048, 228 * _KIB, 126 * _MIB, 1.965),
}
"""By the name that a topology begins with."""
_TEXT = """
platform_name: "CUDA"
device_description_str: "{card.title}"
dnn_version_info {{ major: 9 minor: 10 }}
gpu_device_info {{
  cuda_compute_capability {{ major: {card.capability[0]} minor: {card.capability[1]} }}
  core_count: {card.cores}
  fpus_per_core: {card.lanes}
  threads_per_core_limit: {card.threads}
  shared_memory_per_core: {card.shared_bytes}
  shared_memory_per_block_optin: {block_bytes}
  l2_cache_size: {card.cache_bytes}
  clock_rate_ghz: {card.clock}
  device_memory_size: {memory_bytes}
  memory_bandwidth: {bandwidth}
  threads_per_warp: 32
  threads_per_block_limit: 1024
  shared_memory_per_block: 49152
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
}}
"""


def describe_card(card: Card, *, memory_bytes: int, bandwidth: float) -> str:
    """Write XLA's description of a GPU, a GpuTargetConfigProto as text.

    Args:
        card: the kind.
        memory_bytes: that it has.
        bandwidth: bytes a second between it and its memory.
    """
    block_bytes = card.shared_bytes - _KIB  # CUDA keeps 1 KiB of each block
    return _TEXT.format(
        card=card, block_bytes=block_bytes, memory_bytes=memory_bytes, bandwidth=int(bandwidth)
    )


def parse_count(topology: str) -> tuple[int, int]:
    """Read how many GPUs a topology has: 'h100' is one, 'h100:8' a machine of eight, 'h100:2x8' two of them.

    Returns:
        Machines, and GPUs of each.

    Raises:
        ConfigError: it is written in another way.
    """
    _, _, counts = topology.partition(":")
    parts = counts.split("x") if counts else ["1"]
    holds = len(parts) <= 2 and all(part.isdecimal() and int(part) > 0 for part in parts)
    expect(holds, "topology", topology, "GPU, GPU:NUMBER or GPU:MACHINESxNUMBER, as h100:8")
    machines, each = (["1", *parts])[-2:]
    return int(machines), int(each)
