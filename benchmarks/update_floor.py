"""How far an update is above the sum of its parts; prints one JSON line.

    python benchmarks/update_floor.py [--config=configs/emoji_cpu.py] [--config.batch_size=16] [--repeats=5]

The update and each of its parts, jitted alone on the same shapes, run in turn in this process: teacher
rollout, student rollout with its backward pass (and the config's remat), text encoder, decodes and rewards
with theirs, optimizer. `ratio` is the median update over the sum of the parts' medians.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from ml_collections import config_flags

from rats_jax.aot.flops import count_flops
from rats_jax.config.flags import parse_flags
from rats_jax.parallel.cores import use_cores_of
from rats_jax.training.program import Program

_CONFIG = config_flags.DEFINE_config_file("config", "configs/emoji_cpu.py", "As of rats_jax.main.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed runs of the update and of each part.", lower_bound=1)


def make_parts(program: Program) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    """The parts of an update by name: a function of arrays, and the arrays.

    A backward pass starts from ones, and reaches what that of the update reaches.
    """
    experiment, frozen = program.experiment, program.frozen
    size, student = program.config.batch_size, program.init_state().student
    batch = program.place_batch(np.arange(size) % len(program.prompts))
    noise = jax.random.normal(jax.random.key(1), (size, *experiment.pipeline.latent_shape))
    images = jnp.full((size, *experiment.pipeline.image_shape()), 0.5)
    noise, images = jax.device_put((noise, images), program.layout.batch)
    embeds = jax.jit(experiment.fns.encode_fn)(frozen.text_encoder, batch.prompt)

    def teach(base: Any, noise: Any, embeds: Any) -> Any:
        params = experiment.teacher.params_fn(base, {} if not experiment.teacher_moves else student)
        return experiment.teacher.rollout_fn(params, noise, embeds)

    def roll(student: Any, base: Any, noise: Any, embeds: Any) -> Any:
        path = experiment.student.rollout_fn(experiment.student.params_fn(base, student), noise, embeds)
        return jnp.sum(path.latents) + jnp.sum(path.denoised)

    def decode(latents: Any, params: Any) -> Any:
        return jnp.sum(experiment.fns.decode_fn(params, latents))

    def score(images: Any, params: Any, prompt: Any) -> Any:
        return sum(map(jnp.sum, experiment.fns.score_fn(params, images, prompt).values()))

    def step(student: Any, grads: Any, state: Any) -> Any:
        updates, state = experiment.optimizer.update(grads, state, student)
        return optax.apply_updates(student, updates), state

    encoder = frozen.text_encoder, batch.prompt
    return {
        "text_encoder": (experiment.fns.encode_fn, encoder),
        "teacher_rollout": (teach, (frozen.base, noise, embeds)),
        "student_rollout_and_gradient": (jax.grad(roll), (student, frozen.base, noise, embeds)),
        "teacher_decode": (experiment.fns.decode_fn, (frozen.decoder, noise)),
        "student_decode_and_gradient": (jax.value_and_grad(decode), (noise, frozen.decoder)),
        "teacher_rewards": (experiment.fns.score_fn, (frozen.rewards, images, batch.reward)),
        "student_rewards_and_gradient": (jax.value_and_grad(score), (images, frozen.rewards, batch.reward)),
        "optimizer": (step, (student, student, experiment.optimizer.init(student))),
    }


def main(_: list[str]) -> None:
    """Compile all, then time all in turn."""
    use_cores_of(_CONFIG.value)
    program = Program(_CONFIG.value)
    config, update = program.config, program.update
    state, frozen, key = program.init_state(), program.frozen, jax.random.key(0)
    batch = program.place_batch(np.arange(config.batch_size) % len(program.prompts))
    parts = make_parts(program)
    flops = {name: count_flops(fn, *arguments) for name, (fn, arguments) in parts.items()}
    jitted = {name: (jax.jit(fn), arguments) for name, (fn, arguments) in parts.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ("update", *jitted)}
    for repeat in range(-1, _REPEATS.value or 1):  # the first one compiles, and is not counted
        start = time.perf_counter()
        state, metrics = update(state, frozen, batch, key)
        jax.block_until_ready((state, metrics))
        times = {"update": time.perf_counter() - start}
        for name, (fn, arguments) in jitted.items():
            start = time.perf_counter()
            jax.block_until_ready(fn(*arguments))
            times[name] = time.perf_counter() - start
        for name, value in times.items() if repeat >= 0 else ():
            seconds[name].append(value)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    floor = sum(medians[name] for name in jitted)
    report = {
        "device": jax.devices()[0].device_kind,
        "batch_size": config.batch_size,
        "teacher_num_steps": config.teacher.num_steps,
        "student_num_steps": config.student.num_steps,
        "ratio": medians["update"] / floor,
        "update_seconds": medians["update"],
        "floor_seconds": floor,
        "parts": {
            name: {"seconds": medians[name], "min": min(values), "max": max(values), "flops": flops.get(name)}
            for name, values in seconds.items()
        },
    }
    print(json.dumps(report))


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
