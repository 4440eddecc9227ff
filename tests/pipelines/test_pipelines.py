"""A Stable Diffusion folder behind the Pipeline contract: values, dtypes, kernels, and damaged folders."""

import dataclasses
import shutil
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rats_jax.errors import ConfigError, WeightsError
from rats_jax.networks.attention import attend_cudnn, attend_in_columns
from rats_jax.networks.autoencoder_kl import AutoencoderKL
from rats_jax.pipelines import PIPELINES
from rats_jax.pipelines.base import Options
from rats_jax.pipelines.open import load_pipeline, open_pipeline
from rats_jax.pipelines.stable_diffusion import make_decode_fn
from rats_jax.types import PromptEmbeds
from rats_jax.weights.state_dict import load_safetensors
from tests.tiny import MAX_LENGTH, PROMPTS, VAE, change_json, write_tiny_pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_pipeline(tmp_path_factory.mktemp("tiny") / "pipeline")


@pytest.fixture(scope="module")
def pipeline(folder):
    return load_pipeline(folder)


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_the_folder_is_read_whole(pipeline):
    assert pipeline.latent_shape == (8, 8, 4)
    for params in (pipeline.network, pipeline.text_encoder, pipeline.decoder):
        assert all(type(leaf) is np.ndarray and leaf.dtype == np.float32 for leaf in jax.tree.leaves(params))
    assert set(pipeline.decoder) == {"decoder", "post_quant_conv"}


def test_networks_may_compute_in_bfloat16_but_give_float32(folder, pipeline):
    low = load_pipeline(folder, dtype=jnp.bfloat16)
    chex.assert_trees_all_equal(low.network, pipeline.network)
    embeds = PromptEmbeds(normal(2, MAX_LENGTH, 32), normal(2, MAX_LENGTH, 32))
    output, images = jax.eval_shape(
        lambda: (
            low.guided_fn(1.0)(low.network, normal(2, 8, 8, 4), jnp.int32(1), embeds),
            low.decode_fn(low.decoder, normal(2, 8, 8, 4)),
        )
    )
    assert output.dtype == images.dtype == jnp.float32
    assert images.shape[1:] == low.image_shape() == (32, 32, 3)


def test_decoding_unscales_shifts_and_maps_to_unit_range(folder):
    vae = AutoencoderKL.from_config(VAE | {"scaling_factor": 0.5, "shift_factor": 0.25})
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights, latents = load_safetensors(file, vae.abstract_params()), normal(2, 8, 8, 4)

    @jax.jit
    def both(params):
        direct = vae.apply({"params": params}, latents / 0.5 + 0.25, method=vae.decode)
        return make_decode_fn(vae)(params, latents), direct

    actual, direct = both(weights)
    chex.assert_shape(actual, (2, 32, 32, 3))
    # The network speaks [-1, 1]: -1 is black, 0 is half grey, 1 is white.
    chex.assert_trees_all_close(actual, 0.5 + 0.5 * direct, atol=1e-5)


def test_guidance_is_two_evaluations_and_none_is_one(pipeline):
    assert [pipeline.evaluations(scale) for scale in (1.0, 1.5, 7.5)] == [1, 2, 2]
    cond, uncond = normal(2, MAX_LENGTH, 32, seed=1), normal(2, MAX_LENGTH, 32, seed=2)
    latents, timestep = normal(2, 8, 8, 4), jnp.int32(501)

    @jax.jit
    def evaluate(scale, embeds):
        return pipeline.guided_fn(scale)(pipeline.network, latents, timestep, embeds)

    alone = [evaluate(1.0, PromptEmbeds(embeds, embeds)) for embeds in (cond, uncond)]
    expected = alone[1] + 2.5 * (alone[0] - alone[1])
    chex.assert_trees_all_close(evaluate(2.5, PromptEmbeds(cond, uncond)), expected, atol=1e-4)
    fixed = pipeline.guided_fn(2.5)(pipeline.network, latents, timestep, PromptEmbeds(cond, uncond))
    chex.assert_trees_all_close(fixed, expected, atol=1e-4)


