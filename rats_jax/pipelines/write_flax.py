"""Writing of a pipeline as a folder of the Flax classes that diffusers had until 0.39, and transformers 4.

The Flax classes read some fields of the PyTorch classes and drop the others without a word, so that a folder
with another value would open and draw something else. What is written is therefore what they compute: every
field has a rule here, or the value at which it changes nothing.

Source: diffusers 0.39, models/unets/unet_2d_condition_flax.py, models/vae_flax.py,
schedulers/scheduling_ddim_flax.py, pipelines/pipeline_flax_utils.py; transformers 4.57,
models/clip/modeling_flax_clip.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flax.serialization import to_bytes

from rats_jax.diffusion.grid import make_grid
from rats_jax.diffusion.scheduler_config import as_ddim
from rats_jax.errors import expect
from rats_jax.fields import Field, anything, flag, integer, listed, number, one_of, optional, per_block
from rats_jax.fields import expect as expect_field
from rats_jax.networks import autoencoder_kl, unet_2d_config
from rats_jax.networks.clip_text import TEXT_FIELDS
from rats_jax.pipelines.base import Parts, read_field
from rats_jax.pipelines.write import copy_tokenizers, kept_index
from rats_jax.types import Params
from rats_jax.weights.folder import naming_file, read_json, write_json
from rats_jax.weights.hub import get_file
from rats_jax.weights.naming import unstack_params

_SCHEDULER = "scheduler/scheduler_config.json"


@dataclass(frozen=True)
class _FlaxClass:
    """A network class of Flax beside the one of PyTorch.

    Attributes:
        name: of the Flax class.
        file: of its weights.
        theirs: all fields of the PyTorch class; those that `ours` does not name must have their defaults.
        ours: fields that the Flax class reads, with the values that it can have, and those that it drops,
            with the values that mean what it computes.
        dropped: names of `ours` that the Flax class does not read.
        fits: what fields have to do with each other in the Flax class.
    """

    name: str
    file: str
    theirs: Mapping[str, Field]
    ours: Mapping[str, Field]
    dropped: frozenset[str] = frozenset()
    fits: Callable[[Mapping[str, Any]], None] = lambda values: None

    def check(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Give the fields of a config.json that the Flax class reads.

        Raises:
            ValueError: one has a value that it does not compute: 'field=value: expected ...'.
        """
        values = {name: config.get(name, field.default) for name, field in self.theirs.items()}
        for name, value in values.items():
            field = self.ours.get(name)
            if field is None:
                default = self.theirs[name].default
                plain = value == default or value is None and not default
                expect_field(plain, name, value, f"{default!r}, as {self.name} does not read it")
            else:
                expect_field(field.holds(value), name, value, f"{field.expected} of {self.name}")
        self.fits(values)
        return {name: values[name] for name in self.ours if name not in self.dropped}


_SILU = one_of("silu", "swish")
_WIDTHS = listed((), integer(1))
_TYPES = listed((), anything())
_NOTHING = anything()


def _fit_unet(values: Mapping[str, Any]) -> None:
    """Check heads and sizes, where the Flax classes are narrower than PyTorch's."""
    widths, heads = values["block_out_channels"], values["attention_head_dim"]
    name = "FlaxUNet2DConditionModel"
    each = heads if isinstance(heads, list | tuple) else [heads] * len(widths)
    divided = all(width % n == 0 for width, n in zip(widths, each, strict=True))
    expect_field(divided, "attention_head_dim", heads, f"divisors of block_out_channels={widths!r} of {name}")
    default, hidden = "time_embedding_dim", 4 * widths[0]
    expect_field(values[default] in (None, hidden), default, values[default], f"null or {hidden} of {name}")
    # It doubles the size on the way up, whatever it was on the way down, and the decoder takes latents whose
    # width is their number of channels for transposed ones.
    size, step = values["sample_size"], 2 ** (len(widths) - 1)
    fits = size % step == 0 and size != values["in_channels"]
    expect_field(fits, "sample_size", size, f"a multiple of {step}, and not in_channels, of {name}")


