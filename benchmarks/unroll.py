"""How much the student's gradient costs as a loop and unrolled, and with which convolutions; one JSON line.

    python benchmarks/unroll.py [--batch-size=8] [--num-steps=4] [--repeats=5]

All forms run in turn in this process on the embedded default's UNet; the ratio is what counts. `plain` has
the convolutions of lax, the others those of rats_jax/networks/convolution.py, as runs on a CPU do.
"""

from __future__ import annotations

import functools
import json
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags

from rats_jax.diffusion.rollout import rollout
from rats_jax.diffusion.sampler import ddim_step
from rats_jax.networks.convolution import ConvolveFn, convolve, convolve_in_loops
from rats_jax.networks.kernels import Kernels
from rats_jax.networks.unet_2d import UNet2DConditionModel
from rats_jax.paths import resolve_path
from rats_jax.pipelines.open import load_pipeline
from rats_jax.weights.folder import read_json

_PRETRAINED = flags.DEFINE_string("pretrained", "assets/emoji/pipeline", "Diffusers folder.")
_BATCH_SIZE = flags.DEFINE_integer("batch-size", 8, "Samples.", lower_bound=1)
_NUM_STEPS = flags.DEFINE_integer("num-steps", 4, "Student steps.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed runs of each form.", lower_bound=1)


def main(_: list[str]) -> None:
    """Time the gradient of the final latents with respect to the weights."""
    folder = resolve_path(str(_PRETRAINED.value))
    pipeline, config = load_pipeline(folder), read_json(folder / "unet" / "config.json")
    noise = jax.random.normal(jax.random.key(0), (_BATCH_SIZE.value, *pipeline.latent_shape))
    embeds = pipeline.encode_fn(
        pipeline.text_encoder, pipeline.tokenize(["red apple"] * _BATCH_SIZE.value)
    ).cond
    params = jax.device_put(pipeline.network)

    def gradient(unroll: bool, remat: str, convolve: ConvolveFn = convolve_in_loops):
        unet = UNet2DConditionModel.from_config(config, kernels=Kernels(convolve=convolve))

        def denoise_fn(params: Any, *inputs: Any) -> Any:
            return unet.apply({"params": params}, *inputs)

        sample = functools.partial(
            rollout,
            denoise_fn,
            grid=pipeline.grid_fn(_NUM_STEPS.value or 1, ""),
            prediction_type=pipeline.prediction_type,
            step_fn=ddim_step,
            gradient_steps=_NUM_STEPS.value,
            remat=remat,
            unroll=unroll,
        )
        return jax.jit(jax.grad(lambda p: jnp.mean(jnp.square(sample(p, noise, embeds).latents))))

    forms = {
        "plain_scan": gradient(unroll=False, remat="none", convolve=convolve),
        "plain_unrolled": gradient(unroll=True, remat="none", convolve=convolve),
        "scan": gradient(unroll=False, remat="none"),
        "scan_remat": gradient(unroll=False, remat="step"),
        "unrolled": gradient(unroll=True, remat="none"),
        "unrolled_remat": gradient(unroll=True, remat="step"),
    }
    compile_seconds = {name: _time(fn, params) for name, fn in forms.items()}
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for _repeat in range(_REPEATS.value):
        for name, fn in forms.items():
            seconds[name].append(_time(fn, params))
    median = {name: statistics.median(times) for name, times in seconds.items()}
    report = {
        "backend": jax.default_backend(),
        "batch_size": _BATCH_SIZE.value,
        "num_steps": _NUM_STEPS.value,
        "seconds": {n: {"median": median[n], "min": min(t), "max": max(t)} for n, t in seconds.items()},
        "first_call_seconds": compile_seconds,
        "ratio_to_unrolled": {name: value / median["unrolled"] for name, value in median.items()},
    }
    print(json.dumps(report))


def _time(fn, params) -> float:
    start = time.perf_counter()
    jax.block_until_ready(fn(params))
    return time.perf_counter() - start


if __name__ == "__main__":
    app.run(main)
