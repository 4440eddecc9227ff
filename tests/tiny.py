"""The smallest real Stable Diffusion and CLIP folders: random weights, 32x32 pictures, quick to compile."""

import json
import os
import re
from pathlib import Path

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from rats_jax.config.flags import load_config
from rats_jax.networks import clip
from rats_jax.networks.abstract import abstract_params
from rats_jax.networks.autoencoder_kl import AutoencoderKL
from rats_jax.networks.clip_text import CLIPTextModel
from rats_jax.networks.unet_2d import UNet2DConditionModel
from rats_jax.pretraining.tokenizer import write_tokenizer
from rats_jax.weights.folder import (
    CLIP_WEIGHTS,
    UNET_WEIGHTS,
    VAE_WEIGHTS,
    write_model,
    write_model_index,
)
from rats_jax.weights.stored import read_all
from rats_jax.weights.tokenizers import load_tokenizer
from rats_jax.workdir import saved_config

_ROOT = Path(__file__).parent.parent
_CONFIG_FILE = """
from pathlib import Path

from ml_collections import ConfigDict
from rats_jax.workdir import saved_config


def get_config():
    return ConfigDict(saved_config.from_json(Path(__file__).with_suffix(".json").read_text()))
"""
PROMPTS = ["red apple", "cat", "cat face", "green book", "blue heart", "taxi", "dog", "ice cream"]
MAX_LENGTH = 8

UNET = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("DownBlock2D",),  # it looks at the prompt in the middle alone: less to compile
    "up_block_types": ("UpBlock2D",),
    "block_out_channels": (32,),
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "cross_attention_dim": 32,
}
VAE = {
    "_class_name": "AutoencoderKL",
    "sample_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "block_out_channels": (16, 16, 16),
    "layers_per_block": 1,
    "norm_num_groups": 16,
    "act_fn": "silu",
    "scaling_factor": 0.5,
}
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "steps_offset": 0,
    "set_alpha_to_one": True,
    "clip_sample": False,
    "rescale_betas_zero_snr": False,
}
_TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "hidden_act": "gelu",
}


def write_tiny_pipeline(folder: Path, *, seed: int = 0, unet=UNET, vae=VAE) -> Path:
    """Write a diffusers Stable Diffusion folder with random weights; its prompts are PROMPTS."""
    tokens = _write_tokenizer(folder / "tokenizer")
    text = _TOWER | tokens | {"projection_dim": 32, "model_type": "clip_text_model"}
    text_encoder = CLIPTextModel.from_config(text)
    unet_params = random_params(UNet2DConditionModel.from_config(unet).abstract_params(), seed=seed)
    vae_params = random_params(AutoencoderKL.from_config(vae).abstract_params(), seed=seed + 1)
    text_params = random_params(text_encoder.abstract_params(), seed=seed + 2)
    write_model(folder / "unet", dict(unet), unet_params, UNET_WEIGHTS)
    write_model(folder / "vae", dict(vae), vae_params, VAE_WEIGHTS)
    write_model(folder / "text_encoder", text, text_params, CLIP_WEIGHTS)
    write_model_index(folder, SCHEDULER)
    return folder


def write_tiny_reward(folder: Path, *, seed: int = 0, num_layers: int = 1) -> Path:
    """Write a transformers CLIPModel folder with random weights and logit_scale log(10)."""
    tokens, layers = _write_tokenizer(folder), {"num_hidden_layers": num_layers}
    config = {
        "model_type": "clip",
        "projection_dim": 16,
        "text_config": _TOWER | layers | tokens,
        "vision_config": _TOWER | layers | {"image_size": 32, "patch_size": 8},
    }
    params = random_params(abstract_params(clip.init_clip, clip.CLIPModel.from_config(config)), seed=seed)
    write_model(folder, config, params | {"logit_scale": np.float32(np.log(10.0))}, CLIP_WEIGHTS)
    return folder


def xla_flags(*, devices):
    """Give the flags that the tests run with, for a process of another number of devices."""
    name = "--xla_force_host_platform_device_count"
    return re.sub(rf"{name}=\d+", f"{name}={devices}", os.environ["XLA_FLAGS"])


def flags_with(defaults, given):
    """A command line of `given` flags, and of `defaults` those that it does not give: a flag counts once."""
    names = {flag.split("=")[0] for flag in given}
    return [flag for flag in defaults if flag.split("=")[0] not in names] + list(given)


def change_json(file, **changes):
    """Give fields of a JSON object in a file other values."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def mesh_sizes(**sizes):
    """Give the sizes of a mesh as a config has them; those that are not named are 1."""
    axes = ("data", "fsdp", "tensor")
    return dict.fromkeys([*axes, *(f"dcn_{axis}" for axis in axes)], 1) | sizes


def read_reward(reward):
    """Read the weights of a reward, which may still be in their files."""
    return reward._replace(params=read_all(reward.params))


def random_params(abstract, *, seed):
    """Draw weights of a sane size for each leaf, without compiling the networks' own initialisation."""
    rng = np.random.default_rng(seed)

    def draw(path, shape):
        value = rng.normal(size=shape).astype(np.float32)
        if path[-1] == "kernel":
            return value / np.float32(np.sqrt(np.prod(shape[:-1])))
        return np.float32(path[-1] == "scale") + np.float32(0.1) * value

    return unflatten_dict({path: draw(path, leaf.shape) for path, leaf in flatten_dict(abstract).items()})


def _write_tokenizer(folder):
    write_tokenizer(PROMPTS, folder, vocab_size=560, max_length=MAX_LENGTH)
    tokenizer = load_tokenizer(folder)
    return {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": MAX_LENGTH,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def write_tiny_models(folder, **networks):
    """Write what a run of `tiny_config` reads; `networks` as of `write_tiny_pipeline`."""
    write_tiny_pipeline(folder / "pipeline", **networks)
    write_tiny_reward(folder / "reward", seed=5)
    write_tiny_reward(folder / "heldout", seed=6)
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    images = np.random.default_rng(0).integers(0, 255, (len(PROMPTS), 32, 32, 3), np.uint8)
    np.savez(folder / "reference.npz", images=images, captions=np.array(PROMPTS))


def write_config(file, config):
    """Write a config as a file that commands take: a .py that reads the .json beside it."""
    file.with_suffix(".json").write_text(saved_config.to_json(config))
    file.write_text(_CONFIG_FILE)
    return file


def tiny_config(models, **overrides):
    """Shrink the embedded default to four updates of a tiny network on eight fake devices."""
    config = load_config(_ROOT / "configs" / "emoji_cpu.py")
    config.update_from_flattened_dict(
        {
            "pretrained": str(models / "pipeline"),
            "prompts": str(models / "prompts.txt"),
            "reference": str(models / "reference.npz"),
            "num_updates": 4,
            "batch_size": 8,
            "student.num_steps": 2,
            "student.reward_gradient_steps": 2,
            "teacher.num_steps": 3,
            "samples.every": 4,
            "samples.num": 3,
            "checkpoint.every": 2,
            "evaluation.num_prompts": 12,
            "evaluation.batch_size": 8,
        }
    )
    config.rewards.pickscore_emoji.path = str(models / "reward")
    config.monitor.heldout.path = str(models / "heldout")
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in overrides.items()})
    return config
