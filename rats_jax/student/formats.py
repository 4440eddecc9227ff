"""Formats of an export: for PyTorch, for ComfyUI, for Flax pipelines, for any JAX."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from safetensors.numpy import load_file, save_file

from rats_jax.errors import ConfigError, ExportError, expect
from rats_jax.networks.lora import Adapted, merge_adapters
from rats_jax.pipelines.base import Pipeline
from rats_jax.pipelines.open import open_pipeline, options_of
from rats_jax.pipelines.write import copy_tokenizers
from rats_jax.student.adapters import LORA_FILE, read_adapters, write_adapters
from rats_jax.student.card import PLACE, write_card
from rats_jax.student.load import SETTINGS_FILE, load, read_network, scale_of
from rats_jax.student.model import Generator, Origin, make_sampler
from rats_jax.types import Params
from rats_jax.weights.folder import write_json
from rats_jax.workdir import saved_config

TOLERANCE = 2 / 255
"""The largest mean difference between a picture and the same one from what was written, images in [0, 1]."""
_DTYPES = ("float32", "float16", "bfloat16")
_PLATFORMS = ("cpu", "cuda", "tpu")
_PROGRAM, _WEIGHTS = "sampler.stablehlo", "weights.safetensors"
_PROMPT, _SEED = "a photo of a red apple", 0


class Format(NamedTuple):
    """A way to write a student.

    Attributes:
        write: (model, folder, dtype of the weights on disk).
        read: (model, folder) -> images of `_PROMPT` from the noise of `_SEED`, with what the folder holds.
    """

    write: Callable[[Generator, Path, str], None]
    read: Callable[[Generator, Path], np.ndarray]


def export_student(model: Generator, folder: Path, *, format: str, dtype: str, place: str = PLACE) -> float:
    """Write a student, read it back and draw with what was read.

    Args:
        model: of a run, from `rats_jax.load`.
        folder: an empty one to write into.
        format: a key of FORMATS.
        dtype: of the weights on disk, 'float32', 'float16' or 'bfloat16'.
        place: what its card tells others to open, as the id of a repository of the hub.

    Returns:
        The mean difference between the picture that the model draws and the one that the folder gives.

    Raises:
        ConfigError: another format or dtype; the model has no adapters and the format is of adapters, or
            computes what the classes of the format do not.
        ExportError: the difference is above TOLERANCE.
    """
    expect(format in list(FORMATS), "format", format, f"one of {', '.join(FORMATS)}")
    expect(dtype in _DTYPES, "dtype", dtype, f"one of {', '.join(_DTYPES)}")
    folder, origin = Path(folder), origin_of(model)
    FORMATS[format].write(model, folder, dtype)
    settings = {name: getattr(model, name) for name in ("num_steps", "guidance_scale", "sampler")}
    settings |= {"update": origin.step, "config": saved_config.to_dict(origin.config)}
    write_json(folder / SETTINGS_FILE, settings)
    write_card(model, folder, format=format, place=place)
    expected, actual = model([_prompt(model)], seed=_SEED), FORMATS[format].read(model, folder)
    difference = float(np.mean(np.abs(actual - expected)))
    if not difference <= TOLERANCE:  # nan too
        raise ExportError(
            f"what was written draws another picture: they differ by {255 * difference:.2f}/255 on average, "
            f"expected at most {255 * TOLERANCE:.0f}/255; nothing is kept"
        )
    return difference


def count_bytes(model: Generator, dtype: str) -> int:
    """Say how many bytes the weights of a model take in a dtype."""
    pipeline = model.pipeline
    leaves = jax.tree.leaves((pipeline.network, pipeline.text_encoder, pipeline.decoder))
    return sum(leaf.size for leaf in leaves) * jnp.dtype(dtype).itemsize


def origin_of(model: Generator) -> Origin:
    """Give the run that a model comes from.

    Raises:
        ConfigError: it comes from none.
    """
    if model.origin is None:
        raise ConfigError(f"workdir={model.source!r}: expected the work directory of a run")
    return model.origin


def _write_diffusers(model: Generator, folder: Path, dtype: str) -> None:
    pipeline = _merged(model)
    spacing = model.timestep_spacing
    pipeline.write(folder, pipeline.network, timestep_spacing=spacing, dtype=jnp.dtype(dtype))


def _merged(model: Generator) -> Pipeline:
    """Give the pipeline of a model with adapters merged into its weights, if they lie beside them."""
    if not isinstance(model.pipeline.network, Adapted):
        return model.pipeline
    origin = origin_of(model)
    network = _merge(model, origin.adapters, scale=scale_of(origin.config))
    return dataclasses.replace(model.pipeline, network=network)


def _merge(model: Generator, adapters: Any, *, scale: float) -> Params:
    """Merge adapters into the weights that a run started from, kept as the model's."""
    config, kept = origin_of(model).config, _kept(model)
    pretrained = open_pipeline(config.pretrained, options=options_of(config))
    network = merge_adapters(pretrained.network, adapters, scale=scale, dtype=jnp.dtype(kept))
    return read_network(dataclasses.replace(pretrained, network=network), kept)


