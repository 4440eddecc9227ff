"""Traced and compiled update for chips that are not here: its work and what it will need."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies

from rats_jax.aot.cards import CARDS, describe_card, parse_count
from rats_jax.aot.chips import CHIPS, Chip, estimate_seconds
from rats_jax.aot.flops import jaxpr_flops
from rats_jax.aot.hlo import count_costs
from rats_jax.aot.traffic import count_traffic
from rats_jax.errors import ConfigError
from rats_jax.parallel.compiler import compiler_options
from rats_jax.training.experiment import Experiment, abstract
from rats_jax.training.models import describe_models
from rats_jax.training.program import jit_update, make_layout, open_mesh
from rats_jax.training.setup import make_experiment
from rats_jax.types import Batch

# Of CUDA 12 and 13.
_CUDA_PLUGINS = ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13")


class TracedUpdate(NamedTuple):
    """A traced update: what can be lowered, and what is known of it before."""

    traced: Any
    compiler_options: dict[str, Any]
    counts: dict[str, Any]


class Result(NamedTuple):
    """A compiled update: what it needs, and its text; empty if it did not fit."""

    report: dict[str, Any]
    text: str


def find_devices(topology: str) -> Sequence[Any]:
    """Describe the chips of a topology.

    Args:
        topology: as libtpu names it, e.g. 'v5e:4x4'; of GPUs, as `parse_count` reads it.

    Returns:
        Their devices, which can be compiled for and hold nothing.

    Raises:
        ConfigError: the compiler is not installed, or does not know the topology.
    """
    is_gpu = topology.partition(":")[0] in CARDS
    knows = "jax's compiler for CUDA knows" if is_gpu else "libtpu knows, as v5e:4x4"
    asked = _describe_gpus(topology) if is_gpu else _describe_tpus(topology)
    try:
        return topologies.get_topology_desc(**asked).devices
    except Exception as error:  # whatever the plugin raises
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"topology={topology!r}: expected one that {knows} ({reason})") from None


def _describe_tpus(topology: str) -> dict[str, str]:
    if find_spec("libtpu") is None:
        raise ConfigError("topology: expected the package libtpu: pip install 'rats_jax[tpu]'")
    return {"platform": "tpu", "topology_name": topology}


def _describe_gpus(topology: str) -> dict[str, str]:
    name = topology.partition(":")[0]
    shape = "1x{}x{}".format(*parse_count(topology))  # slices, machines of each, GPUs of each
    if find_spec("jax_plugins") is None or not any(map(find_spec, _CUDA_PLUGINS)):
        raise ConfigError("topology: expected jax's compiler for CUDA: pip install 'rats_jax[cuda]'")
    chip = CHIPS[name]
    card = describe_card(CARDS[name], memory_bytes=chip.memory_bytes, bandwidth=chip.memory_bandwidth)
    return {"platform": "cuda", "topology_name": shape, "topology": shape, "target_config": card}


def trace(config: Any, devices: Sequence[Any]) -> TracedUpdate:
    """Trace the update of a config on a mesh of devices.

    Args:
        config: fields as in configs/default.py, already validated.
        devices: from `find_devices`, or real ones.

    Returns:
        The traced update; its counts are per device and update.

    Raises:
        ConfigError: a mesh, batch or model that does not fit; cuDNN is missing.
    """
    try:
        return _trace(config, devices)
    except RuntimeError as error:  # jax asks cuDNN for its version when it traces attention
        if "cuDNN" not in str(error):
            raise
        expected = "cuDNN, which a GPU's attention is traced with: pip install 'rats_jax[cuda]'"
        raise ConfigError(f"topology: expected {expected} ({error})") from None


def _trace(config: Any, devices: Sequence[Any]) -> TracedUpdate:
    mesh = open_mesh(config, devices)
    experiment = make_experiment(config, describe_models(config, mesh.devices.flat[0]), mesh)
    state, frozen = experiment.abstract_state(), abstract(experiment.frozen_params())
    layout = make_layout(experiment, mesh, config.sharding)
    update = jit_update(experiment.update_fn, layout)
    batch = abstract_batch(experiment, config.batch_size)
    start = time.perf_counter()
    with jax.set_mesh(mesh):
        traced = update.trace(state, frozen, batch, jax.eval_shape(lambda: jax.random.key(0)))
    counts = {
        "devices": mesh.size,
        "mesh": dict(mesh.shape),
        "batch_size_per_device": config.batch_size / mesh.size,
        "trained_parameters": sum(leaf.size for leaf in jax.tree.leaves(state.student)),
        "state_bytes_per_device": _bytes(state, layout.state),
        "frozen_bytes_per_device": _bytes(frozen, layout.frozen),
        "evaluations": {"teacher": experiment.teacher_nfe, "student": experiment.nfe},
        "weight_bytes_read_per_device": _weight_bytes(config, frozen.base) / mesh.shape["tensor"],
        "analytic_flops_per_device": jaxpr_flops(traced.jaxpr.jaxpr) / mesh.size,
        "trace_seconds": time.perf_counter() - start,
    }
    return TracedUpdate(traced, compiler_options(mesh.devices.flat[0]), counts)


def abstract_batch(experiment: Experiment, batch_size: int) -> Batch:
    """Shapes and dtypes of a batch of so many prompts."""

    def widen(x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype)

    return jax.tree.map(widen, experiment.make_batch([""]))


def compile_for(update: TracedUpdate, *, effort: float, chip: Chip) -> Result:
    """Compile a traced update and read what it needs.

    Args:
        update: from `trace`.
        effort: XLA's, -1 to 1.
        chip: that it will run on.

    Returns:
        The result; bytes and FLOPs are per device and update. `total` is what XLA lays out in memory, `peak`
        what is alive at once; it fits if the total is no more than a run has of the chip's memory.
        `moved_bytes` is what kernels of a GPU read and write, by their kind; of TPUs nobody counts it.
    """
    start = time.perf_counter()
    lowered = update.traced.lower(lowering_platforms=("tpu" if chip.platform == "tpu" else "cuda",))
    report: dict[str, Any] = {"chip_bytes": chip.memory_bytes, "effort": effort}
    options = effort_options(effort) | update.compiler_options
    try:
        compiled = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        used = re.search(r"Used ([\d.]+[KMGT]) of ([\d.]+[KMGT]) hbm", str(error))
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = used[0] if used else " ".join(str(error).split())[:300]
        return Result(report | {"fits": False, "reason": reason, "compile_seconds": _since(start)}, "")
    seconds, text = _since(start), compiled.as_text()
    memory, costs = compiled.memory_analysis(), count_costs(text)
    moved = count_traffic(text) if chip.platform == "gpu" else {}
    total = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )
    report |= {
        "fits": total <= chip.usable_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "aliased_bytes": memory.alias_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "total_bytes": total,
        "peak_bytes": memory.peak_memory_in_bytes,
        "flops_per_device": costs.flops,
        "flops_ratio": costs.flops / update.counts["analytic_flops_per_device"],
        "collective_bytes": costs.collective_bytes,
        "moved_bytes": moved,
        "estimated_seconds": estimate_seconds(
            chip,
            flops=costs.flops,
            weight_bytes=update.counts["weight_bytes_read_per_device"],
            collective_bytes=sum(costs.collective_bytes.values()),
            moved_bytes=sum(moved.values()),
        ),
        "compile_seconds": seconds,
    }
    return Result(report, text)


def effort_options(effort: float) -> dict[str, Any]:
    """Give XLA's option for an effort from -1 to 1; newer versions of jax have four levels in its place."""
    if hasattr(jax.config, "jax_exec_time_optimization_effort"):
        return {"exec_time_optimization_effort": effort}
    if effort == 0:
        return {}
    return {"optimization_level": "O0" if effort == -1 else "O1" if effort < 0 else "O3"}


