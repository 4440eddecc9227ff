"""Scores of pictures of any sizes by loaded rewards, and their table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from rats_jax.data.batches import filled_batches
from rats_jax.data.pairs import Pair
from rats_jax.data.pictures import picture_size, read_picture
from rats_jax.progress import tracked
from rats_jax.rewards import make_score_fn
from rats_jax.types import RewardModel
from rats_jax.weights.stored import read_all

_PROMPT_WIDTH = 40
# Larger pictures do not fill up a batch: eight copies of a panorama are no small thing.
_FILLING = 2**24


def score_pairs(
    rewards: Mapping[str, RewardModel], pairs: Sequence[Pair], *, batch_size: int
) -> dict[str, np.ndarray]:
    """Score every picture with every reward.

    Pictures of one size go through the device together; each size is a compilation of its own.

    Args:
        rewards: by name.
        pairs: N pictures with their prompts.
        batch_size: pictures at once; the last batch of a size is filled up, unless they are large and fewer.

    Returns:
        [N] float32 by name, in the order of the pairs.

    Raises:
        ConfigError: a file is no picture.
    """
    score_fn = jax.jit(make_score_fn({name: reward.reward_fn for name, reward in rewards.items()}))
    params = read_all({name: reward.params for name, reward in rewards.items()})
    params = jax.device_put(params)
    prompts = [pair.prompt for pair in pairs]
    inputs = {name: reward.prepare(prompts) for name, reward in rewards.items()}
    scores = {name: np.zeros(len(pairs), np.float32) for name in rewards}
    batches = list(_batches_of_a_size(pairs, batch_size))
    for size, filled, kept in tracked(batches, title="scoring", unit="batch", leave=False):
        read = [read_picture(pairs[i].file) for i in filled[kept]]
        images = np.resize(read, (len(filled), *size, 3))  # what fills up is not read again
        prompt = jax.tree.map(lambda x, filled=filled: x[filled], inputs)
        for name, values in score_fn(params, images, prompt).items():
            scores[name][filled[kept]] = np.asarray(values)[kept]
    return scores


def _batches_of_a_size(
    pairs: Sequence[Pair], batch_size: int
) -> Iterator[tuple[tuple[int, int], np.ndarray, slice]]:
    """Cut pictures into batches of one size [H, W] each: the size, rows, and those that are no filling."""
    by_size: dict[tuple[int, int], list[int]] = {}
    for i, pair in enumerate(pairs):
        by_size.setdefault(picture_size(pair.file), []).append(i)
    for size, rows in by_size.items():
        at_once = batch_size if size[0] * size[1] <= _FILLING else min(batch_size, len(rows))
        for places, kept in filled_batches(len(rows), at_once):
            yield size, np.take(rows, places), kept


def summarise(
    pairs: Sequence[Pair], scores: Mapping[str, np.ndarray], paths: Mapping[str, str]
) -> dict[str, Any]:
    """Arrange scores for a JSON file.

    Returns:
        "rewards": mean, standard deviation and path by name; "pictures": file name, prompt and scores of
        each; "not_finite": file names by reward. What is not finite is null, and in no mean or deviation.
    """
    finite = {name: np.isfinite(values) for name, values in scores.items()}

    def moments(name: str) -> dict[str, Any]:
        kept = scores[name][finite[name]].astype(np.float64)
        return {
            "path": paths[name],
            "mean": float(kept.mean()) if kept.size else None,
            "std": float(kept.std()) if kept.size else None,
        }

    return {
        "rewards": {name: moments(name) for name in scores},
        "pictures": [
            {
                "file_name": pair.file.name,
                "prompt": pair.prompt,
                **{name: float(s[i]) if finite[name][i] else None for name, s in scores.items()},
            }
            for i, pair in enumerate(pairs)
        ],
        "not_finite": {
            name: [pair.file.name for pair, is_finite in zip(pairs, kept, strict=True) if not is_finite]
            for name, kept in finite.items()
            if not kept.all()
        },
    }


def format_scores(pairs: Sequence[Pair], scores: Mapping[str, np.ndarray]) -> str:
    """Lay scores out as a table, a line per picture and the means below."""
    names = [_printable(pair.file.name) for pair in pairs]
    prompts = [_printable(pair.prompt[:_PROMPT_WIDTH]) for pair in pairs]
    widths = max(len("mean"), *map(len, names)), max(len("prompt"), *map(len, prompts))
    columns = {name: max(len(name), 10) + 2 for name in scores}

    def line(first: str, second: str, cells: Mapping[str, str]) -> str:
        numbers = "".join(f"{cells[name]:>{width}}" for name, width in columns.items())
        return f"{first:<{widths[0]}}  {second:<{widths[1]}}{numbers}"

    def numbers(values: Mapping[str, Any]) -> dict[str, str]:
        return {name: f"{value:.4f}" for name, value in values.items()}

    rows = [
        line(file_name, prompt, numbers({name: s[i] for name, s in scores.items()}))
        for i, (file_name, prompt) in enumerate(zip(names, prompts, strict=True))
    ]
    means = numbers({name: np.mean(s) for name, s in scores.items()})
    return "\n".join(
        [line("", "prompt", {name: name for name in scores}), *rows, "", line("mean", "", means)]
    )


def _printable(text: str) -> str:
    """Escape what would break a line or cannot be printed: a file's name may hold anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
