"""The config files of published FLUX.1, Stable Diffusion 3 and Wan2.1, as `published.py` has those of others.

Source: the config.json and scheduler_config.json of each repository; fields that choose nothing here are left
out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_VAE = {
    "_class_name": "AutoencoderKL",
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 16,
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "act_fn": "silu",
    "sample_size": 1024,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
_CLIP_L = {
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "layer_norm_eps": 1e-5,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "projection_dim": 768,
    "eos_token_id": 2,
}
_CLIP_G = {
    **_CLIP_L,
    "hidden_act": "gelu",
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
}
_T5_XXL = {
    "model_type": "t5",
    "vocab_size": 32128,
    "d_model": 4096,
    "d_ff": 10240,
    "d_kv": 64,
    "num_heads": 64,
    "num_layers": 24,
    "feed_forward_proj": "gated-gelu",
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "tie_word_embeddings": False,
}
_FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}


def _flux(*, dev: bool) -> Mapping[str, Mapping[str, Any]]:
    shift = {
        "base_image_seq_len": 256,
        "max_image_seq_len": 4096,
        "base_shift": 0.5,
        "max_shift": 1.15,
        "shift": 3.0 if dev else 1.0,
        "use_dynamic_shifting": dev,
    }
    return {
        "model_index.json": {"_class_name": "FluxPipeline"},
        "transformer/config.json": {
            "_class_name": "FluxTransformer2DModel",
            "patch_size": 1,
            "in_channels": 64,
            "num_layers": 19,
            "num_single_layers": 38,
            "attention_head_dim": 128,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 768,
            "guidance_embeds": dev,
        },
        "vae/config.json": {**_VAE, "scaling_factor": 0.3611, "shift_factor": 0.1159},
        "text_encoder/config.json": _CLIP_L,
        "text_encoder_2/config.json": _T5_XXL,
        "scheduler/scheduler_config.json": _FLOW | shift,
    }


def _sd3(*, heads: int, layers: int, positions: int, **changes: Any) -> Mapping[str, Mapping[str, Any]]:
    return {
        "model_index.json": {
            "_class_name": "StableDiffusion3Pipeline",
            "text_encoder_3": ["transformers", "T5EncoderModel"],
        },
        "transformer/config.json": {
            "_class_name": "SD3Transformer2DModel",
            "sample_size": 128,
            "patch_size": 2,
            "in_channels": 16,
            "out_channels": 16,
            "num_layers": layers,
            "attention_head_dim": 64,
            "num_attention_heads": heads,
            "joint_attention_dim": 4096,
            "caption_projection_dim": 64 * heads,
            "pooled_projection_dim": 2048,
            "pos_embed_max_size": positions,
            **changes,
        },
        "vae/config.json": {**_VAE, "scaling_factor": 1.5305, "shift_factor": 0.0609},
        "text_encoder/config.json": _CLIP_L,
        "text_encoder_2/config.json": _CLIP_G,
        "text_encoder_3/config.json": _T5_XXL,
        "scheduler/scheduler_config.json": _FLOW | {"shift": 3.0},
    }


def _wan(*, heads: int, ffn_dim: int, layers: int) -> Mapping[str, Mapping[str, Any]]:
    return {
        "model_index.json": {"_class_name": "WanPipeline"},
        "transformer/config.json": {
            "_class_name": "WanTransformer3DModel",
            "patch_size": [1, 2, 2],
            "num_attention_heads": heads,
            "attention_head_dim": 128,
            "in_channels": 16,
            "out_channels": 16,
            "text_dim": 4096,
            "freq_dim": 256,
            "ffn_dim": ffn_dim,
            "num_layers": layers,
            "cross_attn_norm": True,
            "qk_norm": "rms_norm_across_heads",
            "eps": 1e-6,
            "rope_max_seq_len": 1024,
        },
        # Its other fields, the mean and the deviation of latents among them, are the defaults of the class.
        "vae/config.json": {
            "_class_name": "AutoencoderKLWan",
            "base_dim": 96,
            "z_dim": 16,
            "dim_mult": [1, 2, 4, 4],
            "num_res_blocks": 2,
            "temperal_downsample": [False, True, True],
        },
        "text_encoder/config.json": {**_T5_XXL, "model_type": "umt5", "vocab_size": 256384},
        "scheduler/scheduler_config.json": {
            "_class_name": "UniPCMultistepScheduler",
            "num_train_timesteps": 1000,
            "prediction_type": "flow_prediction",
            "use_flow_sigmas": True,
            "flow_shift": 3.0,
        },
    }


PUBLISHED_FLOWS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "black-forest-labs/FLUX.1-dev": _flux(dev=True),
    "black-forest-labs/FLUX.1-schnell": _flux(dev=False),
    "stabilityai/stable-diffusion-3-medium-diffusers": _sd3(heads=24, layers=24, positions=192),
    "stabilityai/stable-diffusion-3.5-medium": _sd3(
        heads=24, layers=24, positions=384, qk_norm="rms_norm", dual_attention_layers=list(range(13))
    ),
    "stabilityai/stable-diffusion-3.5-large": _sd3(heads=38, layers=38, positions=192, qk_norm="rms_norm"),
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": _wan(heads=12, ffn_dim=8960, layers=30),
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": _wan(heads=40, ffn_dim=13824, layers=40),
}
"""By hub id: the content of each config file."""
