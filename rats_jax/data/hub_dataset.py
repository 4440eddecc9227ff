"""Prompts of a Hugging Face dataset: its column of texts, without the pictures beside it."""

from __future__ import annotations

import re
from typing import Any

from rats_jax.data.captions import Captions
from rats_jax.errors import ConfigError, reason_of
from rats_jax.paths import kind_of, local_path

# In the order of preference, as in a file of prompts.
_COLUMNS = ("prompt", "text", "caption", "prompts", "captions")
_PATH = re.compile(r"hf:(?P<name>[^:]+)(:(?P<split>.+))?")


def open_hub_dataset(path: str) -> Captions:
    """Open the prompts of a dataset of the hub, or of a folder of Parquet, CSV or JSON files, by `datasets`.

    Args:
        path: 'hf:OWNER/NAME[/CONFIG][:SPLIT]' or 'hf:FOLDER[:SPLIT]'; the split, or a part of it as
            `train[:1000]`, is `train` if it is not named.

    Returns:
        The texts of its column `prompt`, else `text`, `caption` or the like, in any letter case.

    Raises:
        ConfigError: `datasets` is missing, no such dataset, config or split can be had, or it has no such
            column, or one that is no text.
    """
    found = _PATH.fullmatch(path)
    if found is None:
        raise ConfigError(
            f"prompts={path!r}: expected 'hf:OWNER/NAME[/CONFIG][:SPLIT]' or 'hf:FOLDER[:SPLIT]'"
        )
    try:
        import datasets
    except ImportError:
        raise ConfigError(
            f"prompts={path!r}: expected the package `datasets`: pip install 'rats_jax[datasets]'"
        ) from None
    name, config, split = found["name"], None, found["split"] or "train"
    if kind_of(local_path(name, "prompts")) == "folder":
        name = str(local_path(name, "prompts"))
    elif name.count("/") == 2:
        name, config = name.rsplit("/", 1)
    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        dataset: Any = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # the hub, Arrow, file formats and split expressions have error types each
        raise ConfigError(
            f"prompts={path!r}: expected a dataset that can be read ({reason_of(error)})"
        ) from None
    finally:
        if not bars:
            datasets.enable_progress_bars()
    columns = {column.lower(): column for column in reversed(dataset.column_names)}
    named = [columns[name] for name in _COLUMNS if name in columns]
    if not named:
        raise ConfigError(
            f"prompts={path!r}: expected one of the columns {', '.join(_COLUMNS)}, "
            f"found {', '.join(dataset.column_names)}"
        )
    if not len(dataset):
        raise ConfigError(f"prompts={path!r}: expected at least one prompt, the split is empty")
    captions = Captions(dataset.select_columns(named[:1]), named[0], f"{path}:{named[0]}")
    captions.name += f":{captions.digest}"  # a dataset of the hub may change under its name
    return captions