_CLASSES: Mapping[str, _FlaxClass] = {
    "UNet2DConditionModel": _FlaxClass(
        "FlaxUNet2DConditionModel",
        "diffusion_flax_model.msgpack",
        unet_2d_config.FIELDS,
        {
            "sample_size": integer(None),
            "in_channels": integer(4),
            "out_channels": integer(4),
            "down_block_types": _TYPES,
            "mid_block_type": one_of("UNetMidBlock2DCrossAttn", None),
            "up_block_types": _TYPES,
            "only_cross_attention": per_block(flag(False)),
            "block_out_channels": _WIDTHS,
            "layers_per_block": integer(2),
            "attention_head_dim": per_block(integer(8)),
            "cross_attention_dim": integer(1280),
            "use_linear_projection": flag(False),
            "flip_sin_to_cos": flag(True),
            "freq_shift": number(0, positive=False),
            "transformer_layers_per_block": per_block(integer(1, least=0)),
            "addition_embed_type": one_of(None, "text_time"),
            "addition_time_embed_dim": optional(integer(256)),
            "projection_class_embeddings_input_dim": optional(integer(None)),
            "act_fn": _SILU,
            "time_embedding_dim": _NOTHING,
            # Nothing of what is computed here depends on them.
            "dropout": _NOTHING,
            "upcast_attention": _NOTHING,
            "resnet_skip_time_act": _NOTHING,
            "resnet_out_scale_factor": _NOTHING,
            "mid_block_only_cross_attention": _NOTHING,
            "cross_attention_norm": _NOTHING,
            "addition_embed_type_num_heads": _NOTHING,
        },
        dropped=frozenset(
            "act_fn time_embedding_dim dropout upcast_attention resnet_skip_time_act resnet_out_scale_factor "
            "mid_block_only_cross_attention cross_attention_norm addition_embed_type_num_heads".split()
        ),
        fits=_fit_unet,
    ),
    "AutoencoderKL": _FlaxClass(
        "FlaxAutoencoderKL",
        "diffusion_flax_model.msgpack",
        autoencoder_kl.FIELDS,
        {
            "in_channels": integer(3),
            "out_channels": integer(3),
            "down_block_types": _TYPES,
            "up_block_types": _TYPES,
            "block_out_channels": _WIDTHS,
            "layers_per_block": integer(1),
            "act_fn": _SILU,
            "latent_channels": integer(4),
            "norm_num_groups": integer(32),
            "sample_size": integer(32),
            "scaling_factor": number(0.18215),
            "force_upcast": _NOTHING,
        },
        dropped=frozenset({"force_upcast"}),
    ),
}
_HIDDEN_ACT = one_of("quick_gelu", "gelu", "relu", "silu", "swish")
_TEXT_CLASSES: Mapping[str, _FlaxClass] = {
    name: _FlaxClass(
        f"Flax{name}",
        "flax_model.msgpack",
        TEXT_FIELDS,
        {**TEXT_FIELDS, "hidden_act": _HIDDEN_ACT},
    )
    for name in ("CLIPTextModel", "CLIPTextModelWithProjection")
}


def write_flax_pipeline(
    parts: Parts,
    network_name: str,
    folder: Path,
    network: Params,
    *,
    num_steps: int,
    timestep_spacing: str,
    dtype: Any,
) -> None:
    """Write a pipeline with another network and a FlaxDDIMScheduler; all else is that of the source.

    Args:
        parts: of the source, with its weights.
        network_name: folder of the network.
        folder: to write into.
        network: weights of the network, NumPy or stored.
        num_steps: that the scheduler's timesteps are right for; of 'leading' they are for all others too.
        timestep_spacing: of the timesteps; empty is that of the source.
        dtype: of all weights on disk.

    Raises:
        ConfigError: a field of the source, or a schedule, that the Flax classes cannot have.
    """
    index, scheduler = kept_index(parts), _make_scheduler(parts, num_steps, timestep_spacing)
    if index["_class_name"] == "StableDiffusionXLPipeline":
        name = "force_zeros_for_empty_prompt"
        zeros = index.pop(name, True)
        expect(zeros, name, zeros, "true: the Flax pipeline knows no other empty prompt")
    else:  # a library without a class is no part; [None, None], as PyTorch has it, is a missing one
        index |= {name: ["diffusers", None] for name in ("safety_checker", "feature_extractor")}
    configs = {name: _make_config(parts, name) for name in parts.networks}
    for name, module in parts.networks.items():
        index[name] = [index[name][0], _flax_class(module).name]
    index |= {"_class_name": f"Flax{index['_class_name']}", "scheduler": ["diffusers", "FlaxDDIMScheduler"]}
    write_json(folder / "model_index.json", index)
    write_json(folder / _SCHEDULER, scheduler)
    for name, weights in (dict(parts.weights) | {network_name: network}).items():
        write_json(folder / name / "config.json", configs[name])
        _write_msgpack(folder / name / _flax_class(parts.networks[name]).file, weights, dtype)
    copy_tokenizers(parts.source, folder)


def _make_config(parts: Parts, name: str) -> dict[str, Any]:
    """Make the config.json of a network, or refuse it."""
    file, flax_class = f"{name}/config.json", _flax_class(parts.networks[name])
    config = read_json(get_file(parts.source, file))
    fields = naming_file(f"{parts.source}/{file}", lambda: flax_class.check(config))
    if name.startswith("text_encoder"):  # transformers has one config for both of its classes
        return config
    return {"_class_name": flax_class.name} | fields


def _flax_class(module: Any) -> _FlaxClass:
    return {**_CLASSES, **_TEXT_CLASSES}[type(module).__name__]


def _make_scheduler(parts: Parts, num_steps: int, timestep_spacing: str) -> dict[str, Any]:
    """Describe the timesteps of a number of steps as 'leading' ones, the only ones that Flax's DDIM places.

    Those of 'trailing' are 'leading' ones with an offset, if the number of steps divides that of training.
    """
    options = {"timestep_spacing": timestep_spacing}
    ddim = read_field(parts, _SCHEDULER, lambda: as_ddim(parts.scheduler_config, **options))
    timesteps = make_grid(ddim, num_steps).timesteps
    rescaled = ddim.pop("rescale_betas_zero_snr")
    expect(not rescaled, "rescale_betas_zero_snr", rescaled, "false of FlaxDDIMScheduler")
    spacing = ddim.pop("timestep_spacing")
    step = ddim["num_train_timesteps"] // num_steps
    leading = timesteps[-1] + step * np.arange(num_steps)[::-1]
    expected = f"'leading' of FlaxDDIMScheduler, or a number of steps that makes it such, not {num_steps}"
    expect(np.array_equal(timesteps, leading), "timestep_spacing", spacing, expected)
    offset = ddim["steps_offset"] if spacing == "leading" else int(timesteps[-1])
    return ddim | {"_class_name": "FlaxDDIMScheduler", "steps_offset": offset}


def _write_msgpack(file: Path, params: Params, dtype: Any) -> None:
    file.write_bytes(to_bytes(unstack_params(params, dtype=dtype)))