def test_a_chosen_spacing_takes_the_place_of_the_scheduler_s(pipeline):
    assert pipeline.grid_fn(4, "").timesteps.tolist() == [999, 749, 499, 249]
    assert pipeline.grid_fn(4, "leading").timesteps.tolist() == [751, 501, 251, 1]
    assert pipeline.prediction_type == "v_prediction"


@pytest.mark.parametrize(("platform", "kernel"), [("gpu", attend_cudnn), ("cpu", attend_in_columns)])
def test_every_command_gets_the_attention_of_its_device(folder, monkeypatch, platform, kernel):
    """Training, generate, evaluate and ablate open their pipeline here, and no one attends otherwise."""
    client = SimpleNamespace(platform_version="cuda 12080")
    device = SimpleNamespace(platform=platform, client=client, compute_capability="9.0")
    chosen = []

    def compose(parts):
        chosen.extend(network.kernels.attend for network in parts.networks.values())
        return original.compose(parts)

    original = PIPELINES["StableDiffusionPipeline"]
    family = dataclasses.replace(original, compose=compose)
    monkeypatch.setitem(PIPELINES, "StableDiffusionPipeline", family)
    open_pipeline(str(folder), device=device)
    assert chosen == [kernel] * 3
    chosen.clear()
    monkeypatch.setattr(jax, "devices", lambda: [device])
    open_pipeline(str(folder))
    assert chosen == [kernel] * 3


def test_texts_are_encoded_with_and_without_the_prompt(folder, pipeline):
    prompts = ["red apple", "cat", "cat"]
    embeds = jax.jit(pipeline.encode_fn)(pipeline.text_encoder, pipeline.tokenize(prompts))
    chex.assert_shape(list(embeds), (3, MAX_LENGTH, 32))
    none = jax.jit(pipeline.encode_fn)(pipeline.text_encoder, pipeline.tokenize(["", "", ""]))
    chex.assert_trees_all_close(embeds.uncond, none.cond, atol=1e-6)
    assert float(jnp.abs(embeds.cond[0] - embeds.cond[1]).max()) > 0.1


def test_tokens_are_marked_padded_and_cut(pipeline):
    start, end = pipeline.tokenize([""])[0, :2]
    ids = pipeline.tokenize([*PROMPTS, "", "cat " * 20])
    assert ids.shape == (len(PROMPTS) + 2, MAX_LENGTH) and ids.dtype == np.int32
    assert (ids[:, 0] == start).all() and (ids[:, -1] == end).all()
    cat = ids[-1, 1]
    assert ids[1].tolist() == [start, cat] + [end] * (MAX_LENGTH - 2)
    assert ids[-1].tolist() == [start] + [cat] * (MAX_LENGTH - 2) + [end]
    assert ids[-2].tolist() == [start] + [end] * (MAX_LENGTH - 1)


