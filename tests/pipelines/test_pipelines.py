"""A Stable Diffusion folder behind the contracts of types.py, against the Flax modules called directly."""

import json
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transformers import CLIPTextConfig, FlaxCLIPTextModel

from rats_jax.errors import ConfigError, WeightsError
from rats_jax.pipelines import stable_diffusion as sd
from rats_jax.pipelines.open import load_pipeline
from rats_jax.weights.folder import abstract_params
from rats_jax.weights.state_dict import load_safetensors
from tests.tiny import MAX_LENGTH, PROMPTS, SCHEDULER, UNET, VAE, write_tiny_pipeline


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
    assert pipeline.scheduler_config == SCHEDULER
    for params in (pipeline.unet, pipeline.text_encoder, pipeline.decoder):
        assert all(type(leaf) is np.ndarray and leaf.dtype == np.float32 for leaf in jax.tree.leaves(params))
    assert set(pipeline.decoder) == {"decoder", "post_quant_conv"}


def test_the_network_sees_its_own_layout(pipeline):
    unet = sd.make_unet(UNET)
    latents, embeds = normal(2, 8, 8, 4), normal(2, MAX_LENGTH, 32, seed=1)
    timestep = jnp.int32(501)

    @jax.jit
    def both(params):
        sample = jnp.moveaxis(latents, 3, 1)
        direct = unet.apply({"params": params}, sample, jnp.full(2, timestep), embeds).sample
        return pipeline.denoise_fn(params, latents, timestep, embeds), jnp.moveaxis(direct, 1, 3)

    actual, expected = both(pipeline.unet)
    chex.assert_shape(actual, (2, 8, 8, 4))
    chex.assert_type(actual, jnp.float32)
    # diffusers' Flax class approximates the GELU: tests/models/test_pytorch.py has the sharper comparison.
    chex.assert_trees_all_close(actual, expected, atol=2e-3)
    assert float(jnp.std(actual)) > 0.1


def test_networks_may_compute_in_bfloat16_but_give_float32(folder, pipeline):
    low = load_pipeline(folder, dtype=jnp.bfloat16)
    chex.assert_trees_all_equal(low.unet, pipeline.unet)
    embeds, images = jax.eval_shape(
        lambda: (
            low.denoise_fn(low.unet, normal(2, 8, 8, 4), jnp.int32(1), normal(2, MAX_LENGTH, 32)),
            low.decode_fn(low.decoder, normal(2, 8, 8, 4)),
        )
    )
    assert embeds.dtype == images.dtype == jnp.float32


def test_decoding_unscales_and_maps_to_unit_range(folder, pipeline):
    vae = sd.make_vae(VAE)
    weights = load_safetensors(
        folder / "vae" / "diffusion_pytorch_model.safetensors", abstract_params(sd.init_vae, vae)
    )
    latents = normal(2, 8, 8, 4)

    @jax.jit
    def both(decoder, params):
        sample = jnp.moveaxis(latents, 3, 1) / VAE["scaling_factor"]
        direct = vae.apply({"params": params}, sample, method=vae.decode).sample
        return pipeline.decode_fn(decoder, latents), jnp.moveaxis(direct, 1, 3)

    actual, direct = both(pipeline.decoder, weights)
    chex.assert_shape(actual, (2, 32, 32, 3))
    # The network speaks [-1, 1]: -1 is black, 0 is half grey, 1 is white.
    chex.assert_trees_all_close(actual, 0.5 + 0.5 * direct, atol=1e-5)


def test_encoding_maps_to_the_network_s_range(folder):
    vae = sd.make_vae(VAE)
    weights = load_safetensors(
        folder / "vae" / "diffusion_pytorch_model.safetensors", abstract_params(sd.init_vae, vae)
    )
    images = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 32, 32, 3)), jnp.float32)

    @jax.jit
    def both(params):
        sample = jnp.moveaxis(images, 3, 1) * 2 - 1
        posterior = vae.apply({"params": params}, sample, method=vae.encode).latent_dist
        return sd.encode_moments(vae, params, images), (posterior.mean, posterior.logvar)

    actual, expected = both(weights)
    chex.assert_shape(list(actual), (2, 8, 8, 4))
    chex.assert_trees_all_close(actual, expected, atol=1e-5)


def test_texts_are_encoded_with_and_without_the_prompt(folder, pipeline):
    prompts = ["red apple", "cat", "cat"]
    embeds = jax.jit(pipeline.encode_fn)(pipeline.text_encoder, pipeline.tokenize(prompts))
    chex.assert_shape(list(embeds), (3, MAX_LENGTH, 32))
    config = json.loads((folder / "text_encoder" / "config.json").read_text())
    model = FlaxCLIPTextModel(CLIPTextConfig(**config), _do_init=False)
    run = jax.jit(lambda p, ids: model(ids, params=p).last_hidden_state)
    for name, texts in (("cond", prompts), ("uncond", ["", "", ""])):
        expected = run(pipeline.text_encoder, pipeline.tokenize(texts))
        chex.assert_trees_all_close(getattr(embeds, name), expected, atol=1e-5)
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


def rewrite(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


WEIGHTS = "diffusion_pytorch_model.safetensors"
DAMAGE = {
    "no index": (lambda f: (f / "model_index.json").unlink(), "lacks 'model_index.json'"),
    "no unet config": (lambda f: (f / "unet" / "config.json").unlink(), "lacks 'unet/config.json'"),
    "no unet weights": (lambda f: (f / "unet" / WEIGHTS).unlink(), f"lacks 'unet/{WEIGHTS}' or"),
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
        lambda f: rewrite(f / "unet" / "config.json", cross_attention_dim=48),
        f"'.*unet/{WEIGHTS}' does not fit its architecture: .*attn2.to_k.weight has shape",
    ),
    "another text encoder": (
        lambda f: rewrite(f / "text_encoder" / "config.json", num_hidden_layers=2),
        "'.*text_encoder/model.safetensors' does not fit .* missing text_model.encoder.layers.1",
    ),
    "a smaller vae": (
        lambda f: rewrite(f / "vae" / "config.json", layers_per_block=2),
        f"'.*vae/{WEIGHTS}' does not fit its architecture: missing .*resnets",
    ),
    "another pipeline": (
        lambda f: rewrite(f / "model_index.json", _class_name="FluxPipeline"),
        "is a 'FluxPipeline' folder, expected 'StableDiffusionPipeline' or",
    ),
    "an unknown activation": (
        lambda f: rewrite(f / "text_encoder" / "config.json", hidden_act="cube"),
        "'.*text_encoder/config.json' describes no network known here: .*cube",
    ),
    "an impossible width": (
        lambda f: rewrite(f / "unet" / "config.json", block_out_channels=["wide"]),
        "'.*unet/config.json' describes no network known here",
    ),
    "a scaling factor in words": (
        lambda f: rewrite(f / "vae" / "config.json", scaling_factor="half"),
        "scaling_factor is 'half' in '.*vae', expected a number > 0",
    ),
    "broken vocab": (
        lambda f: (f / "tokenizer" / "vocab.json").write_text("{"),
        "'.*tokenizer' is no CLIP tokenizer",
    ),
    "a tokenizer that is too long": (
        lambda f: rewrite(f / "tokenizer" / "tokenizer_config.json", model_max_length=77),
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
