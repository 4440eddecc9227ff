"""Captions of a TFDS dataset as prompts, read one by one and without TensorFlow."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, overload

from rats_jax.errors import ConfigError

# What datasets call a caption; the value is a text, or a sequence of texts or of records with one.
_NAMES = ("captions", "caption", "text", "prompt", "prompts")
_PATH = re.compile(r"tfds:(?P<name>\w+(/[\w.-]+)?(:\d+\.\d+\.\d+)?)(:(?P<split>.+))?")


class Captions(Sequence[str]):
    """The first caption of every example of a dataset.

    Attributes:
        name: what the prompts are known by: dataset, config, version, split and feature.
    """

    def __init__(self, source: Any, feature: str, name: str):
        self._source, self._feature, self.name = source, feature, name

    def __len__(self) -> int:
        return len(self._source)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return _first_text(self._source[index % len(self)][self._feature])


def open_captions(path: str) -> Captions:
    """Open the captions of a dataset that `tfds build` or download_and_prepare has written as ArrayRecord.

    Args:
        path: 'tfds:NAME[/CONFIG][:VERSION][:SPLIT]'; the split is `train` if it is not named. The dataset
            lies under TFDS_DATA_DIR or ~/tensorflow_datasets.

    Returns:
        The captions.

    Raises:
        ConfigError: no such dataset or split is there, or it has no feature with captions.
    """
    import tensorflow_datasets as tfds  # half a second that runs on a file of prompts do not pay

    found = _PATH.fullmatch(path)
    if found is None:
        raise ConfigError(f"prompts={path!r}: expected 'tfds:NAME[/CONFIG][:VERSION][:SPLIT]'")
    name, split = found["name"], found["split"] or "train"
    try:
        builder: Any = tfds.builder(name, try_gcs=False)
    except Exception as error:  # unknown datasets, versions and configs have an error type each
        raise ConfigError(f"prompts={path!r}: expected a TFDS dataset ({_line(error)})") from None
    if split.split("[")[0] not in builder.info.splits:
        known = ", ".join(map(repr, builder.info.splits)) or "none: is it prepared in this data directory?"
        raise ConfigError(f"prompts={path!r}: expected a split of the prepared dataset, found {known}")
    features: dict[str, Any] = dict(builder.info.features or {})
    named = [feature for feature in _NAMES if feature in features]
    if not named:
        raise ConfigError(
            f"prompts={path!r}: expected one of the features {', '.join(_NAMES)}, found {', '.join(features)}"
        )
    feature = named[0]
    # Pictures stay compressed.
    skipped = [n for n, f in features.items() if isinstance(f, tfds.features.Image)]
    try:
        skip: Any = tfds.decode.SkipDecoding()
        decoders: Any = dict.fromkeys(skipped, skip)
        source: Any = builder.as_data_source(split, decoders=decoders)
    except Exception as error:
        raise ConfigError(
            f"prompts={path!r}: expected a dataset prepared with file_format='array_record' ({_line(error)})"
        ) from None
    if not len(source):
        raise ConfigError(f"prompts={path!r}: expected at least one prompt, the split is empty")
    return Captions(source, feature, f"tfds:{builder.info.full_name}:{split}:{feature}")


def _first_text(value: Any) -> str:
    """Give the text of a caption: bytes, or the first of a sequence, in a record under `text`."""
    if isinstance(value, dict):
        value = next(value[name] for name in ("text", *_NAMES) if name in value)
    if isinstance(value, bytes):
        return value.decode("utf-8").strip()
    if isinstance(value, str):
        return value.strip()
    return _first_text(value[0])


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
