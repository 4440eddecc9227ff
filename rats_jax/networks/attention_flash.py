"""Flash attention of TPUs: a kernel that keeps the scores on the chip, on one device or on a mesh.

The kernel is jax's splash attention, for which all tokens see all. Beside jax's older flash attention its
gradient reads two numbers a query instead of three rows of 128 or more, and a softmax is divided by its sum
once, not at each block.
"""

from __future__ import annotations

import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from rats_jax.networks.attention import attend
from rats_jax.types import Array

# With fewer, as at the lower levels of a UNet or the 77 tokens of a CLIP prompt, the scores are small, and
# what fills whole blocks is not.
_FEWEST_QUERIES, _FEWEST_KEYS = 1024, 256
# Tokens of a block, which the kernel takes in multiples of 128. The gradient of keys and values needs most
# memory on the chip, of which v4 gives a kernel 16 MiB: six blocks of D features (query, key, value, three
# gradients), each twice while the next one is fetched, two float32 sums of a block, and four float32 squares
# of scores. 768 tokens of 128 features take 12 * 0.19 + 2 * 0.38 + 4 * 2.25 = 12 MiB in bfloat16 and 14.3 in
# float32; 1024 would take 20. A head of 512 features, as an autoencoder has, takes 12 MiB with 512 tokens in
# bfloat16 and 8 with 256 in float32; with 512 the compiler asks for 18.4.
_BLOCKS = (768, 640, 512, 384, 256)
_BLOCK_BYTES = 2**19


def attend_flash(query: Array, key: Array, value: Array, mask: Array | None = None) -> Array:
    """Attend without a matrix of scores where the kernel of TPUs can, else as `attend`.

    It can without a mask, from 1024 queries and 256 keys on, with heads of up to 2048 bytes a token, and if
    the mesh in context (`jax.set_mesh`), if any, divides batch and heads: axes data and fsdp split the
    batch, tensor the heads. XLA cannot split a kernel by itself, so a program of several devices needs the
    mesh in context where it is traced.

    Args: as of `AttendFn`.

    Returns:
        [B, L, N, D] in the dtype of the inputs, differentiable in all three; scores and softmax are float32.

    Source: Dao et al., FlashAttention, arXiv 2205.14135, algorithms 1 and 4.
    """
    chex.assert_rank([query, key, value], 4)
    sizes = dict(jax.sharding.get_abstract_mesh().shape)
    if mask is not None or not _fits(query, key, sizes):
        return attend(query, key, value, mask)
    if math.prod(sizes.values()) == 1:
        return _attend(query, key, value)
    split = PartitionSpec(("data", "fsdp"), None, "tensor")
    return jax.shard_map(_attend, in_specs=split, out_specs=split, check_vma=False)(query, key, value)


def _fits(query: Array, key: Array, sizes: dict[Any, int]) -> bool:
    """Say whether the kernel takes such heads on a mesh of such sizes."""
    batch, length, heads, _ = query.shape
    ways = sizes.get("data", 1) * sizes.get("fsdp", 1)
    return (
        length >= _FEWEST_QUERIES
        and key.shape[1] >= _FEWEST_KEYS
        and min(_BLOCKS) * _fill(query.shape[-1]) * query.dtype.itemsize <= _BLOCK_BYTES
        # An exported program is for any batch and, as other kinds of devices run it too, without kernels.
        and isinstance(batch, int)
        and batch % ways == 0
        and heads % sizes.get("tensor", 1) == 0
    )


def _attend(query: Array, key: Array, value: Array) -> Array:
    """Attend on one device by the kernel.

    Keys up to a whole number of blocks are in a segment that no query reads. Queries up to there read what
    the others do, and are cut off, so that their gradient is zero.
    """
    # Here, because it takes a fifth of a second, which only TPUs have to spend.
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    batch, length, heads, features = query.shape
    filled = _fill(features)
    # The kernel does not scale. Rounding a scaled query costs less than what `attend` rounds off its scores.
    query = query * jnp.asarray(features**-0.5, query.dtype)
    query, key, value = (jnp.pad(x, ((0, 0),) * 3 + ((0, filled - features),)) for x in (query, key, value))
    size = filled * query.dtype.itemsize
    block_q, block_kv = (_choose_block(x.shape[1], size) for x in (query, key))
    rows = _to_rows(query, block_q), _to_rows(key, block_kv), _to_rows(value, block_kv)
    lengths = rows[0].shape[2], rows[1].shape[2]
    segments = None
    if lengths[1] > key.shape[1]:
        real = jnp.arange(lengths[1]) < key.shape[1]
        segments = splash.SegmentIds(jnp.ones(lengths[0], jnp.int32), real.astype(jnp.int32))
    kernel: Any = splash.make_splash_mha_single_device(
        splash.MultiHeadMask([splash.FullMask(lengths)]),
        block_sizes=splash.BlockSizes(
            block_q=block_q,
            block_kv=block_kv,
            block_q_dkv=block_q,
            block_kv_dkv=block_kv,
            block_q_dq=block_q,
            block_kv_dq=block_kv,
        ),
    )
    # Each head is an element of a batch, which the two cores of a chip of v4 or v5p share; of heads that the
    # kernel knows of they would share the forward pass alone.
    attended = jax.vmap(kernel, in_axes=(0, 0, 0, None))(*rows, segments)
    attended = attended.reshape(batch, heads, lengths[0], filled)
    return attended[:, :, :length, :features].swapaxes(1, 2)


def _fill(features: int) -> int:
    """Give the features of a head with zeros up to what jax's own tests run the kernel with on TPUs.

    A TPU keeps and multiplies 128 at a time, so that zeros cost little: SD1.5 has heads of 40 and 80.
    """
    return 64 if features <= 64 else -(-features // 128) * 128


def _choose_block(length: int, size: int) -> int:
    """Choose the tokens of a block, `size` bytes each: what pads least, and of these the most."""
    blocks = [block for block in _BLOCKS if block * size <= _BLOCK_BYTES]
    return min(blocks, key=lambda block: (-length % block, -block))


def _to_rows(x: Array, block: int) -> Array:
    """Lay out [B, L, N, D] head by head, with zeros up to whole blocks: [B * N, 1, L', D]."""
    padded = jnp.pad(x, ((0, 0), (0, -x.shape[1] % block), (0, 0), (0, 0)))
    return padded.swapaxes(1, 2).reshape(-1, 1, padded.shape[1], x.shape[-1])
