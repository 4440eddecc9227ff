"""What a full-size reward and its gradient need on a TPU, compiled without one; prints one JSON line.

    pip install "libtpu==0.0.42.1"
    TPU_SKIP_MDS_QUERY=1 TPU_WORKER_HOSTNAMES=localhost TPU_ACCELERATOR_TYPE=v5litepod-4 JAX_PLATFORMS=cpu \
        python benchmarks/reward_compile.py --reward=hpsv2.1 [--topology=v5e:2x2] [--batch-size=1]

The score and its gradient with respect to the pictures, one program over all chips of the topology: weights
are copied to each in the dtype of the computation, the batch is per chip, of pictures or videos. Only shapes
are needed, so no weights are read.
"""

from __future__ import annotations

import json
import time

import jax
import jax.numpy as jnp
from absl import app, flags
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rats_jax.aot.hlo import count_costs
from rats_jax.rewards import REWARDS

_DESCRIBE = {kind: reward.describe for kind, reward in REWARDS.items() if reward.describe is not None}
_REWARD = flags.DEFINE_enum("reward", "hpsv2.1", sorted(_DESCRIBE), "Kind of the reward.")
_FRAMES = flags.DEFINE_integer("frames", 17, "Of the videos that a reward of videos judges.", lower_bound=1)
_TOPOLOGY = flags.DEFINE_string("topology", "v5e:2x2", "TPU generation and chips.")
_BATCH_SIZE = flags.DEFINE_integer("batch-size", 1, "Pictures per chip.", lower_bound=1)
_SIDE = flags.DEFINE_integer("side", 512, "Height and width of the pictures.", lower_bound=1)
_DTYPE = flags.DEFINE_enum("dtype", "bfloat16", ["bfloat16", "float32"], "Of weights and towers.")


def main(_: list[str]) -> None:
    """Compile for the topology and report."""
    devices = topologies.get_topology_desc(platform="tpu", topology_name=str(_TOPOLOGY.value)).devices
    mesh = Mesh(devices, ("data",))
    replicated, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    batch = _BATCH_SIZE.value * len(devices)
    dtype = jnp.dtype(str(_DTYPE.value))
    reward_fn, params, prepare = _DESCRIBE[str(_REWARD.value)](dtype=dtype)
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), params)
    prompt = prepare([""] * batch)
    frames = (_FRAMES.value,) if REWARDS[str(_REWARD.value)].of_videos else ()
    images = jax.ShapeDtypeStruct((batch, *frames, _SIDE.value, _SIDE.value, 3), jnp.float32)

    def score_and_slope(params, images, prompt):
        def total(images):
            rewards = reward_fn(params, images, prompt)
            return jnp.sum(rewards), rewards

        return jax.grad(total, has_aux=True)(images)

    run = jax.jit(score_and_slope, in_shardings=(replicated, split, split), out_shardings=split)
    start = time.perf_counter()
    lowered = run.trace(params, images, prompt).lower(lowering_platforms=("tpu",))
    lower_seconds = time.perf_counter() - start
    compiled = lowered.compile()
    memory, text = compiled.memory_analysis(), compiled.as_text()
    assert memory is not None and text is not None, "every TPU compiler gives both"
    weights = sum(leaf.size for leaf in jax.tree.leaves(params))
    report = {
        "reward": _REWARD.value,
        "topology": _TOPOLOGY.value,
        "dtype": _DTYPE.value,
        "batch_size_per_chip": _BATCH_SIZE.value,
        "side": _SIDE.value,
        "frames": list(frames),
        "parameters": weights,
        "argument_bytes_per_chip": memory.argument_size_in_bytes,
        "output_bytes_per_chip": memory.output_size_in_bytes,
        "temporary_bytes_per_chip": memory.temp_size_in_bytes,
        "flops_per_chip": count_costs(text).flops,
        "lower_seconds": lower_seconds,
        "compile_seconds": time.perf_counter() - start - lower_seconds,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    app.run(main)
