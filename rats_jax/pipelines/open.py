"""Opening of a diffusers pipeline: its config files are checked, its weights found and not read."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.errors import WeightsError
from rats_jax.networks.kernels import find_kernels
from rats_jax.pipelines import PIPELINES
from rats_jax.pipelines.base import Family, Parts, Pipeline, naming_file
from rats_jax.pipelines.published import PUBLISHED
from rats_jax.types import Params
from rats_jax.weights.folder import read_json
from rats_jax.weights.hub import find_file, get_file
from rats_jax.weights.state_dict import open_weights
from rats_jax.weights.stored import read_all
from rats_jax.weights.tokenizers import TOKENIZER_FILES, WHOLE_TOKENIZER, load_tokenizer, tokenize

# PyTorch's names in the order of preference; Flax's own format last, as it can only be read whole.
_DIFFUSERS_WEIGHTS = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_flax_model.msgpack",
)
_TRANSFORMERS_WEIGHTS = ("model.safetensors", "model.fp16.safetensors", "flax_model.msgpack")


def describe_pipeline(path: str, *, dtype: Any = jnp.float32, device: Any = None) -> Pipeline:
    """Learn all of a pipeline but its weights and words.

    Args:
        path: as for `open_pipeline`; of a model in PUBLISHED nothing is read.
        dtype: compute dtype of the networks.
        device: that they will run on, whose kernels they use; None is the first one here.

    Returns:
        The pipeline, with jax.ShapeDtypeStruct for weights; its token ids have a shape and no meaning.

    Raises:
        WeightsError: it is no such folder.
    """
    family, parts = _read(path, dtype, device)

    def tokenize_shape(length: int, prompts: list[str]) -> np.ndarray:
        return np.zeros((len(prompts), length), np.int32)

    return family.compose(
        dataclasses.replace(
            parts,
            tokenize={
                name: functools.partial(tokenize_shape, parts.networks[name].config.max_position_embeddings)
                for name in _encoders(parts)
            },
        )
    )


def open_pipeline(path: str, *, dtype: Any = jnp.float32, device: Any = None) -> Pipeline:
    """Find the weights of a diffusers pipeline and check that they fit, without reading them.

    Args:
        path: folder, `assets/...`, or hub id 'owner/name[@revision]', of a diffusers pipeline
            in PIPELINES. Weights are safetensors, or Flax msgpack where there are none.
        dtype: compute dtype of the networks; inputs, outputs and weights stay float32.
        device: that they will run on, whose kernels they use; None is the first one here.

    Returns:
        The pipeline, with StoredArray for weights.

    Raises:
        WeightsError: it is no such folder, a field of a config file is not computed here, or weights are
            missing, extra or mis-shaped.
    """
    family, parts = _read(path, dtype, device)
    weights = _open_weights(path, parts)
    tokenizers = {name: _open_tokenizer(path, name, parts.networks[name]) for name in _encoders(parts)}
    return family.compose(dataclasses.replace(parts, weights=weights, tokenize=tokenizers))


def load_pipeline(path: Any, *, dtype: Any = jnp.float32) -> Pipeline:
    """Open a pipeline and read its weights: `open_pipeline`, with NumPy arrays."""
    pipeline = open_pipeline(str(path), dtype=dtype)
    networks = ("network", "text_encoder", "decoder")
    return dataclasses.replace(pipeline, **{name: read_all(getattr(pipeline, name)) for name in networks})


def _read(path: str, dtype: Any, device: Any) -> tuple[Family, Parts]:
    """Build the networks that the config files describe; their weights are shapes."""

    def read(file: str) -> Mapping[str, Any]:
        return PUBLISHED[path][file] if path in PUBLISHED else read_json(get_file(path, file))

    index = read("model_index.json")
    kind = _class_name(index, "")
    if kind not in PIPELINES:
        raise WeightsError(f"{path!r} is a {kind!r} folder, expected {' or '.join(map(repr, PIPELINES))}")
    family, kernels = PIPELINES[kind], find_kernels(device or jax.devices()[0])
    networks = {}
    for name, network in family.networks.items():
        config, file = read(f"{name}/config.json"), f"{path}/{name}/config.json"
        found = _class_name(config, network.__name__)
        if found != network.__name__:
            raise WeightsError(f"{file!r}: _class_name={found!r}: expected {network.__name__!r}")
        make = functools.partial(network.from_config, config, dtype=dtype, kernels=kernels)
        networks[name] = naming_file(file, make)
    shapes = {name: network.abstract_params() for name, network in networks.items()}
    scheduler_config = read("scheduler/scheduler_config.json")
    return family, Parts(path, index, networks, shapes, {}, scheduler_config)


def _class_name(config: Mapping[str, Any], default: str) -> str:
    """Read what class a file belongs to; those that Flax wrote are the same networks."""
    return str(config.get("_class_name", default)).removeprefix("Flax")


def _open_weights(path: str, parts: Parts) -> dict[str, Params]:
    weights = {}
    for name, shapes in parts.weights.items():
        files = _TRANSFORMERS_WEIGHTS if name in _encoders(parts) else _DIFFUSERS_WEIGHTS
        weights[name] = open_weights(get_file(path, *(f"{name}/{file}" for file in files)), shapes)
    return weights


def _open_tokenizer(path: str, encoder: str, network: Any) -> Callable[[list[str]], np.ndarray]:
    folder = encoder.replace("text_encoder", "tokenizer")
    found = {file: find_file(path, f"{folder}/{file}") for file in TOKENIZER_FILES}
    missing = [file for file in TOKENIZER_FILES[:2] if found[file] is None]
    if missing and found[WHOLE_TOKENIZER] is None:
        raise WeightsError(f"model {path!r} lacks '{folder}/{missing[0]}': expected a CLIP tokenizer")
    where = next(file for file in found.values() if file is not None)
    return functools.partial(tokenize, load_tokenizer(where.parent, network.config))


def _encoders(parts: Parts) -> list[str]:
    return [name for name in parts.networks if name.startswith("text_encoder")]
