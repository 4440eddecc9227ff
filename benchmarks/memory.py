"""Memory of an update against steps and batch, here or for absent chips; prints one JSON line.

    python benchmarks/memory.py [--topology=v5e:2x2] [--config=configs/emoji_cpu.py] [--config.FIELD=VALUE]
        [--vary=FIELD=VALUE,VALUE]

Each program is made in a process of its own: teacher steps, student steps and batch, or the fields of --vary,
are varied one by one, the others as in the config, with `student.remat=step` unless --noremat.
`temporary_bytes` is what XLA lays out for a device besides arguments and results; `resident_bytes`, without
--topology, how much the process holds at most during an update, the median of three, in a second process,
which does not compile. `largest_over_smallest` is 1 where memory is flat.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import re
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from absl import app, flags
from ml_collections import config_flags

from rats_jax.aot.chips import CHIPS, describe_machine
from rats_jax.config.fields import flatten
from rats_jax.config.flags import errors_in_a_line, parse_flags
from rats_jax.errors import expect

_CONFIG = config_flags.DEFINE_config_file("config", "configs/emoji_cpu.py", "As of rats_jax.main.")
_TOPOLOGY = flags.DEFINE_string("topology", "", "Absent chips, as v5e:2x2 or h100; '' is this machine.")
_REMAT = flags.DEFINE_bool("remat", True, "Set student.remat=step.")
_VARY = flags.DEFINE_multi_string(
    "vary",
    ["teacher.num_steps=10,50,200", "student.num_steps=1,4,8", "batch_size=8,16,32"],
    "What is varied.",
)


def measure_here(config: Any) -> dict[str, int]:
    """Compile, or read what was compiled, and run the update on this machine."""
    import jax
    import numpy as np

    from rats_jax.parallel import cores
    from rats_jax.parallel.cache import keep_compiled
    from rats_jax.training.program import Program

    keep_compiled()
    cores.use_cores_of(config)
    program = Program(config)
    update, frozen, state = program.update, program.frozen, program.init_state()
    batch = program.place_batch(np.arange(config.batch_size) % len(program.prompts))
    report = {"temporary_bytes": update.memory_analysis().temp_size_in_bytes}
    peaks = []
    for _ in range(3):
        _forget_peak()
        state, metrics = update(state, frozen, batch, jax.random.key(0))
        jax.block_until_ready((state, metrics))
        peaks.append(_peak())
    return report | {"resident_bytes": int(statistics.median(peaks))}


def _forget_peak() -> None:
    """Let the peak of this process begin at what it holds now, without what compilation has freed."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def measure_for(topology: str, config: Any) -> dict[str, int]:
    """Compile the update for a topology."""
    generation = topology.partition(":")[0]
    os.environ |= describe_machine(generation)
    from rats_jax.aot import trace as compiling

    program = compiling.trace(config, compiling.find_devices(topology))
    report = compiling.compile_for(program, effort=-1.0, chip=CHIPS[generation]).report
    return {name: report[name] for name in ("temporary_bytes", "peak_bytes")}


def measure(topology: str, config: Any) -> dict[str, int]:
    """Measure one update, in a process that has made no other."""
    return measure_for(topology, config) if topology else measure_here(config)


def read_varied(lines: Sequence[str], fields: Mapping[str, Any]) -> dict[str, list[int]]:
    """Read the values of --vary by field.

    Raises:
        ConfigError: no such field, or one that is no integer, or values that are none.
    """
    varied = {}
    for line in lines:
        field, _, values = line.partition("=")
        known = type(fields.get(field)) is int and re.fullmatch(r"[0-9]+(,[0-9]+)*", values)
        expect(bool(known), "vary", line, "FIELD=NUMBER,NUMBER of a field whose value is an integer")
        varied[field] = [int(value) for value in values.split(",")]
    return varied


def main(_: list[str]) -> None:
    """Measure every case, one after another."""
    with errors_in_a_line():
        varied = read_varied(_VARY.value or [], flatten(_CONFIG.value))
    cases: dict[str, dict[int, dict[str, int]]] = {field: {} for field in varied}
    known: dict[tuple[int, ...], dict[str, int]] = {}
    for field, values in varied.items():
        for value in values:
            config = _CONFIG.value.copy_and_resolve_references()
            if _REMAT.value:
                config.student.remat = "step"
            config.update_from_flattened_dict({field: value})
            if "student.num_steps" in varied:
                config.student.reward_gradient_steps = config.student.num_steps
            flat = flatten(config)
            case = tuple(flat[name] for name in varied)
            for _turn in range(0 if case in known else 1 if _TOPOLOGY.value else 2):
                with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:
                    known[case] = alone.submit(measure, str(_TOPOLOGY.value), config).result()
            cases[field][value] = known[case]
    report = {
        "topology": _TOPOLOGY.value or "this machine",
        "remat": "step" if _REMAT.value else _CONFIG.value.student.remat,
        "largest_over_smallest": {
            field: _ratios(list(measured.values())) for field, measured in cases.items()
        },
        "cases": cases,
    }
    print(json.dumps(report))


def _ratios(measured: list[dict[str, int]]) -> dict[str, float]:
    return {name: max(c[name] for c in measured) / min(c[name] for c in measured) for name in measured[0]}


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
