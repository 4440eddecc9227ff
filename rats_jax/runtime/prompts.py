"""Prompts: the file, and the endless shuffled stream of batches whose position a checkpoint can hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grain
import numpy as np

from rats_jax.errors import ConfigError

# More than any run. A dataset without end, in batches of one, has a length that overflows inside grain.
_EPOCHS = 2**31


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


class PromptBatch(NamedTuple):
    """This process's part of a global batch: indices int64 [B / processes] and the prompts there."""

    indices: np.ndarray
    prompts: list[str]


class PromptIterator:
    """The stream of batches; each epoch is a new order, and a batch may reach into the next epoch."""

    def __init__(self, prompts: Sequence[str], batches: grain.MapDataset):
        self._prompts = list(prompts)
        self._digest = hashlib.sha256(json.dumps(self._prompts).encode()).hexdigest()[:16]
        options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        self._iterator = iter(batches.to_iter_dataset(options))

    def __iter__(self) -> PromptIterator:
        return self

    def __next__(self) -> PromptBatch:
        indices = np.asarray(next(self._iterator), np.int64)
        return PromptBatch(indices, [self._prompts[i] for i in indices])

    def get_state(self) -> dict[str, Any]:
        """Describe the position, in a form that JSON can hold; the same in every process."""
        return {"iterator": dict(self._iterator.get_state()), "prompts": self._digest}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go to a position that `get_state` described: the next batch is the one that followed there.

        Raises:
            ConfigError: the position belongs to other prompts.
        """
        if state["prompts"] != self._digest:
            raise ConfigError(
                "prompts: expected the file with which the run began, but its prompts have changed"
            )
        self._iterator.set_state(dict(state["iterator"]))


def make_prompt_iterator(
    prompts: Sequence[str], *, batch_size: int, seed: int, process_index: int, process_count: int
) -> PromptIterator:
    """Make the endless shuffled stream of batches of prompts.

    The global stream does not depend on the number of processes: process p takes elements p, p + count, ...

    Args:
        prompts: the prompts, at least one.
        batch_size: prompts per batch over all processes, a multiple of process_count.
        seed: of the order, 0 .. 2**32 - 1.
        process_index: this process, 0 .. process_count - 1.
        process_count: processes that share the stream.

    Returns:
        An iterator with `get_state` and `set_state`.

    Raises:
        ConfigError: batch_size is not a multiple of process_count.
    """
    if batch_size % process_count:
        raise ConfigError(f"batch_size={batch_size}: expected a multiple of the {process_count} processes")
    stream = grain.MapDataset.source(range(len(prompts))).seed(seed).shuffle().repeat(_EPOCHS)
    mine = stream.slice(slice(process_index, None, process_count))
    return PromptIterator(prompts, mine.batch(batch_size // process_count))
