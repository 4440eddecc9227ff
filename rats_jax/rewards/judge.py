"""What judges share that are no reward models: a small network, and the words that its numbers stand for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rats_jax.errors import WeightsError
from rats_jax.fields import Field, read_fields
from rats_jax.types import Params
from rats_jax.weights.folder import CLIP_WEIGHTS, describe, naming_file, read_json
from rats_jax.weights.hub import get_file
from rats_jax.weights.state_dict import load_safetensors

ACCURACY = ("detector", "tracker")
"""Kinds of judges that say whether a picture or a clip shows what its prompt asks for."""

NAME = Field("", lambda value: isinstance(value, str) and value != "", "a text")


def load_judge(
    path: str, kind: str, network: Any, words: Mapping[str, Field], count_of: Mapping[str, str | int]
) -> tuple[Any, dict[str, Any], Params]:
    """Load a judge's network and words.

    Args:
        path: folder with config.json and model.safetensors, the latter itself, or hub id.
        kind: model_type of the config.
        network: the class.
        words: fields of the config that name what the network tells apart.
        count_of: by those fields how many there must be, or the network's field that says so.

    Returns:
        The network, the words by field, and the weights.

    Raises:
        WeightsError: files are missing or do not fit.
    """
    if not path:
        raise WeightsError(f"path='': expected the folder of a {kind}, there is no published one")
    config_file = get_file(path, "config.json")
    config, file = read_json(config_file), str(config_file)
    if config.get("model_type") != kind or any(name not in config for name in words):
        raise WeightsError(f"{file!r}: expected a {kind}'s, with {', '.join(words)}")
    sizes = {name: value for name, value in config.items() if name not in (*words, "model_type")}
    judge, abstract = describe(file, lambda: network.from_config(sizes), network.init_params)
    named = naming_file(file, lambda: read_fields({name: config[name] for name in words}, words))
    for name, size in count_of.items():
        found = len(named[name])
        if isinstance(size, int) and found != size:
            raise WeightsError(f"{file!r}: {found} {name}: expected {size}")
        if isinstance(size, str) and found != getattr(judge, size):
            raise WeightsError(f"{file!r}: {size}={getattr(judge, size)}: expected the {found} of {name}")
    return judge, named, load_safetensors(get_file(path, CLIP_WEIGHTS), abstract)
