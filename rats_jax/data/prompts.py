"""Prompts, and the endless shuffled stream of batches whose position a checkpoint can hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np
from etils import epath

from rats_jax.data.captions import Captions, open_captions
from rats_jax.data.hub_dataset import open_hub_dataset
from rats_jax.data.rows import brief, check_prompt, read_rows, strip
from rats_jax.errors import ConfigError
from rats_jax.paths import find_path

# More than any run. A dataset without end, in batches of one, has a length that overflows inside grain.
_EPOCHS = 2**31
# Where a prompt stands in a row with fields, in the order of preference.
_FIELDS = ("prompt", "text", "caption")
_EXPECTED = "`prompt`, `text` or `caption`"


def find_prompts(path: str, *, field: str = "prompts") -> Sequence[str]:
    """Find the prompts that a config names: of a file, or, read when they are wanted, of a dataset.

    Args:
        path: of a file, here or at an address, or 'tfds:...' or 'hf:...'.
        field: of the config, which errors begin with.

    Raises:
        ConfigError: as `read_prompts`, `open_captions` and `open_hub_dataset`.
    """
    try:
        if path.startswith("tfds:"):
            return open_captions(path)
        if path.startswith("hf:"):
            return open_hub_dataset(path)
        return read_prompts(find_path(path, "prompts"))
    except ConfigError as error:
        raise ConfigError(f"{field}={str(error).removeprefix('prompts=')}") from None


def read_prompts(path: str | Path | epath.Path) -> list[str]:
    """Read the prompts of a file, in its order; blank lines are skipped.

    Args:
        path: UTF-8 text with one prompt per line; .jsonl or .ndjson, a text or an object per line; .json, an
            array of them; .csv or .tsv with a row of names of columns. The prompt is the field `prompt`, else
            `text`, else `caption`. Suffixes and names count in any letter case.

    Returns:
        The prompts, stripped, at least one; doubles stay.

    Raises:
        ConfigError: the file is missing, unreadable, of another format or without a prompt, or a row is.
    """
    return [record["prompt"] for _, record in read_records(path)]


def read_records(path: str | Path | epath.Path) -> list[tuple[str, dict[str, Any]]]:
    """Read a file as `read_prompts` does: the place of each row, for messages, and its fields.

    The prompt is under `prompt`, wherever the file has it.

    Raises:
        ConfigError: as `read_prompts`.
    """
    kind = "a row" if Path(path).suffix.lower() in (".csv", ".tsv") else "a JSON object"
    return [(place, _record_of(row, place, kind)) for place, row in read_rows(path)]


def _record_of(row: Any, place: str, kind: str) -> dict[str, Any]:
    """Give the fields of a row; a text alone is the prompt."""
    fields = {"prompt": row} if isinstance(row, str) else row
    prompt = _find_prompt(fields, place) if isinstance(fields, dict) else None
    if not isinstance(prompt, str) or not strip(prompt):
        found = brief(row if prompt is None else prompt)
        raise ConfigError(f"prompts={place!r}: expected {kind} with a text in {_EXPECTED}, found {found}")
    return fields | {"prompt": check_prompt(prompt, f"prompts={place!r}")}


def _find_prompt(fields: dict[str, Any], place: str) -> Any:
    """Give what the first of `_FIELDS` holds that is there and not null."""
    for wanted in _FIELDS:
        names = [name for name in fields if name.lower() == wanted and fields[name] is not None]
        if len(names) > 1:
            raise ConfigError(f"prompts={place!r}: expected one `{wanted}`, found {', '.join(names)}")
        if names:
            return fields[names[0]]
    return None


class PromptIterator:
    """The stream of global batches: indices into the prompts, the same in every process.

    Each epoch is a new order, and a batch may reach into the next epoch.
    """

    def __init__(self, batches: grain.MapDataset, digest: str):
        self._digest = digest
        options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        self._iterator = iter(batches.to_iter_dataset(options))

    def __iter__(self) -> PromptIterator:
        return self

    def __next__(self) -> np.ndarray:
        """Give the indices of the next batch, [B] int64."""
        return np.asarray(next(self._iterator), np.int64)

    def get_state(self) -> dict[str, Any]:
        """Describe the position, in a form that JSON can hold; the same in every process."""
        return {"iterator": dict(self._iterator.get_state()), "prompts": self._digest}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go to a position that `get_state` described: the next batch is the one that followed there.

        Raises:
            ConfigError: the position belongs to other prompts.
        """
        if state["prompts"] != self._digest:
            raise ConfigError("prompts: expected those with which the run began, but they have changed")
        self._iterator.set_state(dict(state["iterator"]))


def make_prompt_iterator(prompts: Sequence[str], *, batch_size: int, seed: int) -> PromptIterator:
    """Make the endless shuffled stream of batches of prompts, as indices.

    It depends on no number of processes: each reads the prompts of those rows that its devices hold.

    Args:
        prompts: from `read_prompts`, at least one.
        batch_size: prompts per batch over all processes.
        seed: of the order, 0 .. 2**32 - 1.

    Returns:
        An iterator with `get_state` and `set_state`.
    """
    stream = grain.MapDataset.source(range(len(prompts))).seed(seed).shuffle().repeat(_EPOCHS)
    return PromptIterator(stream.batch(batch_size), _digest(prompts))


def _digest(prompts: Sequence[str]) -> str:
    text = prompts.name if isinstance(prompts, Captions) else json.dumps(list(prompts))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
