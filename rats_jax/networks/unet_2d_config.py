"""Config of a UNet: its fields, what they have to do with each other, and what each level is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rats_jax.fields import (
    MOST_PIXELS,
    Field,
    anything,
    expect,
    flag,
    integer,
    listed,
    number,
    one_of,
    only,
    optional,
    per_block,
    read_fields,
)

_ACTIVATION = one_of("silu", "swish", "mish", "gelu", "relu")
_SIDE = integer(1, most=MOST_PIXELS // 8)
_KERNEL = Field(3, lambda value: integer(3).holds(value) and value % 2 == 1, "an odd integer >= 1")
_DEPTH = integer(1, least=0, most=100)
_DOWN = one_of("CrossAttnDownBlock2D", "DownBlock2D")
_UP = one_of("CrossAttnUpBlock2D", "UpBlock2D")
_CROSS = "CrossAttn"

FIELDS: Mapping[str, Field] = {
    "sample_size": optional(per_block(_SIDE)),
    "in_channels": integer(4),
    "out_channels": integer(4),
    "center_input_sample": flag(False),
    "flip_sin_to_cos": flag(True),
    "freq_shift": number(0, positive=False),
    "down_block_types": listed(("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",), _DOWN),
    "mid_block_type": one_of("UNetMidBlock2DCrossAttn", "UNetMidBlock2D", None),
    "up_block_types": listed(("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3, _UP),
    "only_cross_attention": per_block(flag(False)),
    "block_out_channels": listed((320, 640, 1280, 1280), integer(1)),
    "layers_per_block": per_block(integer(2, most=100)),
    "downsample_padding": one_of(1, 0),
    "mid_block_scale_factor": number(1.0),
    "dropout": anything(0.0),
    "act_fn": _ACTIVATION,
    "norm_num_groups": integer(32),
    "norm_eps": number(1e-5),
    "cross_attention_dim": per_block(integer(1280)),
    "transformer_layers_per_block": per_block(per_block(_DEPTH)),
    "reverse_transformer_layers_per_block": optional(listed((), per_block(_DEPTH))),
    "encoder_hid_dim": only(None),
    "encoder_hid_dim_type": only(None),
    "attention_head_dim": per_block(integer(8)),
    "num_attention_heads": only(None),  # the PyTorch class takes no other value either
    "dual_cross_attention": only(False),
    "use_linear_projection": flag(False),
    "class_embed_type": only(None),
    "addition_embed_type": one_of(None, "text_time"),
    "addition_time_embed_dim": optional(integer(256, least=2)),
    "num_class_embeds": only(None),
    "upcast_attention": anything(False),  # about the range of float16; PyTorch's own kernels pass over it
    "resnet_time_scale_shift": one_of("default", "scale_shift"),
    "time_embedding_type": only("positional"),
    "time_embedding_dim": optional(integer(None)),
    "time_embedding_act_fn": optional(_ACTIVATION),
    "timestep_post_act": optional(_ACTIVATION),
    "time_cond_proj_dim": only(None),
    "conv_in_kernel": _KERNEL,
    "conv_out_kernel": _KERNEL,
    "projection_class_embeddings_input_dim": optional(integer(None)),
    "attention_type": only("default"),
    "class_embeddings_concat": only(False),
    # The next ones are about kinds of blocks and embeddings that are not here: any value means nothing.
    "resnet_skip_time_act": flag(False),
    "resnet_out_scale_factor": number(1.0),
    "mid_block_only_cross_attention": optional(flag(False)),
    "cross_attention_norm": anything(None),
    "addition_embed_type_num_heads": anything(64),
}
"""By name: all arguments of the PyTorch class."""

NUM_TIME_IDS = 6
"""Sizes and crops that SDXL is told."""

IGNORED = (
    *("dtype", "use_memory_efficient_attention", "split_head_dim"),  # the Flax class: how to compute
    # EMAModel of training scripts, whose folder `unet_ema` is used as `unet`: how the average was made.
    *("decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup"),
)
"""What others add that changes nothing."""


_PER_LEVEL = (
    "down_block_types",
    "up_block_types",
    "only_cross_attention",
    "layers_per_block",
    "cross_attention_dim",
    "attention_head_dim",
    "transformer_layers_per_block",
)


class Level(NamedTuple):
    """One level of resolution, on the way down or up.

    Attributes:
        features: channels of its result.
        num_heads: of its transformers.
        only_cross_attention: of its transformers.
        has_transformers: whether there are any.
        depths: [residual blocks] of its transformers; as long where there are none.
    """

    features: int
    num_heads: int
    only_cross_attention: bool
    has_transformers: bool
    depths: tuple[int, ...]


def read_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Read a config.json and check what its fields have to do with each other.

    Returns:
        A value for each of FIELDS; those that may differ from block to block have one for each, but there is
        one `cross_attention_dim`.

    Raises:
        ValueError: 'field=value: expected ...'.
    """
    given = read_fields(config, FIELDS, ignored=IGNORED)
    channels = given["block_out_channels"]
    values = dict(given)
    for name in _PER_LEVEL:
        if not isinstance(given[name], tuple):
            values[name] = (given[name],) * len(channels)
        as_many = f"{len(channels)} values, as many as in block_out_channels"
        expect(len(values[name]) == len(channels), name, given[name], as_many)
    _check_widths(values, given)
    _check_depths(values, given)
    _check_embeddings(values)
    return values | {"cross_attention_dim": _width_of_prompt(values)}