def advice(config: Any) -> str:
    """Say what to change, the cheapest first, if an update does not fit."""
    ways = [
        (config.student.remat != "step", "--config.student.remat=step"),
        (config.compute_dtype == "float32", "--config.compute_dtype=bfloat16"),
        (config.frozen_dtype == "float32", "--config.frozen_dtype=bfloat16"),
        (
            config.optimizer.accumulation_steps == 1,
            "a smaller --config.batch_size, or more --config.optimizer.accumulation_steps",
        ),
        (config.decoder_parts == 1, "--config.decoder_parts=2 where a chip has two samples or more"),
        (config.student.reward_gradient_steps > 1, "--config.student.reward_gradient_steps=1"),
        (
            any(rule == "copy" for _, rule in config.sharding),
            "rules in --config.sharding that split over fsdp what they copy",
        ),
        (config.lora.rank == 0, "--config.lora.rank=32"),
        (config.lora.base_dtype == "", "--config.lora.base_dtype=int8 with adapters"),
    ]
    tried = [text for holds, text in ways if holds]
    return (
        f"the update does not fit into the memory of a chip; try {'; '.join([*tried, 'a larger topology'])}"
    )


def _since(start: float) -> float:
    return time.perf_counter() - start


def _weight_bytes(config: Any, base: Any) -> float:
    """Count the bytes of the network's weights that all evaluations read, as they are kept below adapters.

    Weights that are trained are kept for an update in the compute dtype.

    Those of a step are made together. The student's are read again by the backward pass, and once more where
    it computes the forward pass anew.
    """
    whole = None if config.lora.rank else jnp.dtype(config.compute_dtype).itemsize
    size = sum(np.prod(x.shape, dtype=np.int64) * (whole or x.dtype.itemsize) for x in jax.tree.leaves(base))
    reads = config.teacher.num_steps + config.student.num_steps * (2 + (config.student.remat != "none"))
    parts = config.optimizer.accumulation_steps
    return float(size * reads * parts)


def _bytes(tree: Any, shardings: Any) -> int:
    """Sum the bytes that one device holds of a tree."""
    sizes = jax.tree.map(
        lambda x, s: int(np.prod(s.shard_shape(x.shape), dtype=np.int64)) * x.dtype.itemsize, tree, shardings
    )
    return sum(jax.tree.leaves(sizes))
