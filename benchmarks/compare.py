"""Seconds of the update with a config and with changes of it, in turn in this process; prints one JSON line.

    python benchmarks/compare.py --change=student.unroll=True [--change=student.remat=step] [--repeats=7]

A change is one field, or several with commas between, of the config (--config=configs/emoji_cpu.py).
With teacher.reuse_after an update is one of a later round, whose targets are there.
`make` is how long tracing and compilation take: cold, and with the compiled program kept.
"""

from __future__ import annotations

import ast
import json
import statistics
import tempfile
import time
from typing import Any

import jax
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from rats_jax.config.flags import parse_flags
from rats_jax.parallel.cores import use_cores_of
from rats_jax.training.program import Program

_CONFIG = config_flags.DEFINE_config_file("config", "configs/emoji_cpu.py", "As of rats_jax.main.")
_CHANGES = flags.DEFINE_multi_string("change", [], "FIELD=VALUE[,FIELD=VALUE]; may be given several times.")
_REPEATS = flags.DEFINE_integer("repeats", 7, "Timed updates of each.", lower_bound=1)


def main(_: list[str]) -> None:
    """Compile all, time them in turn, then compile all again from what is kept."""
    use_cores_of(_CONFIG.value)
    kept = tempfile.TemporaryDirectory()
    jax.config.update("jax_compilation_cache_dir", kept.name)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    programs = {change: Program(_changed(change)) for change in ("", *_CHANGES.value)}
    made: dict[str, list[float]] = {change: [] for change in programs}
    seconds: dict[str, list[float]] = {change: [] for change in programs}
    for change, program in programs.items():
        assert program.update
        made[change].append(program.compile_seconds)
    states = {change: program.init_state() for change, program in programs.items()}
    batches = {
        change: program.place_batch(np.arange(program.config.batch_size) % len(program.prompts))
        for change, program in programs.items()
    }
    key = jax.random.key(0)
    targets = {
        change: (program.teach(states[change].teacher, program.frozen, batches[change], key),)
        if program.config.teacher.reuse_after
        else ()
        for change, program in programs.items()
    }
    for repeat in range(-1, _REPEATS.value or 1):
        for change, program in programs.items():
            start = time.perf_counter()
            states[change], metrics = program.update(
                states[change], program.frozen, batches[change], key, *targets[change]
            )
            jax.block_until_ready((states[change], metrics))
            if repeat >= 0:
                seconds[change].append(time.perf_counter() - start)
    jax.clear_caches()
    for change, program in programs.items():
        del program.update
        assert program.update
        made[change].append(program.compile_seconds)
    report = {
        change or "as it is": {
            "seconds": [min(times), statistics.median(times), max(times)],
            "make": dict(zip(("cold", "warm"), made[change], strict=True)),
        }
        for change, times in seconds.items()
    }
    print(json.dumps(report))


def _changed(change: str) -> Any:
    config = _CONFIG.value.copy_and_resolve_references()
    for assignment in change.split(",") if change else ():
        field, _, text = assignment.partition("=")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        config.update_from_flattened_dict({field: value})
    return config


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