def levels_down(values: Mapping[str, Any]) -> tuple[Level, ...]:
    """Describe the levels in the order of the way down, from what `read_config` gave."""
    return _levels(values, values["down_block_types"], values["transformer_layers_per_block"], more_layers=0)


def levels_up(values: Mapping[str, Any]) -> tuple[Level, ...]:
    """Describe the levels in the order of the way up, the lowest first, from what `read_config` gave."""
    depths = values["reverse_transformer_layers_per_block"]
    depths = values["transformer_layers_per_block"] if depths is None else depths[::-1]
    return _levels(values, values["up_block_types"][::-1], depths, more_layers=1)[::-1]


def mid_depth(values: Mapping[str, Any]) -> int:
    """Give the number of blocks of the transformer in the middle."""
    depth = values["transformer_layers_per_block"][-1]
    return depth[0] if isinstance(depth, tuple) else depth


def _levels(
    values: Mapping[str, Any], types: tuple[str, ...], depths: tuple[Any, ...], *, more_layers: int
) -> tuple[Level, ...]:
    counts = (count + more_layers for count in values["layers_per_block"])
    columns = zip(
        values["block_out_channels"],
        values["attention_head_dim"],
        values["only_cross_attention"],
        (kind.startswith(_CROSS) for kind in types),
        (d if isinstance(d, tuple) else (d,) * count for d, count in zip(depths, counts, strict=True)),
        strict=True,
    )
    return tuple(Level(*column) for column in columns)


def _check_widths(values: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Check that groups and heads fit the channels of each level, and that a size has two sides."""
    channels, groups, heads = (
        values[name] for name in ("block_out_channels", "norm_num_groups", "attention_head_dim")
    )
    divided = all(width % groups == 0 for width in channels)
    expect(divided, "norm_num_groups", groups, f"a divisor of block_out_channels={channels!r}")
    fits = all(count <= width for count, width in zip(heads, channels, strict=True))
    expect(
        fits, "attention_head_dim", given["attention_head_dim"], f"no more than {channels!r}, the channels"
    )
    size = values["sample_size"]
    expect(not isinstance(size, tuple) or len(size) == 2, "sample_size", size, "height and width")


def _width_of_prompt(values: Mapping[str, Any]) -> int:
    """Find the features of a token: one number, because all blocks read the same prompt."""
    widths = values["cross_attention_dim"]
    reading = [
        any(kind.startswith(_CROSS) for kind in pair)
        for pair in zip(values["down_block_types"], values["up_block_types"][::-1], strict=True)
    ]
    reading[-1] |= values["mid_block_type"] == "UNetMidBlock2DCrossAttn"
    read = {width for width, reads in zip(widths, reading, strict=True) if reads} or {widths[-1]}
    expect(len(read) == 1, "cross_attention_dim", widths, "the same of all blocks that read the prompt")
    return read.pop()


def _check_depths(values: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Check lists in a list: a depth for each transformer of a level."""
    name, name_up = "transformer_layers_per_block", "reverse_transformer_layers_per_block"
    depths, depths_up, counts = values[name], values[name_up], values["layers_per_block"]
    nested = any(isinstance(depth, tuple) for depth in depths)
    if depths_up is None:
        expect(not nested, name, given[name], f"integers alone where {name_up} is null")
        return
    as_many = f"{len(counts)} values, as many as in block_out_channels"
    expect(len(depths_up) == len(counts), name_up, depths_up, as_many)
    for kind, each, wanted in ((name, depths, counts), (name_up, depths_up, [n + 1 for n in counts[::-1]])):
        fits = all(not isinstance(d, tuple) or len(d) >= n for d, n in zip(each, wanted, strict=True))
        expect(fits, kind, given[kind], f"a depth for each of the {tuple(wanted)!r} layers of the blocks")


def _check_embeddings(values: Mapping[str, Any]) -> None:
    """Check the widths of sinusoids, and that SDXL's embedding has all that it is made of."""
    half, shift = values["block_out_channels"][0] // 2, values["freq_shift"]
    expect(shift < half, "freq_shift", shift, f"less than half of block_out_channels[0], {half}")
    if values["addition_embed_type"] is None:
        return
    name, name_in = "addition_time_embed_dim", "projection_class_embeddings_input_dim"
    expect(values[name] is not None, name, None, "an integer where addition_embed_type is 'text_time'")
    expect(values[name_in] is not None, name_in, None, "an integer where addition_embed_type is 'text_time'")
    least, width = NUM_TIME_IDS * values[name], values[name_in]
    expect(width > least, name_in, width, f"more than {least}, {NUM_TIME_IDS} times {name}")
    half = values[name] // 2
    expect(shift < half, "freq_shift", shift, f"less than half of {name}, {half}")
