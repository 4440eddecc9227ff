"""Rewards of a user's own: kind=FILE.py:NAME names what a Python file defines."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from rats_jax.errors import ConfigError, expect
from rats_jax.paths import kind_of, local_path
from rats_jax.python_files import import_file, run_code
from rats_jax.rewards.base import Reward
from rats_jax.types import Array, Params, PromptInputs, RewardFn, RewardModel


def file_of(kind: str) -> str:
    """Give FILE.py of FILE.py:NAME, '' of the kinds of this package."""
    path = kind.rpartition(":")[0]
    return path if path.endswith(".py") else ""


def is_own(kind: str) -> bool:
    """Tell FILE.py:NAME from the kinds of this package."""
    return file_of(kind) != ""


def load_own(kind: str, field: str = "kind") -> Reward:
    """Import the reward that a Python file defines.

    Args:
        kind: 'FILE.py:NAME'; NAME is a `Reward`, or a function (path, *, dtype) -> RewardModel, which is one
            that can be trained on.
        field: that names the kind, for messages.

    Returns:
        The reward; what it loads is checked to be a RewardModel, and its scores to be one number a picture
        once they are traced.

    Raises:
        ConfigError: no such file, it does not run, or it defines no such thing.
    """
    path, _, name = kind.rpartition(":")
    file = local_path(path, field)
    expect(kind_of(file) == "file", field, kind, f"FILE.py:NAME, there is no file {path!r}")
    module = _import_once(file.resolve(), field)
    found = getattr(module, name, None)
    if not isinstance(found, Reward):
        expected = f"a function or Reward {name!r} in that file"
        expect(callable(found) and not isinstance(found, type), field, kind, expected)
        found = Reward(found, describe=None)  # pyright: ignore[reportArgumentType]
    load = _checked(found.load, file.resolve(), kind, field)
    return replace(found, load=load, describe=None)


@functools.cache
def _import_once(file: Path, field: str) -> Any:
    return import_file(file, f"{file.stem}_reward", field=field)


def _checked(load: Callable[..., Any], file: Path, kind: str, field: str) -> Callable[..., RewardModel]:
    def load_checked(path: str, *, dtype: Any = jnp.float32) -> RewardModel:
        model = run_code(file, lambda: load(path, dtype=dtype), field=field)
        shown = type(model).__name__
        expect(isinstance(model, RewardModel), field, kind, f"a RewardModel from it, not {shown}")
        return model._replace(reward_fn=_scores_alone(model.reward_fn, f"{field}={kind!r}"))

    return load_checked


def _scores_alone(reward_fn: RewardFn, named: str) -> RewardFn:
    """Refuse, while it is traced, what is no number for each picture."""

    def checked_fn(params: Params, images: Array, prompt: PromptInputs) -> Array:
        scores: Any = reward_fn(params, images, prompt)
        shape, dtype = getattr(scores, "shape", None), getattr(scores, "dtype", jnp.int32)
        if shape != images.shape[:1] or not jnp.issubdtype(dtype, jnp.floating):
            found = type(scores).__name__ if shape is None else f"{dtype} {list(shape)}"
            raise ConfigError(
                f"{named}: expected floating-point scores [{images.shape[0]}] of images "
                f"{list(images.shape)}, found {found}"
            )
        return scores.astype(jnp.float32)

    return checked_fn
