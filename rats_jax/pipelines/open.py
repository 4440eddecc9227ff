"""Opening of a diffusers pipeline: its config files are checked, its weights found and not read."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.errors import WeightsError, expect
from rats_jax.fields import expect as expect_field
from rats_jax.networks.kernels import find_kernels
from rats_jax.networks.t5 import T5EncoderModel
from rats_jax.paths import is_hub_id, kind_of, resolve_path
from rats_jax.pipelines import PIPELINES
from rats_jax.pipelines.base import (
    OPTIONS,
    OWN,
    SCHEDULER_FILE,
    VIDEO_OPTIONS,
    Family,
    Options,
    Parts,
    Pipeline,
    with_named_scheduler,
)
from rats_jax.pipelines.published import PUBLISHED
from rats_jax.types import Params
from rats_jax.weights.find import find_weights
from rats_jax.weights.folder import naming_file, read_json
from rats_jax.weights.hub import find_file, get_file
from rats_jax.weights.state_dict import open_weights
from rats_jax.weights.stored import read_all
from rats_jax.weights.tokenizer_files import T5_TOKENIZER_FILES, TOKENIZER_FILES, WHOLE_TOKENIZER
from rats_jax.weights.tokenizers import learned_words, load_t5_tokenizer, load_tokenizer, tokenize

# The most tokens of a prompt that T5 was trained with.
_MOST_TOKENS = 512


def describe_pipeline(
    path: str, *, dtype: Any = jnp.float32, device: Any = None, options: Options = OWN
) -> Pipeline:
    """Learn all of a pipeline but its weights and words.

    Args:
        path: as for `open_pipeline`; of a model in PUBLISHED nothing is read.
        dtype: compute dtype of the networks.
        device: that they will run on, whose kernels they use; None is the first one here.
        options: size of the pictures, tokens of a prompt, and what else may be chosen.

    Returns:
        The pipeline, with jax.ShapeDtypeStruct for weights; its token ids have a shape and no meaning.

    Raises:
        WeightsError: it is no such folder.
    """
    family, parts = _read(path, dtype, device, options)

    def tokenize_shape(length: int, prompts: list[str]) -> np.ndarray:
        return np.zeros((len(prompts), length), np.int32)

    def most_tokens(network: Any) -> int:
        if isinstance(network, T5EncoderModel):
            return options.max_sequence_length or family.max_sequence_length(parts.networks)
        return network.config.max_position_embeddings

    lengths = {name: most_tokens(parts.networks[name]) for name in _encoders(parts)}
    shapes = {name: functools.partial(tokenize_shape, length) for name, length in lengths.items()}
    return family.compose(dataclasses.replace(parts, tokenize=shapes))


def open_pipeline(
    path: str, *, dtype: Any = jnp.float32, device: Any = None, options: Options = OWN
) -> Pipeline:
    """Find the weights of a diffusers pipeline and check that they fit, without reading them.

    Args:
        path: folder, `assets/...`, or hub id 'owner/name[@revision]', of a diffusers pipeline
            in PIPELINES. Which of its weights are read says `find_weights`.
        dtype: compute dtype of the networks; inputs, outputs and weights stay float32.
        device: that they will run on, whose kernels they use; None is the first one here.
        options: size of the pictures, tokens of a prompt, and what else may be chosen.

    Returns:
        The pipeline, with StoredArray for weights.

    Raises:
        WeightsError: it is no such folder, a field of a config file is not computed here, or weights are
            missing, extra or mis-shaped.
        ConfigError: an option that this pipeline does not have.
    """
    family, parts = _read(path, dtype, device, options)
    weights = _open_weights(path, parts)
    opened = {name: _open_tokenizer(path, name, family, parts) for name in _encoders(parts)}
    tokenizers = {name: functools.partial(tokenize, t, max_length=n) for name, (t, n) in opened.items()}
    pipeline = family.compose(dataclasses.replace(parts, weights=weights, tokenize=tokenizers))
    words = dict.fromkeys(word for tokenizer, _ in opened.values() for word in learned_words(tokenizer))
    return dataclasses.replace(pipeline, learned_words=tuple(words))


def load_pipeline(path: Any, *, dtype: Any = jnp.float32, options: Options = OWN) -> Pipeline:
    """Open a pipeline and read its weights: `open_pipeline`, with NumPy arrays."""
    pipeline = open_pipeline(str(path), dtype=dtype, options=options)
    networks = ("network", "text_encoder", "decoder")
    return dataclasses.replace(pipeline, **{name: read_all(getattr(pipeline, name)) for name in networks})


def options_of(config: Any) -> Options:
    """Read what a config chooses of its pipeline."""
    return Options(**{field: config[field] for field in OPTIONS})


def _read(path: str, dtype: Any, device: Any, options: Options) -> tuple[Family, Parts]:
    """Build the networks that the config files describe; their weights are shapes."""

    place = kind_of(resolve_path(path, "pretrained"))
    expect(place != "file", "pretrained", path, "the folder of a pipeline, or a hub id; it is a file")
    published = PUBLISHED.get(path) if is_hub_id(path) else None  # what lies here is read

    def read(file: str) -> Mapping[str, Any]:
        return read_json(get_file(path, file)) if published is None else published[file]

    index = read("model_index.json")
    kind = _class_name(index, "")
    if kind not in PIPELINES:
        known = " or ".join(map(repr, PIPELINES))
        raise WeightsError(f"'{path}/model_index.json': _class_name={kind!r}: expected {known}")
    family, kernels = PIPELINES[kind], find_kernels(device or jax.devices()[0])
    if published is None:
        naming_file(f"{path}/model_index.json", functools.partial(_check_index, index, family))

    def repaired(file: str) -> Mapping[str, Any]:
        content = read(file)
        if file == SCHEDULER_FILE:
            content = with_named_scheduler(content, index)
        return family.repair(file, content)

    networks = {}
    for name, network in family.networks.items():
        if name in family.optional and not any(index.get(name) or ()):
            continue
        config, file = repaired(f"{name}/config.json"), f"{path}/{name}/config.json"
        found = _class_name(config, network.__name__)
        if found != network.__name__:
            raise WeightsError(f"{file!r}: _class_name={found!r}: expected {network.__name__!r}")
        make = functools.partial(network.from_config, config, dtype=dtype, kernels=kernels)
        networks[name] = naming_file(file, make)
    for field in VIDEO_OPTIONS:
        value, own = getattr(options, field), getattr(OWN, field)
        expect(value == own or field in family.options, field, value, f"{own!r}: a {kind} has no such choice")
    shapes = {name: network.abstract_params() for name, network in networks.items()}
    length, most = options.max_sequence_length, family.max_sequence_length(networks)
    expected = f"from 1 to {_MOST_TOKENS}, or 0 for {most}" if most else "0: no encoder of this model is a T5"
    expect(length == 0 or (most > 0 and length <= _MOST_TOKENS), "max_sequence_length", length, expected)
    scheduler_config = repaired(SCHEDULER_FILE)
    return family, Parts(path, index, networks, shapes, {}, scheduler_config, options)


def _check_index(index: Mapping[str, Any], family: Family) -> None:
    """Refuse an index that does not name library and class of each part, as no export could be made of it."""
    encoders = [name for name in family.networks if name.startswith("text_encoder")]
    tokenizers = {name.replace("text_encoder", "tokenizer"): name for name in encoders}
    for name in (*family.networks, *tokenizers):
        named = index.get(name)
        absent = named is None or named == [None, None]
        if not (absent and tokenizers.get(name, name) in family.optional):
            texts = isinstance(named, list) and len(named) == 2 and all(isinstance(x, str) for x in named)
            expect_field(texts, name, named, "a library and a class, as ['diffusers', 'AutoencoderKL']")
    named = index.get("scheduler") or [None, None]
    listed = isinstance(named, list) and len(named) == 2
    expect_field(listed, "scheduler", named, "a library and a class, as ['diffusers', 'DDIMScheduler']")
    zeros = "force_zeros_for_empty_prompt"
    expect_field(isinstance(index.get(zeros, True), bool), zeros, index.get(zeros), "true or false")


def _class_name(config: Mapping[str, Any], default: str) -> str:
    """Read what class a file belongs to; those that Flax wrote are the same networks."""
    return str(config.get("_class_name", default)).removeprefix("Flax")


def _open_weights(path: str, parts: Parts) -> dict[str, Params]:
    weights = {}
    for name, shapes in parts.weights.items():

        def find(shard: str, name: str = name) -> Path | None:
            return find_file(path, f"{name}/{shard}")

        file = find_weights(path, name, transformers=name in _encoders(parts))
        weights[name] = open_weights(file, shapes, find=find)
    return weights


def _open_tokenizer(path: str, encoder: str, family: Family, parts: Parts) -> tuple[Any, int]:
    """Give the tokenizer of a text encoder, and how many tokens of a prompt it reads."""
    network, folder = parts.networks[encoder], encoder.replace("text_encoder", "tokenizer")
    if isinstance(network, T5EncoderModel):
        where = (find_file(path, f"{folder}/{file}") for file in T5_TOKENIZER_FILES)
        found = next((file for file in where if file is not None), None)
        if found is None:
            raise WeightsError(f"model {path!r} lacks '{folder}/{WHOLE_TOKENIZER}': expected a T5 tokenizer")
        tokenizer = load_t5_tokenizer(found.parent, network.config)
        most, length = tokenizer.model_max_length, parts.options.max_sequence_length
        expect(length <= most, "max_sequence_length", length, f"at most {most} of '{path}/{folder}'")
        return tokenizer, length or min(most, family.max_sequence_length(parts.networks))
    found = {file: find_file(path, f"{folder}/{file}") for file in TOKENIZER_FILES}
    missing = [file for file in TOKENIZER_FILES[:2] if found[file] is None]
    if missing and found[WHOLE_TOKENIZER] is None:
        raise WeightsError(f"model {path!r} lacks '{folder}/{missing[0]}': expected a CLIP tokenizer")
    where = next(file for file in found.values() if file is not None)
    tokenizer = load_tokenizer(where.parent, network.config)
    return tokenizer, tokenizer.model_max_length


def _encoders(parts: Parts) -> list[str]:
    return [name for name in parts.networks if name.startswith("text_encoder")]
