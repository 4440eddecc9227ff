"""Loading of a student where training or the export left it: what `rats_jax.load` does."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from rats_jax.diffusion.sampler import SAMPLERS
from rats_jax.errors import ConfigError, expect
from rats_jax.fields import Field, integer, number, one_of, read_fields
from rats_jax.networks.lora import init_adapters, merge_adapters
from rats_jax.parallel.environment import check_sums
from rats_jax.paths import find_model, kind_of
from rats_jax.pipelines.base import OPTIONS, Options, Pipeline
from rats_jax.pipelines.open import open_pipeline, options_of
from rats_jax.student import arguments
from rats_jax.student.adapted import with_student_adapters
from rats_jax.student.model import Generator, Origin
from rats_jax.types import Params
from rats_jax.weights.folder import naming_file, read_json
from rats_jax.weights.hub import find_file
from rats_jax.weights.stored import is_finite
from rats_jax.workdir import checkpoint, saved_config

SETTINGS_FILE = "rats_jax.json"
"""What an exported folder says of its student, beside the files of the pipeline."""
_SETTINGS = {
    "sampler": one_of(*SAMPLERS),
    "num_steps": integer(None),
    "guidance_scale": Field(None, lambda value: number(1.0).holds(value) and value >= 1, "a number >= 1"),
    "config": Field({}, lambda value: isinstance(value, Mapping), "an object"),
}
_READ = (
    *("pretrained", "student.num_steps", "student.guidance_scale", "student.timestep_spacing", "sampler"),
    *("student.ema_decay", "seed", "lora.rank", "lora.alpha", "lora.targets", *OPTIONS),
)
"""Fields of a run's config that drawing needs."""


def load(
    path: str,
    *,
    step: int | None = None,
    dtype: str = "float32",
    height: int = 0,
    width: int = 0,
    max_sequence_length: int = 0,
    num_frames: int = 0,
    flow_shift: float = 0.0,
    negative_prompt: str = "",
) -> Generator:
    """Load the student of a run, an exported student, or any pipeline of a known family.

    Args:
        path: work directory of a run, or folder or hub id of a diffusers pipeline.
        step: of a run, the checkpoint; None is the newest.
        dtype: what the networks compute in, and what their weights are kept in: 'float32' or 'bfloat16'.
        height, width: of the pictures, pixels; 0 is what the student was trained at, or the pipeline's own.
        max_sequence_length: tokens of a prompt that a T5 encoder reads; 0 as for the size.
        num_frames, flow_shift, negative_prompt: of a model of videos, as in configs/default.py; 0 and ''
            as for the size.

    Returns:
        The model. Of a pipeline that says nothing of its student: its family's steps and guidance.

    Raises:
        ConfigError: it is neither, or a file, or has no such checkpoint; an argument has another type or
            range; as `rats_jax.parallel.environment.check_sums`.
    """
    expect(isinstance(path, str | os.PathLike) and str(path) != "", "path", path, "a folder or a hub id")
    path = str(path)
    arguments.check_dtype(dtype)
    step = None if step is None else arguments.integer(step, "step", least=0)
    sizes = {"height": height, "width": width, "max_sequence_length": max_sequence_length}
    sizes["num_frames"] = num_frames
    expect(isinstance(negative_prompt, str), "negative_prompt", negative_prompt, "a text")
    chosen = Options(
        **{field: arguments.integer(size, field, least=0) for field, size in sizes.items()},
        flow_shift=arguments.number(flow_shift, "flow_shift", least=0),
        negative_prompt=negative_prompt,
    )
    folder = find_model(path, "path")
    check_sums()
    if kind_of(folder / saved_config.FILE) and not kind_of(folder / "model_index.json"):
        return _load_run(str(folder), step=step, dtype=dtype, chosen=chosen)
    if step is not None:
        raise ConfigError(f"step={step}: expected none, as {path!r} is no work directory of a run")
    settings: dict[str, Any] = {"sampler": "ddim"}
    found = find_file(path, SETTINGS_FILE)
    if found is not None:
        settings |= naming_file(str(found), functools.partial(_read_settings, read_json(found)))
        chosen = _prefer(chosen, ConfigDict(settings["config"]))
    pipeline = open_pipeline(path, dtype=jnp.dtype(dtype), options=chosen)
    return Generator(
        path,
        _read(pipeline, dtype),
        timestep_spacing="",
        sampler=settings["sampler"],
        num_steps=settings.get("num_steps", pipeline.num_steps),
        guidance_scale=settings.get("guidance_scale", pipeline.guidance_scale),
    )


