"""Captions of a TFDS dataset as prompts, read one by one and without TensorFlow."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from absl import logging

from rats_jax.data.rows import brief, strip
from rats_jax.errors import ConfigError

# What datasets call a caption; the value is a text, or a sequence of texts or of records with one.
_NAMES = ("captions", "caption", "text", "prompt", "prompts")
_PATH = re.compile(r"tfds:(?P<name>\w+(/[\w.-]+)?(:\d+\.\d+\.\d+)?)(:(?P<split>.+))?")
# Read at once where all captions are read: threads share the work, and pictures come with them.
_BLOCK = 64


class Captions(Sequence[str]):
    """The first caption of every example of a dataset that has one.

    Attributes:
        name: what the prompts are known by: dataset, config, version, split, feature, and how many examples
            without a caption are left out, if any.
        digest: of all prompts, 16 hexadecimal digits.
    """

    def __init__(self, source: Any, feature: str, name: str):
        """Read all captions once, and keep which examples have one.

        Raises:
            ConfigError: a caption is no text, or there is none at all.
        """
        self._source, self._feature, self.name = source, feature, name
        digest, has_text = hashlib.sha256(), []
        for text in self._read_all():
            digest.update(f"{text}\0".encode())
            has_text.append(bool(text))
        self._rows, self.digest = np.flatnonzero(has_text), digest.hexdigest()[:16]
        left_out = len(source) - len(self._rows)
        if not len(self._rows):
            raise ConfigError(
                f"prompts={name!r}: expected at least one prompt, found {left_out} blank captions"
            )
        if left_out:
            logging.warning(
                "%d of %d examples of %r have no caption, and are left out", left_out, len(source), name
            )
            self.name = f"{name}:without {left_out}"

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        row = int(self._rows[index])
        return self._read(row, self._source[row])

    def _read_all(self) -> Iterator[str]:
        for start in range(0, len(self._source), _BLOCK):
            rows = range(start, min(start + _BLOCK, len(self._source)))
            yield from map(self._read, rows, self._source.__getitems__(rows))

    def _read(self, row: int, example: Any) -> str:
        try:
            return _first_text(example[self._feature])
        except ValueError as error:
            raise ConfigError(
                f"prompts={self.name!r}: example {row}: expected a caption, found {error}"
            ) from None


def open_captions(path: str) -> Captions:
    """Open the captions of a dataset that `tfds build` or download_and_prepare has written as ArrayRecord.

    Args:
        path: 'tfds:NAME[/CONFIG][:VERSION][:SPLIT]'; the split is `train` if it is not named. The dataset
            lies under TFDS_DATA_DIR or ~/tensorflow_datasets.

    Returns:
        The captions.

    Raises:
        ConfigError: no such dataset or split is there, or it has no feature with captions, or one that is no
            text.
    """
    # Half a second that runs on a file of prompts do not pay.
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import read_only_builder

    found = _PATH.fullmatch(path)
    if found is None:
        raise ConfigError(f"prompts={path!r}: expected 'tfds:NAME[/CONFIG][:VERSION][:SPLIT]'")
    name, split = found["name"], found["split"] or "train"
    try:
        # Of a dataset that it has code for, tfds.builder runs that, and it imports TensorFlow.
        builder: Any = read_only_builder.builder_from_files(name)
    except Exception as error:  # unknown datasets, versions and configs have an error type each
        raise ConfigError(
            f"prompts={path!r}: expected a dataset that `tfds build` has prepared ({_line(error)})"
        ) from None
    if split.split("[")[0] not in builder.info.splits:
        known = ", ".join(map(repr, builder.info.splits))
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
            f"prompts={path!r}: expected a split that is not empty, of a dataset prepared with "
            f"file_format='array_record' ({_line(error)})"
        ) from None
    if not len(source):
        raise ConfigError(f"prompts={path!r}: expected at least one prompt, the split is empty")
    return Captions(source, feature, f"tfds:{builder.info.full_name}:{split}:{feature}")


def _first_text(value: Any) -> str:
    """Give the first caption that is not blank; empty if there is none.

    Args:
        value: a text, its bytes, a sequence of such or of records with one of `_NAMES`, or None.

    Raises:
        ValueError: it is none of them; says what it is.
    """
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, dict):
        names = [name for name in ("text", *_NAMES) if name in value]
        if not names:
            raise ValueError(brief(value))
        value = value[names[0]]
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"{brief(value)}, which is not UTF-8") from None
    if value is None:
        return ""
    if isinstance(value, str):
        return strip(value)
    if isinstance(value, list | tuple):
        return next(filter(None, map(_first_text, value)), "")
    raise ValueError(brief(value))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
