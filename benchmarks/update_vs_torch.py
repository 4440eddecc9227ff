"""An update of rats_jax against the same update written plainly on PyTorch; prints one JSON line.

    python benchmarks/update_vs_torch.py [--rounds=5] [--nocompiled] [--config=FILE] [--config.FIELD=VALUE]

PyTorch runs the diffusers and transformers modules of the same folders, eager and compiled, alternately with
ours in this process, on the same cores or the same GPU. All start from the same weights, prompts and noise:
the losses of their first updates are printed, and agree. `ratio` is our median over the faster of theirs.
Where the config computes in bfloat16, PyTorch does so by autocast, with frozen weights in the config's dtype,
and `student.remat=step` is its checkpoint around each step. Needs torch (requirements-test.txt), for the
compiled form a C++ compiler, and a config like the default one: DDIM, all weights trained, one reward of kind
pickscore and at most one of compressibility_proxy.
"""

from __future__ import annotations

import copy
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory of the same GPU

import jax
import numpy as np
import torch
from absl import app, flags
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from ml_collections import config_flags
from torch.utils.checkpoint import checkpoint
from transformers.models.clip.modeling_clip import CLIPModel, CLIPTextModel

from rats_jax.config.flags import parse_flags
from rats_jax.diffusion.grid import sigmas
from rats_jax.method.horizon import interpolation_matrix
from rats_jax.networks.preprocess import MEAN, STD
from rats_jax.parallel.cores import use_cores_of
from rats_jax.paths import resolve_path
from rats_jax.rewards import compressibility
from rats_jax.training.program import Program

_CONFIG = config_flags.DEFINE_config_file("config", "configs/emoji_cpu.py", "As of rats_jax.main.")
_COMPILED = flags.DEFINE_bool("compiled", True, "Compare with torch.compile, too, which may take long.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed updates of each, alternately.", lower_bound=1)


class TorchUpdate:
    """One RATS update after another, as a script would have it."""

    def __init__(self, program: Program, *, compiled: bool):
        config, folder = program.config, resolve_path(program.config.pretrained)
        self.config, self.device = config, _device()
        self.dtype, stored = (getattr(torch, name) for name in (config.compute_dtype, config.frozen_dtype))
        self.student: Any = UNet2DConditionModel.from_pretrained(
            folder, subfolder="unet", torch_dtype=torch.float32
        )
        self.student.eval().to(self.device)
        self.teacher: Any = copy.deepcopy(self.student)
        self.text_encoder: Any = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder").eval()
        self.vae: Any = AutoencoderKL.from_pretrained(folder, subfolder="vae").eval()
        by_kind = {reward.kind: (name, reward) for name, reward in config.rewards.items()}
        self.name, pickscore = by_kind["pickscore"]
        compressibility = by_kind.get("compressibility_proxy")
        self.weights = pickscore.weight, compressibility[1].weight if compressibility else 0.0
        self.clip: Any = CLIPModel.from_pretrained(resolve_path(pickscore.path)).eval()
        for frozen in (self.teacher, self.text_encoder, self.vae, self.clip):
            frozen.requires_grad_(False).to(self.device, stored)
        self.optimizer = torch.optim.AdamW(
            self.student.parameters(),
            lr=config.optimizer.learning_rate,
            betas=(config.optimizer.b1, config.optimizer.b2),
            weight_decay=config.optimizer.weight_decay,
        )
        pipeline = program.experiment.pipeline
        sides = config.teacher, config.student
        self.grids = [pipeline.grid_fn(side.num_steps, side.timestep_spacing) for side in sides]
        self.prediction = pipeline.prediction_type
        levels = [sigmas(grid)[:-1] for grid in self.grids]
        matrix = interpolation_matrix(*levels, interpolation=config.horizon.interpolation)
        self.matrix = torch.tensor(matrix, device=self.device)
        self.gap = [0.0, 0.0, 0.0]
        if compiled:
            self.teacher.compile()
            self.student.compile()

    def autocast(self) -> Any:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def evaluate(self, unet: Any, latents: Any, timestep: int, embeds: Any) -> Any:
        at = torch.tensor(timestep, device=self.device)
        with self.autocast():
            return unet(latents, at, encoder_hidden_states=embeds).sample.float()

    def roll(self, unet: Any, latents: Any, embeds: Any, grid: Any, scale: float) -> tuple[Any, Any]:
        estimates = []
        again = self.config.student.remat == "step" and unet is self.student
        for i, timestep in enumerate(grid.timesteps):
            signal, noise = float(grid.signal_rates[i]), float(grid.noise_rates[i])
            doubled = latents if scale == 1 else torch.cat([latents, latents])
            inputs = unet, doubled, int(timestep), embeds
            output = (
                checkpoint(self.evaluate, *inputs, use_reentrant=False) if again else self.evaluate(*inputs)
            )
            if scale != 1:
                uncond, cond = output.chunk(2)
                output = uncond + scale * (cond - uncond)
            if self.prediction == "epsilon":
                epsilon = output
                estimates.append((latents - noise * epsilon) / signal)
            else:
                estimates.append(signal * latents - noise * output)
                epsilon = noise * latents + signal * output
            signal, noise = float(grid.signal_rates[i + 1]), float(grid.noise_rates[i + 1])
            latents = signal * estimates[-1] + noise * epsilon
        return latents, torch.stack(estimates)

    def reward(self, latents: Any, prompt: Any) -> Any:
        with self.autocast():
            images = self.vae.decode(latents / self.vae.config["scaling_factor"]).sample.float()
        images = (images / 2 + 0.5).clamp(0, 1)
        size = self.clip.config.vision_config.image_size
        seen = torch.nn.functional.interpolate(images, size, mode="bicubic", antialias=True)
        mean, std = (torch.tensor(x, device=self.device).view(1, 3, 1, 1) for x in (MEAN, STD))
        with self.autocast():
            embeds = self.clip.get_image_features((seen - mean) / std).float()
        cosine = (embeds / embeds.norm(dim=-1, keepdim=True) * prompt).sum(-1)
        match = self.clip.logit_scale.float().exp() * cosine
        if not self.weights[1]:
            return self.weights[0] * match
        return self.weights[0] * match + self.weights[1] * _compressibility(images)

    def __call__(self, ids: Any, prompt: Any, noise: Any) -> float:
        config = self.config
        with torch.no_grad():
            uncond, cond = (self.text_encoder(x).last_hidden_state.float() for x in (ids[1], ids[0]))
            both = torch.cat([uncond, cond])
            teacher = config.teacher.guidance_scale
            latents, estimates = self.roll(self.teacher, noise, both, self.grids[0], teacher)
            teacher_reward = self.reward(latents, prompt)
            targets = torch.einsum("ks,sbchw->kbchw", self.matrix, estimates)
        latents, estimates = self.roll(self.student, noise, cond, self.grids[1], 1.0)
        student_reward = self.reward(latents, prompt)
        flat, other = estimates.flatten(2), targets.flatten(2)
        distance = 1 - torch.cosine_similarity(flat, other, dim=-1) + (flat - other).square().mean(-1)
        gap = (teacher_reward - student_reward).detach()
        decay = config.gate.std_decay
        new = (float(gap.mean()), float(gap.square().mean()), 1.0)
        self.gap = [decay * old + (1 - decay) * x for old, x in zip(self.gap, new, strict=True)]
        std = (self.gap[1] / self.gap[2] - (self.gap[0] / self.gap[2]) ** 2) ** 0.5
        gate = torch.sigmoid(gap / (config.gate.temperature * std))
        shaping = config.shaping_weight * gate * distance.mean(0)
        loss = (shaping - config.reward_weight * student_reward).mean()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), config.optimizer.clip_norm)
        self.optimizer.step()
        return float(loss.detach())


