"""A PyTorch pipeline of Wan2.1: tiny, random, of the real kinds of blocks."""

import types

import numpy as np
import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import UMT5Config, UMT5EncoderModel

from tests.networks.parity import with_random_vectors
from tests.torch_flows import make_t5_tokenizer

TRANSFORMER = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 24,
    "freq_dim": 16,
    "ffn_dim": 40,
    "num_layers": 2,
    "rope_max_seq_len": 64,
}
VAE = {
    "base_dim": 4,
    "z_dim": 4,
    "dim_mult": [1, 1, 2, 2],
    "num_res_blocks": 1,
    "temperal_downsample": [False, True, True],
    "latents_mean": [0.1, -0.2, 0.3, 0.0],
    "latents_std": [1.5, 0.8, 1.0, 2.0],
}
UMT5 = {"vocab_size": 64, "d_model": 24, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
SCHEDULERS = {
    "euler": lambda: FlowMatchEulerDiscreteScheduler(shift=5.0),
    "unipc": lambda: UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
    ),
}


def make_wan(scheduler="euler"):
    """Build a PyTorch pipeline with random weights of sizes that make every layer count."""
    torch.manual_seed(0)
    pipeline = WanPipeline(
        transformer=WanTransformer3DModel(**TRANSFORMER),
        vae=AutoencoderKLWan(**VAE),
        text_encoder=UMT5EncoderModel(UMT5Config(**UMT5, feed_forward_proj="gated-gelu")),
        tokenizer=make_t5_tokenizer(24),
        scheduler=SCHEDULERS[scheduler](),
    )
    for network in (pipeline.transformer, pipeline.vae, pipeline.text_encoder):
        with_random_vectors(network)
    return pipeline


def draw_with_torch(original, noise, prompts, **options):
    """Draw from noise [B, t, h, w, C] at the levels of our grids, which its call cannot be told."""
    set_timesteps = type(original.scheduler).set_timesteps

    def set_levels(scheduler, num_steps, device=None):
        set_timesteps(scheduler, sigmas=np.linspace(1.0, 1.0 / num_steps, num_steps), device=device)

    original.scheduler.set_timesteps = types.MethodType(set_levels, original.scheduler)
    original.set_progress_bar_config(disable=True)
    latents = torch.from_numpy(np.moveaxis(noise, -1, 1).copy())
    return original(prompts, latents=latents, output_type="np", **options).frames
