"""Prompts per second of the input pipeline against what the update consumes; prints one JSON line.

    python benchmarks/data.py [--repeats=5] [--batches=200] [--config=configs/emoji_cpu.py]

A batch is what the training loop takes before each update: indices from the shuffled stream, the prompts of
this process, tokens and the rewards' inputs, placed on the devices. Cold, each prompt is seen for the first
time; warm, what the rewards read of it is known. `updates_per_batch` is the time of a warm batch over that
of an update: far below 1 means that the device never waits, as batches are made while it computes.
"""

from __future__ import annotations

import json
import statistics
import time

import jax
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from rats_jax.config.flags import parse_flags
from rats_jax.data.prompts import make_prompt_iterator
from rats_jax.parallel.cores import use_cores_of
from rats_jax.training.program import Program

_CONFIG = config_flags.DEFINE_config_file("config", "configs/emoji_cpu.py", "As of rats_jax.main.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed rounds.", lower_bound=1)
_BATCHES = flags.DEFINE_integer("batches", 200, "Batches of a round.", lower_bound=1)


def main(_: list[str]) -> None:
    """Time rounds of batches and updates in turn."""
    use_cores_of(_CONFIG.value)
    program = Program(_CONFIG.value)
    config, update = program.config, program.update
    batches = make_prompt_iterator(program.prompts, batch_size=config.batch_size, seed=config.seed)

    def make(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            batch = program.place_batch(next(batches))
        jax.block_until_ready(batch)
        return (time.perf_counter() - start) / count

    cold = make(1)
    make(-(-len(program.prompts) // config.batch_size))  # a round of all prompts
    state, key = program.init_state(), jax.random.key(0)
    batch = program.place_batch(np.arange(config.batch_size) % len(program.prompts))
    seconds: dict[str, list[float]] = {"batch": [], "update": []}
    for repeat in range(-1, _REPEATS.value or 1):
        made = make(_BATCHES.value or 1)
        start = time.perf_counter()
        state, metrics = update(state, program.frozen, batch, key)
        jax.block_until_ready((state, metrics))
        for name, value in (("batch", made), ("update", time.perf_counter() - start)) if repeat >= 0 else ():
            seconds[name].append(value)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    report = {
        "batch_size": config.batch_size,
        "prompts": len(program.prompts),
        "first_batch_seconds": cold,
        "prompts_per_second": {name: config.batch_size / value for name, value in medians.items()},
        "updates_per_batch": medians["batch"] / medians["update"],
        "seconds": {name: [min(s), medians[name], max(s)] for name, s in seconds.items()},
    }
    print(json.dumps(report))


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
