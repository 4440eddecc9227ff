"""Pipelines that PyTorch diffusers wrote, with random weights: every network against the original."""

import json

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.serialization import to_bytes

from rats_jax.errors import WeightsError
from rats_jax.pipelines.open import describe_pipeline, load_pipeline, open_pipeline
from rats_jax.weights.stored import StoredArray
from tests.torch_pipelines import UNETS, make_original

PROMPTS = ["a photo of a cat", "two red apples on a blue plate"]


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
    else:
        cond, ours = expected[0], (embeds.cond, embeds.uncond)
    for actual, wanted in zip(ours, expected, strict=True):
        np.testing.assert_allclose(actual, as_numpy(wanted), atol=1e-4)
    assert np.abs(as_numpy(cond)).std() > 0.1

    with torch.no_grad():
        wanted = original.unet(nchw, torch.tensor([501, 501]), cond, added_cond_kwargs=added).sample
    actual = jax.jit(pipeline.guided_fn(1.0))(pipeline.network, latents, jnp.int32(501), embeds)
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
    weights.write_bytes(to_bytes(pipeline.network))
    jax.tree.map(np.testing.assert_array_equal, load_pipeline(flax).network, pipeline.network)
    weights.write_bytes(to_bytes(pipeline.network | {"stray": np.zeros(3)}))
    with pytest.raises(WeightsError, match=r"msgpack' does not fit its architecture: unexpected stray$"):
        load_pipeline(flax)
    weights.write_bytes(b"not msgpack")
    with pytest.raises(WeightsError, match=r"msgpack' is not a readable msgpack file"):
        load_pipeline(flax)


@pytest.mark.slow
def test_nothing_is_read_before_it_is_placed(pair):
    _, _, folder = pair
    pipeline = open_pipeline(str(folder))
    leaves = jax.tree.leaves((pipeline.network, pipeline.text_encoder, pipeline.decoder))
    assert all(type(leaf) is StoredArray for leaf in leaves)
    kernel = pipeline.network["conv_in"]["kernel"]
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
    with pytest.raises(WeightsError, match="addition_embed_type=|text_encoder_2=None"):
        load_pipeline(tmp_path)


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
@pytest.mark.parametrize("version", ["0.8.1", "0.30.0"])
def test_files_of_old_are_mended_as_pytorch_mends_them(tmp_path, kind, version):
    """Converters wrote latents of 32 for 64, and no offset of the steps."""
    original = make_original(kind)
    original.scheduler = diffusers.DDIMScheduler(beta_schedule="scaled_linear", set_alpha_to_one=False)
    original.save_pretrained(tmp_path)
    for file, change in (
        ("unet/config.json", {"sample_size": 32, "_diffusers_version": version}),
        ("scheduler/scheduler_config.json", {"clip_sample": kind == "sd1"}),
    ):
        config = json.loads((tmp_path / file).read_text()) | change
        (tmp_path / file).write_text(json.dumps(config))
    opened = type(original).from_pretrained(tmp_path)
    pipeline = describe_pipeline(str(tmp_path))
    size = opened.unet.config.sample_size
    assert size == (64 if kind == "sd1" and version == "0.8.1" else 32)
    assert pipeline.image_shape() == (size * opened.vae_scale_factor,) * 2 + (3,)
    opened.scheduler.set_timesteps(4)
    assert pipeline.grid_fn(4, "").timesteps.tolist() == opened.scheduler.timesteps.tolist()
    assert opened.scheduler.timesteps[-1] == (kind == "sd1")
