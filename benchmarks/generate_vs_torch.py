"""Pictures per second, ours against PyTorch diffusers, from the same folder; prints one JSON line.

    python -m rats_jax.export --workdir=runs/emoji --out=student
    python benchmarks/generate_vs_torch.py --model=student [--num-steps=4] [--batch-size=8] [--rounds=9]

Both draw the same prompts from the same noise, one after the other in each round, on the same cores, and hand
over NumPy arrays: prompts are tokenized and encoded each time. Needs torch (requirements-test.txt).
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from absl import app, flags
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

import rats_jax

_MODEL = flags.DEFINE_string("model", None, "Folder that rats_jax.export wrote.", required=True)
_NUM_STEPS = flags.DEFINE_integer("num-steps", 4, "Sampling steps.", lower_bound=1)
_BATCH_SIZE = flags.DEFINE_integer("batch-size", 8, "Pictures at once.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 9, "Measurements of each, alternately.", lower_bound=5)
_PROMPTS = ["black cat", "red apple", "rose", "fire engine", "turtle", "sailboat", "mushroom", "blue heart"]


def main(_: list[str]) -> None:
    """Measure both alternately and report."""
    folder, steps, batch = str(_MODEL.value), int(_NUM_STEPS.value or 0), int(_BATCH_SIZE.value or 0)
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    ours: Any = rats_jax.load(folder)
    theirs: Any = DiffusionPipeline.from_pretrained(folder)
    theirs.set_progress_bar_config(disable=True)
    prompts = [_PROMPTS[i % len(_PROMPTS)] for i in range(batch)]
    noise = ours.make_noise(range(batch))
    latents = torch.tensor(noise.transpose(0, 3, 1, 2))

    def draw_ours() -> np.ndarray:
        return ours(prompts, num_steps=steps, latents=noise, guidance_scale=1.0)

    def draw_theirs() -> np.ndarray:
        settings = {"num_inference_steps": steps, "guidance_scale": 1.0, "output_type": "np"}
        return theirs(prompts, latents=latents, **settings).images

    difference = 255 * float(np.abs(draw_ours() - draw_theirs()).mean())  # and both are warm
    seconds: dict[str, list[float]] = {"rats_jax": [], "diffusers": []}
    for _round in range(int(_ROUNDS.value or 0)):
        seconds["rats_jax"].append(_time(draw_ours))
        seconds["diffusers"].append(_time(draw_theirs))
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    report = {
        "num_steps": steps,
        "batch_size": batch,
        "cores": cores,
        "difference_of_255": difference,
        "images_per_second": {name: batch / median for name, median in medians.items()},
        "seconds": {name: [min(s), medians[name], max(s)] for name, s in seconds.items()},
        "speed_against_diffusers": medians["diffusers"] / medians["rats_jax"],
    }
    print(json.dumps(report))


def _time(draw: Callable[[], Any]) -> float:
    start = time.perf_counter()
    draw()
    return time.perf_counter() - start


if __name__ == "__main__":
    app.run(main)
