"""Models of published sizes with random weights, for timings where no weights can be had.

    python benchmarks/full_size.py --model=black-forest-labs/FLUX.1-dev [--updates=3] [--set=FIELD=VALUE ...]

times an update whose weights are made on the device, 24 GB for FLUX.1 [dev], nothing read or written: one
picture, embeddings of prompts ready, no monitored rewards, all else as in configs/flux_gpu.py (or
sd3_gpu.py, sd_gpu.py). The last line is JSON: `seconds` is the median of the updates after the first,
`peak_bytes` what the device held at most.

    python benchmarks/full_size.py --out=DIR [--model=stable-diffusion-v1-5/stable-diffusion-v1-5]

writes one of Stable Diffusion 1 or 2: DIR/pipeline is a diffusers folder of that model's shapes, DIR/reward
a CLIP ViT-H/14 in the layout of PickScore, both in float16, DIR/prompts.txt numbers. What it draws is
noise; what it costs is what the published model costs.
"""

from __future__ import annotations

import ast
import functools
import itertools
import json
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from flax.traverse_util import flatten_dict, unflatten_dict

from rats_jax.aot.trace import abstract_batch
from rats_jax.config.flags import load_config
from rats_jax.config.together import validate
from rats_jax.networks import clip
from rats_jax.parallel.compiler import compiler_options
from rats_jax.parallel.mesh import make_mesh
from rats_jax.pipelines.published import PUBLISHED
from rats_jax.pipelines.stable_diffusion import FAMILY
from rats_jax.training.experiment import abstract
from rats_jax.training.models import describe_models
from rats_jax.training.program import jit_update, make_layout
from rats_jax.training.setup import make_experiment
from rats_jax.weights.folder import (
    CLIP_WEIGHTS,
    UNET_WEIGHTS,
    VAE_WEIGHTS,
    abstract_params,
    write_model,
    write_model_index,
)
from rats_jax.weights.open_clip import VIT_H_14, to_transformers_config
from rats_jax.weights.tokenizers import CLIP_VOCABULARY

_OUT = flags.DEFINE_string("out", None, "Folder to write; without it an update is timed.")
_MODEL = flags.DEFINE_enum("model", next(iter(PUBLISHED)), list(PUBLISHED), "The size: a model's hub id.")
_UPDATES = flags.DEFINE_integer("updates", 3, "Updates to time, after the first.", lower_bound=1)
_SET = flags.DEFINE_multi_string("set", [], "FIELD=VALUE of the config.")
_CONFIGS = Path(__file__).parents[1] / "configs"


