r"""Seconds of an update with and without what is written in a form of our own; prints one JSON line.

    python benchmarks/forms.py [--forms=NAME ...] [--rounds=3] [--updates=7] \\
        [--config=FILE] [--config.FIELD=VALUE]

`group_norm` is with `flax.linen.GroupNorm` in place of that of rats_jax/networks/group_norm.py, `attention`
without cuDNN's kernel on a GPU, on a CPU without scores in columns, `convolution`, on a CPU, without the
gradients that are fast in loops; elsewhere it changes nothing. Each is measured in processes of its own, in
turn: seconds are the smallest, the median and the largest of all rounds, temporary bytes what XLA lays out
for a device besides arguments and results.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from absl import app, flags
from ml_collections import config_flags

from rats_jax.config.flags import parse_flags

_CONFIG = config_flags.DEFINE_config_file("config", "configs/emoji_cpu.py", "As of rats_jax.main.")
_FORMS = flags.DEFINE_multi_enum(
    "forms", ["group_norm"], ["group_norm", "attention", "convolution"], "Without which, each alone."
)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Processes of each form.", lower_bound=1)
_UPDATES = flags.DEFINE_integer("updates", 7, "Timed updates of a process.", lower_bound=1)
_AS_IT_IS = "as it is"


def measure(config: Any, without: str, updates: int) -> tuple[list[float], int]:
    """Time updates in a process that has made none."""
    import jax
    import numpy as np

    from rats_jax.parallel import cores
    from rats_jax.parallel.cache import keep_compiled
    from rats_jax.training.program import Program

    put_back(without)
    keep_compiled()
    cores.use_cores_of(config)
    program = Program(config)
    state, update = program.init_state(), program.update
    batch = program.place_batch(np.arange(config.batch_size) % len(program.prompts))
    seconds = []
    for repeat in range(-1, updates):
        start = time.perf_counter()
        state, metrics = update(state, program.frozen, batch, jax.random.key(0))
        jax.block_until_ready((state, metrics))
        if repeat >= 0:
            seconds.append(time.perf_counter() - start)
    return seconds, update.memory_analysis().temp_size_in_bytes


def put_back(form: str) -> None:
    """Let the networks of this process compute one thing as flax or XLA would."""
    import flax.linen as nn

    from rats_jax.networks.kernels import PLAIN, find_kernels
    from rats_jax.pipelines import open as opening

    def group_norm(x: Any, scale: Any, bias: Any, *, num_groups: int, epsilon: float, dtype: Any) -> Any:
        norm = nn.GroupNorm(num_groups, epsilon=epsilon, dtype=dtype, parent=None)
        return norm.apply({"params": {"scale": scale, "bias": bias}}, x)

    others = {
        _AS_IT_IS: {},
        "group_norm": {"group_norm": group_norm},
        "attention": {"attend": PLAIN.attend},
        "convolution": {"convolve": PLAIN.convolve},
    }
    opening.find_kernels = lambda device: dataclasses.replace(find_kernels(device), **others[form])


def main(_: list[str]) -> None:
    """Let all compile, then measure all in turn."""
    names = (_AS_IT_IS, *(_FORMS.value or ()))
    found: dict[str, list[tuple[list[float], int]]] = {name: [] for name in names}
    for turn in range(-1, _ROUNDS.value or 1):
        for name in names:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:
                measured = alone.submit(measure, _CONFIG.value, name, _UPDATES.value or 1).result()
            if turn >= 0:
                found[name].append(measured)
    report = {}
    for name, rounds in found.items():
        seconds = [x for one, _ in rounds for x in one]
        report[name if name == _AS_IT_IS else f"without {name}"] = {
            "seconds": [min(seconds), statistics.median(seconds), max(seconds)],
            "temporary_bytes": rounds[0][1],
        }
    print(json.dumps(report))


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