WEIGHTS = "diffusion_pytorch_model.safetensors"
DAMAGE = {
    "no index": (lambda f: (f / "model_index.json").unlink(), "lacks 'model_index.json'"),
    "no unet config": (lambda f: (f / "unet" / "config.json").unlink(), "lacks 'unet/config.json'"),
    "no unet weights": (
        lambda f: (f / "unet" / WEIGHTS).unlink(),
        f"lacks 'unet/{WEIGHTS}', its index, .*; there are 'config.json'",
    ),
    "no vae": (lambda f: shutil.rmtree(f / "vae"), "lacks 'vae/config.json'"),
    "no tokenizer": (lambda f: shutil.rmtree(f / "tokenizer"), "lacks 'tokenizer/vocab.json'"),
    "no merges": (lambda f: (f / "tokenizer" / "merges.txt").unlink(), "lacks 'tokenizer/merges.txt'"),
    "no scheduler": (lambda f: shutil.rmtree(f / "scheduler"), "lacks 'scheduler/scheduler_config.json'"),
    "broken JSON": (
        lambda f: (f / "unet" / "config.json").write_text('{"sample_size": '),
        "'.*unet/config.json' is no JSON file",
    ),
    "binary JSON": (
        lambda f: (f / "unet" / "config.json").write_bytes(b"\x80\x81\xff"),
        "'.*unet/config.json' is no JSON file",
    ),
    "a list": (lambda f: (f / "model_index.json").write_text("[]"), "'.*' holds a list, expected a JSON obj"),
    "mis-shaped unet": (
        lambda f: change_json(f / "unet" / "config.json", layers_per_block=2),
        f"'.*unet/{WEIGHTS}' does not fit its architecture: missing .*resnets.1",
    ),
    "embeddings of another width": (
        lambda f: change_json(f / "unet" / "config.json", cross_attention_dim=48),
        f"'.*unet/{WEIGHTS}' does not fit its architecture: .*attn2.to_k.weight has shape",
    ),
    "an autoencoder of another class": (
        lambda f: change_json(f / "vae" / "config.json", _class_name="AutoencoderTiny"),
        "'.*vae/config.json': _class_name='AutoencoderTiny': expected 'AutoencoderKL'",
    ),
    "an unknown scheduler": (
        lambda f: change_json(f / "model_index.json", scheduler=["diffusers", "VQDiffusionScheduler"]),
        "'.*scheduler/scheduler_config.json': _class_name is 'VQDiffusionScheduler', expected one of",
    ),
    "a field of the future": (
        lambda f: change_json(f / "unet" / "config.json", time_travel=True),
        "'.*unet/config.json': time_travel=True: expected null",
    ),
    "another text encoder": (
        lambda f: change_json(f / "text_encoder" / "config.json", num_hidden_layers=2),
        "'.*text_encoder/model.safetensors' does not fit .* missing text_model.encoder.layers.1",
    ),
    "a smaller vae": (
        lambda f: change_json(f / "vae" / "config.json", layers_per_block=2),
        f"'.*vae/{WEIGHTS}' does not fit its architecture: missing .*resnets",
    ),
    "another pipeline": (
        lambda f: change_json(f / "model_index.json", _class_name="PixArtSigmaPipeline"),
        "'.*model_index.json': _class_name='PixArtSigmaPipeline': expected 'StableDiffusionPipeline' or",
    ),
    "a shift that Stable Diffusion does not add": (
        lambda f: change_json(f / "vae" / "config.json", shift_factor=0.1),
        "'.*vae/config.json': shift_factor=0.1: expected None of the pipeline, which adds none",
    ),
    "a scheduler that is no class": (
        lambda f: change_json(f / "model_index.json", scheduler="DDIMScheduler"),
        "'.*model_index.json': scheduler='DDIMScheduler': expected a library and a class",
    ),
    "an unknown activation": (
        lambda f: change_json(f / "text_encoder" / "config.json", hidden_act="cube"),
        "'.*text_encoder/config.json': hidden_act='cube': expected",
    ),
    "an impossible width": (
        lambda f: change_json(f / "unet" / "config.json", block_out_channels=["wide"]),
        "'.*unet/config.json': block_out_channels=.*wide.*: expected a list",
    ),
    "a scaling factor in words": (
        lambda f: change_json(f / "vae" / "config.json", scaling_factor="half"),
        "'.*vae/config.json': scaling_factor='half': expected a number > 0",
    ),
    "broken vocab": (
        lambda f: (f / "tokenizer" / "vocab.json").write_text("{"),
        "'.*tokenizer/vocab.json' is no JSON file",
    ),
    "a tokenizer that is too long": (
        lambda f: change_json(f / "tokenizer" / "tokenizer_config.json", model_max_length=77),
        "'.*tokenizer' has a length of 77, expected at most max_position_embeddings=8",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_folder_is_one_line_that_names_the_file(folder, tmp_path, case):
    damage, expected = DAMAGE[case]
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    damage(damaged)
    with pytest.raises(WeightsError, match=expected) as caught:
        load_pipeline(damaged)
    assert "\n" not in str(caught.value) and isinstance(caught.value, ConfigError)


def test_pictures_of_a_unet_have_the_size_that_is_chosen(folder):
    path = str(folder)
    assert open_pipeline(path).latent_shape == (8, 8, 4)
    assert open_pipeline(path, options=Options(height=48, width=64)).latent_shape == (12, 16, 4)
    for options in (Options(height=18), Options(height=16388)):
        with pytest.raises(
            ConfigError, match="^height=.*: expected a multiple of 4 up to 16384, or 0 for the"
        ):
            open_pipeline(path, options=options)