def draw(abstract: Any) -> Any:
    """Draw weights of a sane size for every leaf."""
    rng = np.random.default_rng(0)

    def one(path: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
        value = 2 * rng.random(shape, np.float32) - 1
        if path[-1] == "kernel":
            return value * np.float32(3 / np.prod(shape[:-1])) ** 0.5
        return np.float32(path[-1] == "scale") + np.float32(0.02) * value

    shapes: Any = flatten_dict(abstract)
    return unflatten_dict({path: one(path, leaf.shape) for path, leaf in shapes.items()})


def write(out: Path) -> None:
    """Write model, reward and prompts, one network after another."""
    configs, start = PUBLISHED[str(_MODEL.value)], time.perf_counter()
    pipeline = out / "pipeline"
    files = {"unet": UNET_WEIGHTS, "vae": VAE_WEIGHTS, "text_encoder": CLIP_WEIGHTS}
    for name, network in FAMILY.networks.items():
        config = dict(configs[f"{name}/config.json"])
        params = draw(network.from_config(config).abstract_params())
        write_model(pipeline / name, config, params, files[name])
    shutil.copytree(CLIP_VOCABULARY, pipeline / "tokenizer", dirs_exist_ok=True)
    write_model_index(pipeline, dict(configs["scheduler/scheduler_config.json"]))
    config = {"model_type": "clip", **to_transformers_config(VIT_H_14, source="published")}
    params = draw(abstract_params(clip.init_clip, clip.CLIPModel.from_config(config)))
    write_model(out / "reward", config, params | {"logit_scale": np.float32(np.log(100.0))}, CLIP_WEIGHTS)
    shutil.copytree(CLIP_VOCABULARY, out / "reward", dirs_exist_ok=True)
    (out / "prompts.txt").write_text("".join(f"picture {i}\n" for i in range(1000)))
    print(f"{out}: {time.perf_counter() - start:.0f} s")


def fill(tree: Any, shardings: Any) -> Any:
    """Draw each leaf on its devices: integers are 0, numbers normal with the spread of a sane weight."""
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    keys = itertools.count()
    return jax.tree.map(
        lambda leaf, sharding: _drawer(leaf.shape, leaf.dtype, sharding)(np.uint32(next(keys))),
        tree,
        shardings,
    )


@functools.cache
def _drawer(shape: tuple[int, ...], dtype: Any, sharding: Any) -> Any:
    """Compile what draws a leaf, once for all leaves that are alike."""

    def draw(seed: Any) -> jax.Array:
        if not jnp.issubdtype(dtype, jnp.floating):
            return jnp.zeros(shape, dtype)
        spread = 0.5 / np.sqrt(shape[-2]) if len(shape) > 1 else 0.02
        return spread * jax.random.normal(jax.random.key(seed), shape, dtype)

    return jax.jit(draw, out_shardings=sharding)


def time_update() -> None:
    """Make weights, compile, update."""
    model = str(_MODEL.value)
    name = "flux_gpu" if "FLUX" in model else "sd3_gpu" if "diffusion-3" in model else "sd_gpu"
    config: Any = load_config(_CONFIGS / f"{name}.py")
    config.pretrained = model
    config.batch_size = config.optimizer.accumulation_steps = config.evaluation.batch_size = 1
    config.decoder_parts = config.reward_parts = 1
    config.prompt_embeds = "none are read"
    for field, value in (text.split("=", 1) for text in _SET.value or []):
        config.update_from_flattened_dict({field: value if value.isidentifier() else ast.literal_eval(value)})
    validate(config)
    device = jax.devices()[0]
    mesh = make_mesh(config.mesh, [device])
    experiment = make_experiment(config, describe_models(config, device), mesh)
    layout = make_layout(experiment, mesh, config.sharding)
    start = time.perf_counter()
    frozen = fill(abstract(experiment.frozen_params()), layout.frozen)
    adapters = fill(abstract(experiment.initial), layout.state.student)
    state = jax.jit(experiment.init_state, out_shardings=layout.state)(adapters)
    batch = fill(abstract_batch(experiment, 1), layout.batch)
    jax.block_until_ready((frozen, state, batch))
    made = time.perf_counter() - start
    print(f"weights made in {made:.1f} s", flush=True)
    start = time.perf_counter()
    lowered = jit_update(experiment.update_fn, layout).lower(state, frozen, batch, jax.random.key(0))
    traced = time.perf_counter() - start
    update = lowered.compile(compiler_options(device))
    compiled = time.perf_counter() - start
    print(f"traced in {traced:.1f} s, traced and compiled in {compiled:.1f} s", flush=True)
    seconds = []
    for i in range(1 + (_UPDATES.value or 1)):
        start = time.perf_counter()
        state, metrics = jax.block_until_ready(update(state, frozen, batch, jax.random.key(i)))
        seconds.append(time.perf_counter() - start)
        print(f"update {i}: {seconds[-1]:.3f} s, loss {float(metrics['loss/total']):.4f}", flush=True)
    statistics_of_device = device.memory_stats() or {}
    report = {
        "config": config.pretrained,
        "device": device.device_kind,
        "picture": experiment.pipeline.image_shape(),
        "evaluations": [experiment.teacher_nfe, experiment.nfe],
        "seconds": round(statistics.median(seconds[1:]), 4),
        "all_seconds": [round(x, 4) for x in seconds],
        "compile_seconds": round(compiled, 1),
        "temporary_bytes": update.memory_analysis().temp_size_in_bytes,
        "argument_bytes": update.memory_analysis().argument_size_in_bytes,
        "peak_bytes": statistics_of_device.get("peak_bytes_in_use"),
        "finite": bool(np.isfinite([float(x) for x in metrics.values()]).all()),
    }
    print(json.dumps(report))


def main(_: list[str]) -> None:
    """Do what the flags say."""
    if _OUT.value:
        write(Path(str(_OUT.value)))
    else:
        time_update()


if __name__ == "__main__":
    app.run(main)