def _kept(model: Generator) -> str:
    """Name the dtype in which a model's weights are kept, but for those that are float32 in any case."""
    return jax.tree.leaves(model.pipeline.decoder)[0].dtype.name


def _prompt(model: Generator) -> str:
    """Give the prompt of the check: the words that were learned, then what all models know."""
    return " ".join([*model.pipeline.learned_words, _PROMPT])


def _read_diffusers(model: Generator, folder: Path) -> np.ndarray:
    read = load(str(folder), dtype=_kept(model))
    for word in model.pipeline.learned_words:  # one of many changes too little of the picture
        pairs = zip(*(jax.tree.leaves(m.pipeline.tokenize([word])) for m in (model, read)), strict=True)
        if not all(np.array_equal(*pair) for pair in pairs):
            raise ExportError(f"what was written reads the learned word {word!r} otherwise; nothing is kept")
    return read([_prompt(model)], seed=_SEED)


def _write_flax(model: Generator, folder: Path, dtype: str) -> None:
    write = model.pipeline.write_flax
    if write is None:
        raise ConfigError(f"format='flax': Flax diffusers had no pipeline of the kind of {model.source!r}")
    write(
        folder,
        _merged(model).network,
        num_steps=model.num_steps,
        timestep_spacing=model.timestep_spacing,
        dtype=jnp.dtype(dtype),
    )


def _write_lora(model: Generator, folder: Path, dtype: str) -> None:
    origin = origin_of(model)
    if origin.adapters is None:
        raise ConfigError("format='lora': expected a run with lora.rank > 0, this one trained all weights")
    write_adapters(
        folder,
        origin.adapters,
        network_name=model.pipeline.network_name,
        native_name=model.pipeline.native_name,
        scale=scale_of(origin.config),
        dtype=jnp.dtype(dtype),
    )
    if model.pipeline.write_scheduler is not None:
        model.pipeline.write_scheduler(folder, timestep_spacing=model.timestep_spacing)


def _read_lora(model: Generator, folder: Path) -> np.ndarray:
    origin = origin_of(model)
    name = model.pipeline.network_name
    adapters = read_adapters(folder / LORA_FILE, origin.adapters, network_name=name)
    if isinstance(model.pipeline.network, Adapted):
        network = model.pipeline.network._replace(adapters=adapters)
    else:
        network = _merge(model, adapters, scale=1.0)
    pipeline = dataclasses.replace(model.pipeline, network=network)
    return dataclasses.replace(model, pipeline=pipeline, _weights=[], _programs={})(
        [_prompt(model)], seed=_SEED
    )


def _write_jax(model: Generator, folder: Path, dtype: str) -> None:
    model.pipeline.expect_pictures("format='jax': workdir", model.source)
    spacing, steps = model.timestep_spacing, model.num_steps
    pipeline = _merged(model)
    draw = make_sampler(pipeline, model.sampler, num_steps=steps, timestep_spacing=spacing)
    weights = (pipeline.network, pipeline.text_encoder, pipeline.decoder)
    named, structure = _named(weights, model.pipeline.network_name, jnp.dtype(dtype))

    def sample(named: dict[str, Any], prompt: Any, noise: Any, guidance_scale: Any) -> Any:
        leaves = [named[name].astype(jnp.float32) for name in names]
        return draw(jax.tree.unflatten(structure, leaves), prompt, noise, guidance_scale)

    names = list(named)
    (batch,) = export.symbolic_shape("b")
    ids = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype), model.pipeline.tokenize([""])
    )
    arguments = (
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), named),
        ids,
        jax.ShapeDtypeStruct((batch, *model.pipeline.latent_shape), jnp.float32),
        jax.ShapeDtypeStruct((), jnp.float32),
    )
    program = export.export(jax.jit(sample), platforms=_PLATFORMS)(*arguments)
    (folder / _PROGRAM).write_bytes(program.serialize())
    save_file(named, str(folder / _WEIGHTS))
    (folder / _WEIGHTS).chmod(0o644)
    copy_tokenizers(origin_of(model).config.pretrained, folder)


def _read_jax(model: Generator, folder: Path) -> np.ndarray:
    program = export.deserialize(bytearray((folder / _PROGRAM).read_bytes()))
    weights, noise = load_file(str(folder / _WEIGHTS)), model.make_noise([_SEED])
    prompt = model.pipeline.tokenize([_prompt(model)])
    return np.asarray(program.call(weights, prompt, noise, np.float32(model.guidance_scale)))


def _named(weights: Any, network_name: str, dtype: Any) -> tuple[dict[str, np.ndarray], Any]:
    """Flatten weights into arrays by the paths of their trees, in the order of the structure's leaves."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(weights)
    networks = (network_name, "text_encoder", "decoder")
    named = {
        f"{networks[path[0].idx]}/{jax.tree_util.keystr(path[1:], simple=True, separator='/')}": leaf
        for path, leaf in leaves
    }
    return {name: np.asarray(leaf, dtype) for name, leaf in named.items()}, structure


FORMATS = {
    "diffusers": Format(_write_diffusers, _read_diffusers),
    "flax": Format(_write_flax, _read_diffusers),
    "lora": Format(_write_lora, _read_lora),
    "jax": Format(_write_jax, _read_jax),
}
"""The formats, by name."""
