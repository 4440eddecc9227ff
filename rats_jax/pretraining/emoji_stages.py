"""Stages of text-to-emoji: each reads the folders before it and writes its own, or keeps what is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.networks.autoencoder_kl import AutoencoderKL
from rats_jax.pretraining.augment import flip_and_shift
from rats_jax.pretraining.check import score_spoilt, write_check
from rats_jax.pretraining.corrupt import CORRUPTIONS, autoencode, latent_noise
from rats_jax.pretraining.dual_encoder import Drawn
from rats_jax.pretraining.emoji import Emoji, load_emoji
from rats_jax.pretraining.sheet import write_samples
from rats_jax.pretraining.stage import (
    find_corruptions,
    is_done,
    load_vae,
    train_reward,
    training_state,
    with_tokenizer,
)
from rats_jax.pretraining.text_to_image import shifted_latents, train_text_to_image
from rats_jax.pretraining.tokenizer import write_tokenizer
from rats_jax.pretraining.vae import scaling_factor, train_vae
from rats_jax.rewards.pickscore import load_pickscore
from rats_jax.types import Array, Key
from rats_jax.weights.folder import (
    CLIP_WEIGHTS,
    UNET_WEIGHTS,
    VAE_WEIGHTS,
    write_model,
    write_model_index,
)
from rats_jax.weights.tokenizers import load_tokenizer, tokenize


def vae_stage(config: Any, workdir: Path) -> None:
    """Train the autoencoder on all pictures: pipeline/vae."""
    folder = workdir / "pipeline" / "vae"
    if is_done(folder / "config.json"):
        return
    model = config.vae_model.to_dict()
    vae, images = AutoencoderKL.from_config(model), load_emoji(config.data_dir).images

    def draw(images: Array, keys: Key, batch_size: int) -> Array:
        pick = jax.random.choice(keys[0], images.shape[0], (batch_size,), replace=False)
        return flip_and_shift(keys[1], images[pick] / 255.0)

    with training_state(folder) as file:
        params = train_vae(jnp.asarray(images), draw, vae, config.vae, seed=config.seed, state_file=file)
        scale = scaling_factor(vae, params, jnp.asarray(images[:512] / 255.0, jnp.float32))
        model |= {"_class_name": "AutoencoderKL", "scaling_factor": scale}
        write_model(folder, model, params, VAE_WEIGHTS)


def pipeline_stage(config: Any, workdir: Path) -> None:
    """Train UNet and text encoder and complete the diffusers folder: pipeline/."""
    folder = workdir / "pipeline"
    if is_done(folder / "model_index.json"):
        return
    concepts = _concepts(config)
    write_tokenizer(concepts.captions, folder / "tokenizer", **config.tokenizer)
    tokenizer = load_tokenizer(folder / "tokenizer")
    vae, vae_params, scaling_factor = load_vae(folder / "vae")
    latents = shifted_latents(vae, vae_params, concepts.images, scaling_factor=scaling_factor)
    text_config = with_tokenizer(config.text_encoder_model.to_dict(), tokenizer)
    with training_state(folder / "unet") as file:
        unet_params, text_params = train_text_to_image(
            latents,
            tokenize(tokenizer, concepts.captions),
            tokenize(tokenizer, [""])[0],
            config.unet_model.to_dict(),
            text_config,
            config.scheduler.to_dict(),
            config.unet,
            seed=config.seed + 10,
            state_file=file,
        )
        text_config |= {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model"}
        write_model(folder / "text_encoder", text_config, text_params, CLIP_WEIGHTS)
        unet_config = config.unet_model.to_dict() | {"_class_name": "UNet2DConditionModel"}
        write_model(folder / "unet", unet_config, unet_params, UNET_WEIGHTS)
        write_model_index(folder, config.scheduler.to_dict() | {"_class_name": "DDIMScheduler"})


def reward_stage(config: Any, workdir: Path) -> None:
    """Train the reward that RATS climbs: reward/."""
    _train_reward(config, workdir, "reward", seed=config.seed + 20)


def heldout_reward_stage(config: Any, workdir: Path) -> None:
    """Train the judge that no training sees, of another seed, size and augmentation: heldout_reward/."""
    _train_reward(config, workdir, "heldout_reward", seed=config.seed + 30)


def prompts_stage(config: Any, workdir: Path) -> None:
    """Write the concepts' names and pictures: prompts.txt and reference.npz."""
    concepts = _concepts(config)
    (workdir / "prompts.txt").write_text("\n".join(concepts.captions) + "\n", encoding="utf-8")
    np.savez_compressed(
        workdir / "reference.npz", images=concepts.images, captions=np.array(concepts.captions)
    )


def samples_stage(config: Any, workdir: Path) -> None:
    """Draw what the pipeline makes of some prompts: samples.png."""
    write_samples(config, workdir)


def check_stage(config: Any, workdir: Path) -> None:
    """Score real and spoilt pictures with both rewards: rewards.json."""
    concepts = _concepts(config)
    vae, vae_params, _ = load_vae(workdir / "pipeline" / "vae")
    corruptions = {"autoencoder": autoencode(vae, vae_params), "latent_noise": latent_noise(vae, vae_params)}
    table = score_spoilt(
        {name: load_pickscore(str(workdir / name)) for name in ("reward", "heldout_reward")},
        concepts.images.astype(np.float32) / 255.0,
        concepts.captions,
        corruptions | dict(CORRUPTIONS),
        attacked="reward",
        severity=0.6,
        seed=config.seed,
    )
    write_check(table, workdir / "rewards.json")


STAGES: Mapping[str, Callable[[Any, Path], None]] = {
    "vae": vae_stage,
    "pipeline": pipeline_stage,
    "reward": reward_stage,
    "heldout_reward": heldout_reward_stage,
    "prompts": prompts_stage,
    "samples": samples_stage,
    "check": check_stage,
}


def _train_reward(config: Any, workdir: Path, name: str, *, seed: int) -> None:
    if is_done(workdir / name / "config.json"):
        return
    concepts, max_shift = _concepts(config), config[name].max_shift

    def gather(ids: np.ndarray) -> Any:
        return {"images": jnp.asarray(concepts.images), "input_ids": jnp.asarray(ids)}

    def draw(data: Any, keys: Key, batch_size: int) -> Drawn:
        pick = jax.random.choice(keys[0], data["images"].shape[0], (batch_size,), replace=False)
        images = flip_and_shift(keys[1], data["images"][pick] / 255.0, max_shift=max_shift)
        return Drawn(images, data["input_ids"][pick])

    corruptions = find_corruptions(config[name], workdir / "pipeline" / "vae")
    train_reward(
        config, config[name], workdir / name, concepts.captions, gather, draw, corruptions, seed=seed
    )


def _concepts(config: Any) -> Emoji:
    return load_emoji(config.data_dir, subcategories=config.subcategories, exclude=config.exclude)
