"""Prompts, and the endless shuffled stream of batches whose position a checkpoint can hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np

from rats_jax.data.captions import Captions, open_captions
from rats_jax.errors import ConfigError
from rats_jax.paths import resolve_path

# More than any run. A dataset without end, in batches of one, has a length that overflows inside grain.
_EPOCHS = 2**31


def find_prompts(path: str) -> Sequence[str]:
    """Find the prompts that a config names: of a file, or, read when they are wanted, of a TFDS dataset.

    Raises:
        ConfigError: as `read_prompts` and `open_captions`.
    """
    return open_captions(path) if path.startswith("tfds:") else read_prompts(resolve_path(path))


def read_prompts(path: str | Path) -> list[str]:
    """Read the prompts of a file, in its order; blank lines are skipped.

    Args:
        path: UTF-8 text with one prompt per line, or .jsonl with a field `prompt` or `text` per line.

    Returns:
        The prompts, stripped, at least one; doubles stay.

    Raises:
        ConfigError: the file is missing, unreadable or without a prompt, or a line of .jsonl has none.
    """
    if Path(path).suffix == ".jsonl":
        return [record["prompt"] for _, record in read_records(path)]
    return [line.strip() for _, line in _read_lines(path)]


def read_records(path: str | Path) -> list[tuple[str, dict[str, Any]]]:
    """Read a .jsonl of prompts: the place of each line, for messages, and its object with a `prompt`.

    Raises:
        ConfigError: the file is missing, unreadable or empty, or a line has no prompt.
    """
    return [(place, _record_of(line, place)) for place, line in _read_lines(path)]


def _read_lines(path: str | Path) -> list[tuple[str, str]]:
    """Read the lines that are not blank, each with its place."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise ConfigError(f"prompts={str(path)!r}: expected a readable text file ({reason})") from None
    found = [(f"{path}:{number}", line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not found:
        raise ConfigError(f"prompts={str(path)!r}: expected at least one prompt, the file is empty")
    return found


def _record_of(line: str, place: str) -> dict[str, Any]:
    """Parse one line of .jsonl; its prompt, under `prompt` or `text`, is stripped."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ConfigError(f"prompts={place!r}: expected a JSON object ({error.msg})") from None
    prompt = record.get("prompt", record.get("text")) if isinstance(record, dict) else None
    if not isinstance(prompt, str) or not prompt.strip():
        raise ConfigError(f"prompts={place!r}: expected a JSON object with a text in `prompt` or `text`")
    return record | {"prompt": prompt.strip()}


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