def _load_run(workdir: str, *, step: int | None, dtype: str, chosen: Options) -> Generator:
    folder = epath.Path(workdir)
    file = folder / saved_config.FILE
    saved = saved_config.read(file)
    naming_file(str(file), functools.partial(saved_config.check_fields, saved, _READ))
    config: Any = ConfigDict(saved)
    pipeline = open_pipeline(config.pretrained, dtype=jnp.dtype(dtype), options=_prefer(chosen, config))
    lora = config.lora.rank > 0
    like = pipeline.network
    if lora:
        like = init_adapters(like, targets=config.lora.targets, rank=config.lora.rank, seed=config.seed)
    averaged = config.student.ema_decay > 0
    step, student = checkpoint.restore_student(folder / "checkpoints", like, step=step, averaged=averaged)
    _expect_finite(student, workdir, step)
    origin = Origin(config, step, student if lora else None)
    if lora and dtype != "float32":
        model = _sampled(workdir, pipeline, config, config.student, dtype)
        adapted = with_student_adapters(model.pipeline, student, scale=scale_of(config))
        return dataclasses.replace(model, pipeline=adapted, origin=origin)
    network = merge_adapters(pipeline.network, student, scale=scale_of(config)) if lora else student
    model = _sampled(workdir, dataclasses.replace(pipeline, network=network), config, config.student, dtype)
    return dataclasses.replace(model, origin=origin)


def scale_of(config: Any) -> float:
    """Give the scale of a run's adapters, alpha / rank."""
    return config.lora.alpha / config.lora.rank


def _read_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Read what an exported folder says of its student; ValueError 'field=value: expected ...'."""
    values = read_fields(settings, _SETTINGS, ignored=settings.keys())
    given = {name: values[name] for name in _SETTINGS if name in settings}
    config = saved_config.with_added(values["config"])
    saved_config.check_fields(config, OPTIONS)
    return given | {"config": config}


def _prefer(chosen: Options, config: Any) -> Options:
    """Take what was chosen, and of a run's config what was not."""
    own, given = dataclasses.asdict(_whole(config)), dataclasses.asdict(chosen)
    return Options(**{field: given[field] or own[field] for field in own})


def _whole(config: Any) -> Options:
    """Read what a config chooses, save that what is drawn is decoded whole."""
    return dataclasses.replace(options_of(config), num_decoded_latents=0)


def load_pretrained(config: Any, *, role: str, dtype: str = "float32") -> Generator:
    """Load what a run starts from, sampled as its student or its teacher is.

    Args:
        config: of the run.
        role: 'student' or 'teacher'.
        dtype: as of `load`.

    Raises:
        ConfigError: the config's `pretrained` is no pipeline, or another role or dtype.
    """
    expect(role in ("student", "teacher"), "role", role, "'student' or 'teacher'")
    arguments.check_dtype(dtype)
    pipeline = open_pipeline(config.pretrained, dtype=jnp.dtype(dtype), options=_whole(config))
    return _sampled(config.pretrained, pipeline, config, config[role], dtype)


def _sampled(source: str, pipeline: Pipeline, config: Any, sampling: Any, dtype: str) -> Generator:
    return Generator(
        source,
        _read(pipeline, dtype),
        timestep_spacing=sampling.timestep_spacing,
        sampler=sampling.get("sampler") or config.sampler,
        num_steps=sampling.num_steps,
        guidance_scale=sampling.guidance_scale,
    )


def _read(pipeline: Pipeline, dtype: str) -> Pipeline:
    """Read all weights, in the dtype in which they are kept."""

    def read(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: _read_as(leaf, jnp.dtype(dtype)), tree)

    return dataclasses.replace(
        pipeline,
        network=read_network(pipeline, dtype),
        text_encoder=read(pipeline.text_encoder),
        decoder=read(pipeline.decoder),
    )


def read_network(pipeline: Pipeline, dtype: str) -> Params:
    """Read the weights of its network as NumPy arrays, in the dtypes in which they are kept."""
    return jax.tree.map(_read_as, pipeline.network, pipeline.network_dtypes(dtype))


def _read_as(leaf: Any, dtype: Any) -> np.ndarray:
    return np.asarray(leaf.astype(dtype))


def _expect_finite(student: Any, workdir: str, step: int) -> None:
    """Refuse the student of a checkpoint that was saved with nan or infinity in it; names a weight."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(student):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        expected = f"finite weights in the checkpoint of update {step}, {name} has nan or infinity"
        expect(is_finite(leaf), "workdir", workdir, expected)
