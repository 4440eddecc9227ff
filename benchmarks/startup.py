"""Seconds from the command to the first update, cold and with the programs kept; prints one JSON line.

    python benchmarks/startup.py [--repeats=5] [--config=configs/emoji_cpu.py] [--config.FIELD=VALUE ...]

Runs `python -m rats_jax.main` for one update, each time in a new process and work directory: cold with an
empty folder for compiled programs, then warm with what the cold start left there. The clock starts before
the process and stops when the first update is in metrics.jsonl. `imports`, `tracing` (with lowering),
`compilation` (XLA's, or reading what is kept) are parts of it, `update` is what follows the last program, and
`loading` all else: configs, weights, prompts.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

_PARTS = {
    "/jax/core/compile/jaxpr_trace_duration": "tracing",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "tracing",
    "/jax/core/compile/backend_compile_duration": "compilation",
}


def child(arguments: list[str]) -> None:
    """Run rats_jax.main, and tell when its first update was logged and where the time went before."""
    started = float(os.environ["STARTED"])
    import jax

    from rats_jax.training import logbook
    from rats_jax.workdir.metrics import MetricsWriter

    report = {"imports": time.time() - started}
    intervals: dict[str, list[tuple[float, float]]] = {part: [] for part in _PARTS.values()}
    write = MetricsWriter.write

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event in _PARTS and "first_update" not in report:
            now = time.time()
            intervals[_PARTS[event]].append((now - duration_secs, now))

    def log(self: MetricsWriter, step: int, metrics: Mapping[str, float]) -> None:
        write(self, step, metrics)
        report.setdefault("first_update", time.time() - started)

    jax.monitoring.register_event_duration_secs_listener(listen)
    logbook.MetricsWriter.write = log
    sys.argv = ["rats_jax.main", *arguments]
    try:
        runpy.run_module("rats_jax.main", run_name="__main__")
    finally:
        known = {part: covered(spans) for part, spans in intervals.items()}
        last = max(end for spans in intervals.values() for _, end in spans) - started
        known |= {"imports": report["imports"], "update": report["first_update"] - last}
        known["loading"] = report["first_update"] - sum(known.values())
        print(json.dumps(report | known))


def covered(spans: list[tuple[float, float]]) -> float:
    """Add up what intervals cover: a function that another one calls is traced within its time."""
    total, reached = 0.0, 0.0
    for start, end in sorted(spans):
        total += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return total


def measure(arguments: list[str], cache: str) -> dict[str, float]:
    """Start one run."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
        environment |= {"XDG_CACHE_HOME": cache, "STARTED": str(time.time())}
        command = [sys.executable, __file__, "--child", f"--workdir={folder}/run", *arguments]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def summarise(starts: list[dict[str, float]]) -> dict[str, list[float]]:
    """Give minimum, median and maximum of each part."""
    columns = {part: [start[part] for start in starts] for part in starts[0]}
    return {part: [min(x), statistics.median(x), max(x)] for part, x in columns.items()}


def main() -> None:
    """Start cold and warm in turn."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--config", default="configs/emoji_cpu.py")
    options, changes = parser.parse_known_args()
    one_update = ["--config.num_updates=1", "--config.evaluation.num_prompts=0"]
    arguments = [f"--config={options.config}", *changes, *one_update]
    starts: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as cache:
            for times in starts.values():
                times.append(measure(arguments, cache))
    print(json.dumps({name: summarise(times) for name, times in starts.items()}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
    else:
        main()
