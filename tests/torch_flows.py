"""PyTorch pipelines of FLUX.1 and Stable Diffusion 3: tiny, random, of the real kinds of blocks."""

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from rats_jax.weights.tokenizers import CLIP_VOCABULARY, load_tokenizer
from tests.networks.parity import with_random_vectors
from tests.torch_pipelines import CLIP_L, OPEN_CLIP

VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (16, 32),
    "norm_num_groups": 8,
    "layers_per_block": 1,
    "latent_channels": 16,
    "sample_size": 32,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
T5 = {"vocab_size": 64, "d_model": 96, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4} | {
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
}
FLUX = {
    "in_channels": 64,
    "num_layers": 2,
    "num_single_layers": 3,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "axes_dims_rope": (4, 6, 6),
    "joint_attention_dim": 96,
    "pooled_projection_dim": 32,
}
SD3 = {
    "sample_size": 16,
    "patch_size": 2,
    "in_channels": 16,
    "num_layers": 3,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "joint_attention_dim": 96,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 32 + 40,
    "out_channels": 16,
    "pos_embed_max_size": 24,
}
TRANSFORMERS = {
    "flux_dev": FLUX | {"guidance_embeds": True},
    "flux_schnell": FLUX,
    "sd3": SD3,
    "sd35": SD3 | {"num_layers": 4, "qk_norm": "rms_norm", "dual_attention_layers": (0, 1)},
}
KINDS = tuple(TRANSFORMERS)


def make_t5_tokenizer(length):
    """Make a T5 tokenizer of letters: padding is token 0, the end is token 1."""
    letters = "▁abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((letter, -3.0) for letter in letters)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return T5TokenizerFast(tokenizer_object=tokenizer, extra_ids=0, model_max_length=length)


def make_flow(kind, *, without_t5=False):
    """Build a PyTorch pipeline with random weights of sizes that make every layer count."""
    torch.manual_seed(0)
    is_flux = kind.startswith("flux")
    make_transformer = FluxTransformer2DModel if is_flux else SD3Transformer2DModel
    shift = {"shift": 3.0}
    if kind == "flux_dev":
        shift |= {"use_dynamic_shifting": True}
    elif kind == "flux_schnell":
        shift = {"shift": 1.0}
    t5 = T5EncoderModel(T5Config(**T5))
    parts = {
        "transformer": make_transformer(**TRANSFORMERS[kind]),
        "vae": AutoencoderKL(**VAE),
        "scheduler": FlowMatchEulerDiscreteScheduler(**shift),
        "tokenizer": load_tokenizer(CLIP_VOCABULARY),
    }
    if is_flux:
        pipeline = FluxPipeline(
            **parts,
            text_encoder=CLIPTextModel(CLIPTextConfig(**CLIP_L)),
            text_encoder_2=t5,
            tokenizer_2=make_t5_tokenizer(24),
        )
    else:
        tokenizer = load_tokenizer(CLIP_VOCABULARY)
        tokenizer.pad_token = "!"  # as published: the second tokenizer pads with token 0
        pipeline = StableDiffusion3Pipeline(
            **parts,
            text_encoder=CLIPTextModelWithProjection(CLIPTextConfig(**CLIP_L)),
            text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**OPEN_CLIP)),
            tokenizer_2=tokenizer,
            text_encoder_3=None if without_t5 else t5,
            tokenizer_3=None if without_t5 else make_t5_tokenizer(24),
        )
    for network in pipeline.components.values():
        if isinstance(network, torch.nn.Module):
            with_random_vectors(network)
    return pipeline


def draw_with_torch(original, noise, prompts, **options):
    """Draw from noise [B, h, w, C] at the levels of our grids."""
    latents = torch.from_numpy(np.array(noise.transpose(0, 3, 1, 2)))
    if hasattr(original, "_pack_latents"):
        latents = original._pack_latents(latents, *latents.shape)
    original.set_progress_bar_config(disable=True)
    steps = options["num_inference_steps"]
    sigmas = np.linspace(1.0, 1.0 / steps, steps)
    return original(prompts, latents=latents, sigmas=sigmas, output_type="np", **options).images
