"""Contestants of a report: every model with every number of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rats_jax.errors import ConfigError, expect
from rats_jax.networks.lora import Adapted
from rats_jax.report.tables import TEACHER
from rats_jax.student.adapted import without_effect
from rats_jax.student.load import load, load_pretrained
from rats_jax.student.model import Generator, Origin

_CHOSEN = ("height", "width", "num_frames", "flow_shift", "negative_prompt")


@dataclass(frozen=True)
class Entry:
    """One row of the report: a model and how it is sampled."""

    contestant: str
    model: Generator
    num_steps: int
    guidance_scale: float

    @property
    def nfe(self) -> int:
        """Network evaluations of a picture."""
        return self.num_steps * self.model.pipeline.evaluations(self.guidance_scale)


def open_entries(
    student: Generator,
    origin: Origin,
    *,
    num_steps: Sequence[int],
    others: Mapping[str, tuple[str, float | None]],
    dtype: str,
) -> list[Entry]:
    """Line up the contestants, and check that each can be sampled so.

    Args:
        student: of a run.
        origin: of the student.
        num_steps: those with which all but the teacher are judged.
        others: by name, folder or hub id of a pipeline, and its guidance scale or None for its own; they draw
            pictures of the run's size.
        dtype: what their networks compute in, 'float32' or 'bfloat16'.

    Returns:
        The teacher, the untrained model as the student and as the teacher is guided, the student, the others.

    Raises:
        ConfigError: a folder that is no pipeline, latents of another shape, a schedule that is not supported,
            or steps that it has not.
    """
    config = origin.config
    network = student.pipeline.network
    if isinstance(network, Adapted):
        network = without_effect(network)
    else:
        network = load_pretrained(config, role="student", dtype=dtype).pipeline.network
    # Weights differ, networks do not: what is compiled for one draws with the other.
    untrained = student.with_network(network, guidance_scale=student.guidance_scale)
    teacher = untrained
    sampler = config.teacher.get("sampler") or config.sampler
    if (config.teacher.timestep_spacing, sampler) != (config.student.timestep_spacing, config.sampler):
        teacher = load_pretrained(config, role="teacher", dtype=dtype)
    scale = config.teacher.guidance_scale
    lines: list[tuple[str, Generator, float, Sequence[int]]] = [
        (TEACHER, teacher, scale, [config.teacher.num_steps])
    ]
    lines.append(("untrained", untrained, student.guidance_scale, num_steps))
    if scale != student.guidance_scale:
        lines.append(("untrained, guided", untrained, scale, num_steps))
    lines.append(("student", student, student.guidance_scale, num_steps))
    for name, (folder, guidance) in others.items():
        model = load(folder, dtype=dtype, **{field: config[field] for field in _CHOSEN})
        shapes = model.pipeline.latent_shape, student.pipeline.latent_shape
        expected = f"a model with latents {shapes[1]}, it has {shapes[0]}"
        expect(shapes[0] == shapes[1], f"contestant {name}", folder, expected)
        lines.append((name, model, model.guidance_scale if guidance is None else guidance, num_steps))
    for name, model, _, steps in lines:
        for count in steps:
            try:
                model.pipeline.grid_fn(count, model.timestep_spacing)
            except ValueError as error:
                raise ConfigError(f"num_steps={count}: {name}: {error}") from None
    return [Entry(name, model, count, s) for name, model, s, steps in lines for count in steps]