def _device() -> torch.device:
    return torch.device("cuda" if jax.default_backend() == "gpu" else "cpu")


def _compressibility(images: Any) -> Any:
    """The reward of rats_jax/rewards/compressibility.py."""
    size = compressibility._BLOCK
    channels = torch.einsum("bchw,dc->bhwd", images, images.new_tensor(compressibility._COLOURS))
    batch, height, width, _ = channels.shape
    blocks = channels.reshape(batch, height // size, size, width // size, size, 3)
    basis = images.new_tensor(compressibility._cosines())
    coefficients = torch.einsum("bhiwjc,ki,lj->bhwckl", blocks, basis, basis)
    coefficients = coefficients / images.new_tensor(compressibility._STEPS)
    means = coefficients[..., 0, 0]
    differences = torch.diff(means, dim=2, prepend=means[:, :, :1])
    first = torch.zeros_like(coefficients)
    first[..., 0, 0] = 1.0
    coefficients = coefficients * (1 - first) + differences[..., None, None] * first
    return -torch.log2(1 + coefficients.square()).mean((1, 2, 3, 4, 5)) / 2


def main(_: list[str]) -> None:
    """Make all, compare their first losses, then time them in turn."""
    use_cores_of(_CONFIG.value)
    program = Program(_CONFIG.value)
    config, experiment, cores = program.config, program.experiment, len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    torch.set_float32_matmul_precision("high")  # as JAX has it on GPUs
    texts = [program.prompts[i % len(program.prompts)] for i in range(config.batch_size)]
    batch, key = program.place_batch(np.arange(config.batch_size) % len(program.prompts)), jax.random.key(0)
    noise = jax.random.normal(key, (config.batch_size, *experiment.pipeline.latent_shape))
    state = [program.init_state()]

    def ours() -> float:
        state[0], metrics = program.update(state[0], program.frozen, batch, key)
        return float(metrics["loss/total"])

    device = _device()
    latents = torch.tensor(np.asarray(noise).transpose(0, 3, 1, 2), device=device)
    empty = [""] * config.batch_size
    ids = [
        torch.tensor(np.asarray(experiment.pipeline.tokenize(x)), device=device).long()
        for x in (texts, empty)
    ]
    updates: dict[str, Callable[[], float]] = {"rats_jax": ours}
    for name, compiled in (("torch", False), ("torch_compiled", True))[: 1 + bool(_COMPILED.value)]:
        plain = TorchUpdate(program, compiled=compiled)
        prompt = torch.tensor(np.asarray(experiment.make_batch(texts).reward[plain.name]), device=device)
        updates[name] = lambda plain=plain, prompt=prompt: plain(ids, prompt, latents)
    losses = {name: update() for name, update in updates.items()}  # and all are warm
    seconds: dict[str, list[float]] = {name: [] for name in updates}
    for _round in range(_ROUNDS.value or 1):
        for name, update in updates.items():
            start = time.perf_counter()
            update()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    fastest = min(median for name, median in medians.items() if name != "rats_jax")
    report = {
        "device": jax.devices()[0].device_kind,
        "cores": cores,
        "batch_size": config.batch_size,
        "teacher_num_steps": config.teacher.num_steps,
        "student_num_steps": config.student.num_steps,
        "first_losses": losses,
        "ratio": medians["rats_jax"] / fastest,
        "seconds": {name: [min(s), medians[name], max(s)] for name, s in seconds.items()},
    }
    print(json.dumps(report))


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
