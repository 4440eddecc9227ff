"""Pipelines that PyTorch diffusers wrote, with random weights: every network against the original."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
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
from flax.serialization import to_bytes
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from rats_jax.errors import WeightsError
from rats_jax.models.pipeline import load_pipeline, open_pipeline
from rats_jax.models.stored import StoredArray
from rats_jax.models.tokenizer import CLIP_VOCABULARY, load_tokenizer

PROMPTS = ["a photo of a cat", "two red apples on a blue plate"]
# Real block types at tiny widths; the Flax class normalises 32 groups whatever the config says.
UNET = {
    "sample_size": 8,
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 2,
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
TEXT = {"vocab_size": 49408, "max_position_embeddings": 77, "intermediate_size": 64, "num_hidden_layers": 3}
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
            network.eval()
            for parameter in network.parameters():
                if (
                    parameter.ndim == 1
                ):  # norms and biases begin as ones and zeros, where a mix-up is not seen
                    parameter.data.add_(0.1 * torch.randn_like(parameter))
    return pipeline


@pytest.fixture(scope="module", params=list(UNETS))
def pair(request, tmp_path_factory):
    original = make_original(request.param)
    folder = tmp_path_factory.mktemp(request.param) / "pipeline"
    original.save_pretrained(folder)
    return request.param, original, folder


def as_numpy(tensor):
    return tensor.detach().numpy()


@pytest.mark.slow
def test_every_network_gives_what_the_original_gives(pair):
    kind, original, folder = pair
    pipeline = load_pipeline(folder)
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(2, 8, 8, 4)).astype(np.float32)
    nchw = torch.from_numpy(latents.transpose(0, 3, 1, 2))

    embeds = jax.jit(pipeline.encode_fn)(pipeline.text_encoder, pipeline.tokenize(PROMPTS))
    with torch.no_grad():
        expected = original.encode_prompt(
            PROMPTS, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True
        )
    added = None
    if kind == "sdxl":
        cond, uncond, pooled, uncond_pooled = expected
        time_ids = torch.tensor([[16.0, 16, 0, 0, 16, 16]] * 2)
        added = {"text_embeds": pooled, "time_ids": time_ids}
        ours = embeds.cond.tokens, embeds.uncond.tokens, embeds.cond.pooled, embeds.uncond.pooled
        np.testing.assert_array_equal(embeds.cond.time_ids, time_ids)
    else:
        cond, ours = expected[0], (embeds.cond, embeds.uncond)
    for actual, wanted in zip(ours, expected, strict=True):
        np.testing.assert_allclose(actual, as_numpy(wanted), atol=1e-4)
    assert np.abs(as_numpy(cond)).std() > 0.1

    with torch.no_grad():
        wanted = original.unet(nchw, torch.tensor([501, 501]), cond, added_cond_kwargs=added).sample
    actual = jax.jit(pipeline.denoise_fn)(pipeline.unet, latents, jnp.int32(501), embeds.cond)
    np.testing.assert_allclose(actual, as_numpy(wanted).transpose(0, 2, 3, 1), atol=1e-4)
    assert as_numpy(wanted).std() > 0.1

    with torch.no_grad():
        wanted = original.vae.decode(nchw / original.vae.config.scaling_factor).sample
    actual = jax.jit(pipeline.decode_fn)(pipeline.decoder, latents)
    np.testing.assert_allclose(actual, as_numpy(wanted).transpose(0, 2, 3, 1) / 2 + 0.5, atol=1e-4)


@pytest.mark.slow
def test_flax_weights_are_read_where_there_are_no_others(pair, tmp_path):
    _, _, folder = pair
    pipeline = load_pipeline(folder)
    flax = tmp_path / "flax"
    for file in folder.rglob("*"):
        if file.is_file() and file != folder / "unet" / "diffusion_pytorch_model.safetensors":
            copy = flax / file.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.symlink_to(file)
    weights = flax / "unet" / "diffusion_flax_model.msgpack"
    weights.write_bytes(to_bytes(pipeline.unet))
    jax.tree.map(np.testing.assert_array_equal, load_pipeline(flax).unet, pipeline.unet)
    weights.write_bytes(to_bytes(pipeline.unet | {"stray": np.zeros(3)}))
    with pytest.raises(WeightsError, match=r"msgpack' does not fit its architecture: unexpected stray$"):
        load_pipeline(flax)
    weights.write_bytes(b"not msgpack")
    with pytest.raises(WeightsError, match=r"msgpack' is not a readable msgpack file"):
        load_pipeline(flax)


@pytest.mark.slow
def test_nothing_is_read_before_it_is_placed(pair):
    _, _, folder = pair
    pipeline = open_pipeline(str(folder))
    leaves = jax.tree.leaves((pipeline.unet, pipeline.text_encoder, pipeline.decoder))
    assert all(type(leaf) is StoredArray for leaf in leaves)
    kernel = pipeline.unet["conv_in"]["kernel"]
    whole = np.asarray(kernel)
    np.testing.assert_array_equal(kernel[1:2, :, 1:3, 4:9], whole[1:2, :, 1:3, 4:9])
    assert kernel.astype(jnp.bfloat16)[0:1, :, :, 0:2].dtype == jnp.bfloat16


@pytest.mark.slow
def test_a_pipeline_whose_parts_do_not_belong_together_is_refused(pair, tmp_path):
    kind, _, folder = pair
    index = json.loads((folder / "model_index.json").read_text())
    other = "StableDiffusionPipeline" if kind == "sdxl" else "StableDiffusionXLPipeline"
    for file in folder.iterdir():
        if file.is_dir():
            (tmp_path / file.name).symlink_to(file)
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"_class_name": other}))
    with pytest.raises(WeightsError, match="is not conditioned|lacks 'text_encoder_2/config.json'"):
        load_pipeline(tmp_path)
