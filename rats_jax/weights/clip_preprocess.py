"""How a CLIP wants its pictures, as the files beside its weights say: what is computed here, or refused."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from rats_jax.fields import Field, anything, one_of, only, read_fields
from rats_jax.networks.preprocess import MEAN, STD
from rats_jax.weights.folder import naming_file, read_json
from rats_jax.weights.hub import find_file

_BICUBIC = 3  # of PIL
_ABOUT_THE_FILE = ("processor_class", "feature_extractor_type", "image_processor_type", "data_format")


def check_preprocessing(path: str, *, image_size: int) -> None:
    """Refuse a CLIP that reads other pictures than `crop_to_square` and `normalise` make.

    Args:
        path: folder, weights file or hub id; without such files beside the weights nothing is checked.
        image_size: of the image tower, pixels.

    Raises:
        WeightsError: names file, field and value.
    """
    for name, fields, inside in (
        ("preprocessor_config.json", _of_transformers(image_size), None),
        # Of transformers 5.
        ("processor_config.json", _of_transformers(image_size), "image_processor"),
        ("open_clip_config.json", _of_open_clip(image_size), "preprocess_cfg"),
    ):
        file = find_file(path, name)
        if file is not None:
            config: Any = read_json(file)
            config = config.get(inside, {}) if inside else config
            read = functools.partial(read_fields, config, fields, ignored=_ABOUT_THE_FILE)
            naming_file(str(file), read)


def _of_transformers(size: int) -> Mapping[str, Field]:
    square = {"height": size, "width": size}
    return {
        "size": one_of(size, {"shortest_edge": size}, square),
        "crop_size": one_of(size, square),
        "resample": only(_BICUBIC),
        "rescale_factor": _near(1 / 255),
        **dict.fromkeys(("do_resize", "do_center_crop", "do_rescale", "do_normalize"), only(True)),
        "do_convert_rgb": anything(True),
        **dict.fromkeys(("default_to_square", "use_square_size"), only(False)),
        "image_mean": _near(MEAN),
        "image_std": _near(STD),
    }


def _of_open_clip(size: int) -> Mapping[str, Field]:
    return {
        "size": one_of(size, (size, size)),
        "mode": only("RGB"),
        "mean": _near(MEAN),
        "std": _near(STD),
        "interpolation": only("bicubic"),
        "resize_mode": only("shortest"),
        "fill_color": anything(0),
    }


def _near(wanted: Any) -> Field:
    """Accept a number, or a list of them, up to the digits that files leave out."""
    values = wanted if isinstance(wanted, tuple) else (wanted,)

    def holds(value: Any) -> bool:
        given = value if isinstance(value, list | tuple) else (value,)
        numbers = len(given) == len(values) and all(isinstance(x, int | float) for x in given)
        return numbers and all(abs(x - y) < 1e-4 * y for x, y in zip(given, values, strict=True))

    return Field(wanted, holds, f"{wanted}: no other value is supported")
