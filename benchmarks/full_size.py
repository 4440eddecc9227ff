"""Write a model of a published size with random weights, for timings where no weights can be had.

    python benchmarks/full_size.py --out=DIR [--model=stable-diffusion-v1-5/stable-diffusion-v1-5]

DIR/pipeline is a diffusers folder of that model's shapes, DIR/reward a CLIP ViT-H/14 in the layout of
PickScore, both in float16, DIR/prompts.txt numbers. What it draws is noise; what it costs is what the
published model costs.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags
from flax.traverse_util import flatten_dict, unflatten_dict

from rats_jax.networks import clip
from rats_jax.pipelines.published import PUBLISHED
from rats_jax.pipelines.stable_diffusion import FAMILY
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

_OUT = flags.DEFINE_string("out", None, "Folder to write.", required=True)
_MODEL = flags.DEFINE_enum(
    "model", next(iter(PUBLISHED)), [m for m in PUBLISHED if "xl" not in m], "The size: a model's hub id."
)


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


def main(_: list[str]) -> None:
    """Write both, one network after another."""
    out, configs, start = Path(str(_OUT.value)), PUBLISHED[str(_MODEL.value)], time.perf_counter()
    pipeline = out / "pipeline"
    files = {"unet": UNET_WEIGHTS, "vae": VAE_WEIGHTS, "text_encoder": CLIP_WEIGHTS}
    for name, network in FAMILY.networks.items():
        config = dict(configs[f"{name}/config.json"])
        params = draw(network.from_config(config).abstract_params())
        write_model(pipeline / name, config, params, files[name])
    shutil.copytree(CLIP_VOCABULARY, pipeline / "tokenizer", dirs_exist_ok=True)
    write_model_index(pipeline, dict(configs["scheduler/scheduler_config.json"]))
    config = {"model_type": "clip", **to_transformers_config(VIT_H_14, source="published")}
    params = draw(abstract_params(clip.init_clip, clip.make_clip(config)))
    write_model(out / "reward", config, params | {"logit_scale": np.float32(np.log(100.0))}, CLIP_WEIGHTS)
    shutil.copytree(CLIP_VOCABULARY, out / "reward", dirs_exist_ok=True)
    (out / "prompts.txt").write_text("".join(f"picture {i}\n" for i in range(1000)))
    print(f"{out}: {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    app.run(main)
