"""PyTorch pipelines of Stable Diffusion 1.x, 2.x and XL: tiny, random, of the real kinds of blocks."""

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from rats_jax.weights.tokenizers import CLIP_VOCABULARY, load_tokenizer
from tests.networks.parity import with_random_vectors

# Real block types at tiny widths; the Flax class normalises 32 groups whatever the config says.
UNET = {
    "sample_size": 8,
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
}
UNETS = {
    "sd1": UNET | {"attention_head_dim": 4, "cross_attention_dim": 32},
    "sd2": UNET | {"attention_head_dim": (2, 4), "cross_attention_dim": 48, "use_linear_projection": True},
    "sdxl": UNET
    | {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": (2, 4),
        "transformer_layers_per_block": (1, 2),
        "cross_attention_dim": 32 + 48,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 40 + 6 * 8,
    },
}
TEXT = {"vocab_size": 49408, "max_position_embeddings": 77, "intermediate_size": 64, "num_hidden_layers": 5}
CLIP_L = TEXT | {
    "hidden_size": 32,
    "num_attention_heads": 2,
    "hidden_act": "quick_gelu",
    "projection_dim": 32,
}
OPEN_CLIP = TEXT | {"hidden_size": 48, "num_attention_heads": 4, "hidden_act": "gelu", "projection_dim": 40}
SCHEDULERS = {
    "sd1": PNDMScheduler(skip_prk_steps=True, steps_offset=1, beta_schedule="scaled_linear"),
    "sd2": DDIMScheduler(prediction_type="v_prediction", steps_offset=1, beta_schedule="scaled_linear"),
    "sdxl": EulerDiscreteScheduler(steps_offset=1, beta_schedule="scaled_linear"),
}


def make_original(kind):
    """Build a PyTorch pipeline with random weights of sizes that make every layer count."""
    torch.manual_seed(0)
    parts = {
        "unet": UNet2DConditionModel(**UNETS[kind]),
        "vae": AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(32, 64),
            layers_per_block=1,
            sample_size=16,
            scaling_factor=0.5,
        ),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**(OPEN_CLIP if kind == "sd2" else CLIP_L))),
        "tokenizer": load_tokenizer(CLIP_VOCABULARY),
        "scheduler": SCHEDULERS[kind],
    }
    if kind == "sdxl":
        parts["text_encoder_2"] = CLIPTextModelWithProjection(CLIPTextConfig(**OPEN_CLIP))
        tokenizer = load_tokenizer(CLIP_VOCABULARY)
        tokenizer.pad_token = "!"  # as published: the second tokenizer pads with token 0
        pipeline = StableDiffusionXLPipeline(**parts, tokenizer_2=tokenizer)
    else:
        nothing = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipeline = StableDiffusionPipeline(**parts, **nothing)
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        network = getattr(pipeline, name, None)
        if network is not None:
            with_random_vectors(network)
    return pipeline
