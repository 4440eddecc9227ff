"""Verification of a pipeline: both sides run, one after the other, and every part is compared."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from rats_jax.pipelines.base import Options, Pipeline
from rats_jax.pipelines.open import open_pipeline
from rats_jax.progress import progress
from rats_jax.verification import ours, pytorch
from rats_jax.verification.comparison import (
    NETWORKS,
    PICTURES,
    Check,
    compare_outputs,
    compare_pictures,
)
from rats_jax.verification.inputs import PROMPTS, Inputs, NotifyFn, Outputs, draw_inputs
from rats_jax.verification.originals import ORIGINALS, Section
from rats_jax.weights.folder import read_json
from rats_jax.weights.hub import get_file

_PARTS = 5
"""Those that `notify` is told."""


@dataclass(frozen=True)
class Verified:
    """What was verified, and how.

    Attributes:
        kind: the class that model_index.json names.
        size: of its pictures as text, '512x512', of videos '5x480x832'.
        checks: all comparisons.
    """

    kind: str
    size: str
    checks: list[Check]


def verify_pipeline(path: str, *, original: str, options: Options, dtype: str, device: str) -> Verified:
    """Compare text encoders, network, decoder and a sample with PyTorch's.

    PyTorch's side runs first, and all of its memory is free before ours begins.

    Args:
        path: folder or hub id of the pipeline.
        original: what PyTorch opens, usually the same.
        options: size of the pictures, and what else may be chosen.
        dtype: of both sides, 'float32' or 'bfloat16'.
        device: of PyTorch's side, 'cpu' or 'cuda'; ours runs on jax's first device.

    Raises:
        ConfigError: either side does not open the pipeline, or has no such options.
    """
    pipeline = open_pipeline(path, dtype=jnp.dtype(dtype), options=options)
    source = pytorch.open_source(original, dtype=dtype, device=device)
    kind = source.index["_class_name"]
    inputs = _draw(pipeline, path, kind, dtype)
    with _told_parts() as notify:
        theirs, sections = pytorch.run_pipeline(source, inputs, notify=notify)
        own = ours.run_pipeline(pipeline, inputs, theirs.embeds, dtype=jnp.dtype(dtype), notify=notify)
    size = "x".join(map(str, pipeline.image_shape()[:-1]))
    return Verified(kind, size, _compare(pipeline, kind, inputs, own, theirs, sections, dtype))


@contextlib.contextmanager
def _told_parts() -> Iterator[NotifyFn]:
    """Show progress while a block runs: gives what is to be called with the name of each part."""
    with contextlib.closing(progress(_PARTS, title="verifying", unit="part", leave=False)) as bar:
        has_begun = False

        def notify(part: str) -> None:
            nonlocal has_begun
            bar.set_postfix_str(part)
            bar.update(int(has_begun))  # the part before is done
            has_begun = True

        yield notify
        bar.update(1)


def _draw(pipeline: Pipeline, path: str, kind: str, dtype: str) -> Inputs:
    scheduler = read_json(get_file(path, "scheduler/scheduler_config.json"))
    return draw_inputs(
        pipeline,
        num_timesteps=scheduler.get("num_train_timesteps", 1000),
        prompt_length=ORIGINALS[kind].prompt_length(pipeline.tokenize([PROMPTS[0]])),
        dtype=jnp.dtype(dtype),
    )


def _compare(
    pipeline: Pipeline,
    kind: str,
    inputs: Inputs,
    own: Outputs,
    theirs: Outputs,
    sections: list[Section],
    dtype: str,
) -> list[Check]:
    """Compare all parts, in the order in which they depend on each other."""
    allowed = NETWORKS[dtype]
    checks = [
        compare_outputs(section.part, section.take(own.embeds), section.take(theirs.embeds), allowed)
        for section in sections
    ]
    for timestep, ours_there, theirs_there in zip(inputs.timesteps, own.levels, theirs.levels, strict=True):
        part = f"{pipeline.network_name}, timestep {timestep:g}"
        checks.append(compare_outputs(part, ours_there, theirs_there, allowed))
    clip = (lambda x: np.clip(x, 0.0, 1.0)) if ORIGINALS[kind].clips else (lambda x: x)
    checks.append(compare_outputs("decoder", clip(own.decoded), theirs.decoded, allowed))
    checks.append(compare_pictures("sample of 4 steps", own.images, theirs.images, PICTURES[dtype]))
    return checks
