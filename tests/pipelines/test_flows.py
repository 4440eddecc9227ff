"""Pipelines of FLUX.1 and Stable Diffusion 3 that PyTorch diffusers wrote: pictures, parts, bad folders."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import rats_jax
from rats_jax.errors import ConfigError, WeightsError
from rats_jax.pipelines.base import Options
from rats_jax.pipelines.flux import pack, unpack
from rats_jax.pipelines.open import describe_pipeline, load_pipeline, open_pipeline
from rats_jax.weights.stored import StoredArray
from tests.tiny import change_json
from tests.torch_flows import KINDS, draw_with_torch, make_flow

PROMPTS = ["a photo of a cat", "two red apples on a blue plate, and more words than are read"]
HEIGHT, WIDTH, TOKENS = 16, 24, 12
DIFFUSION = {"_class_name": "DDIMScheduler", "clip_sample": False}


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tmp_path_factory):
    original = make_flow(request.param)
    folder = tmp_path_factory.mktemp(request.param) / "pipeline"
    original.save_pretrained(folder, max_shard_size="60KB")
    assert len(list((folder / "transformer").glob("*.safetensors"))) > 2
    return request.param, original, folder


def scale_of(kind):
    return {"flux_dev": 3.5, "flux_schnell": 1.0}.get(kind, 4.0)


@pytest.mark.slow
def test_pictures_are_those_of_pytorch(pair):
    kind, original, folder = pair
    model = rats_jax.load(str(folder), height=HEIGHT, width=WIDTH, max_sequence_length=TOKENS)
    noise, scale = model.make_noise([0, 1]), scale_of(kind)
    assert noise.shape == (2, HEIGHT // 2, WIDTH // 2, 16)
    ours = model(PROMPTS, num_steps=4, guidance_scale=scale, latents=noise)
    size = {"height": HEIGHT, "width": WIDTH, "max_sequence_length": TOKENS}
    theirs = draw_with_torch(original, noise, PROMPTS, num_inference_steps=4, guidance_scale=scale, **size)
    assert theirs.std() > 0.05
    np.testing.assert_allclose(ours, theirs, atol=2e-3)
    if scale != 1.0:
        assert np.abs(model(PROMPTS, num_steps=4, guidance_scale=1.5, latents=noise) - ours).max() > 1e-3


@pytest.mark.slow
def test_the_levels_of_noise_are_those_of_pytorch(pair):
    kind, original, folder = pair
    pipeline = describe_pipeline(str(folder), options=Options(HEIGHT, WIDTH))
    mu = {}
    if kind == "flux_dev":
        from diffusers.pipelines.flux.pipeline_flux import calculate_shift

        mu = {"mu": calculate_shift((HEIGHT // 4) * (WIDTH // 4))}
    for steps in (1, 3, 4, 5, 8, 50):
        original.scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), **mu)
        grid = pipeline.grid_fn(steps, "")
        np.testing.assert_allclose(grid.noise_rates, original.scheduler.sigmas, rtol=1e-6)
        np.testing.assert_allclose(grid.timesteps, original.scheduler.timesteps, rtol=1e-6)
    with pytest.raises(ValueError, match="timestep_spacing is 'trailing', expected ''"):
        pipeline.grid_fn(4, "trailing")


@pytest.mark.slow
def test_prompts_are_encoded_as_pytorch_does(pair):
    kind, original, folder = pair
    pipeline = load_pipeline(folder, options=Options(max_sequence_length=TOKENS))
    embeds = jax.jit(pipeline.encode_fn)(pipeline.text_encoder, pipeline.tokenize(PROMPTS))
    with torch.no_grad():
        if kind.startswith("flux"):
            tokens, pooled, ids = original.encode_prompt(PROMPTS, None, max_sequence_length=TOKENS)
            assert not ids.any() and embeds.uncond is None
        else:
            tokens, empty, pooled, empty_pooled = original.encode_prompt(
                PROMPTS, None, None, max_sequence_length=TOKENS
            )
            np.testing.assert_allclose(embeds.uncond.tokens, empty, atol=1e-4)
            np.testing.assert_allclose(embeds.uncond.pooled, empty_pooled, atol=1e-4)
    np.testing.assert_allclose(embeds.cond.tokens, tokens, atol=1e-4)
    np.testing.assert_allclose(embeds.cond.pooled, pooled, atol=1e-4)
    assert np.abs(np.asarray(embeds.cond.tokens)).std() > 0.1


@pytest.mark.slow
def test_nothing_is_read_before_it_is_placed_and_shapes_are_known_without_files(pair):
    kind, _, folder = pair
    pipeline, described = open_pipeline(str(folder)), describe_pipeline(str(folder))
    trees = [(p.network, p.text_encoder, p.decoder) for p in (pipeline, described)]
    assert all(type(leaf) is StoredArray for leaf in jax.tree.leaves(trees[0]))
    shapes = [jax.tree.map(lambda leaf: tuple(leaf.shape), tree) for tree in trees]
    assert shapes[0] == shapes[1]
    assert pipeline.latent_shape == described.latent_shape
    own = (64, 64) if kind.startswith("flux") else (16, 16)
    assert pipeline.latent_shape == (*own, 16)


def test_t5_is_no_part_that_sd3_needs(tmp_path):
    original = make_flow("sd3", without_t5=True)
    original.save_pretrained(tmp_path)
    model = rats_jax.load(str(tmp_path))
    noise = model.make_noise([3])
    ours = model(PROMPTS[:1], num_steps=2, guidance_scale=3.0, latents=noise)
    theirs = draw_with_torch(original, noise, PROMPTS[:1], num_inference_steps=2, guidance_scale=3.0)
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_tokens_are_packed_as_pytorch_does_and_back():
    latents = np.random.default_rng(0).normal(size=(2, 6, 4, 5)).astype(np.float32)
    nchw = torch.from_numpy(latents.transpose(0, 3, 1, 2).copy())
    from diffusers import FluxPipeline

    expected = FluxPipeline._pack_latents(nchw, 2, 5, 6, 4)
    np.testing.assert_array_equal(pack(jnp.asarray(latents)), expected)
    np.testing.assert_array_equal(unpack(pack(jnp.asarray(latents)), latents.shape), latents)


@pytest.fixture
def copy(pair, tmp_path):
    """A copy of the folder that a test may spoil."""
    return pair[0], shutil.copytree(pair[2], tmp_path / "copy")


def test_bad_options_are_one_line(pair):
    kind, _, folder = pair
    for options, message in (
        (Options(height=18), "^height=18: expected a multiple of 4 up to 16384, or 0"),
        (Options(width=10), "^width=10: expected a multiple of 4"),
        (Options(max_sequence_length=513), "^max_sequence_length=513: expected from 1 to 512, or 0 for "),
        (Options(max_sequence_length=25), "^max_sequence_length=25: expected at most 24 of '.*/tokenizer_"),
    ):
        with pytest.raises(ConfigError, match=message):
            open_pipeline(str(folder), options=options)
    if not kind.startswith("flux"):
        with pytest.raises(ConfigError, match="^height=100: expected at most 96, pos_embed_max_size=24"):
            open_pipeline(str(folder), options=Options(height=100))
    if kind == "flux_schnell":
        with pytest.raises(ConfigError, match="^guidance_scale=3.5: expected 1: this model is told no guid"):
            rats_jax.load(str(folder), height=16, width=16)(["cat"], guidance_scale=3.5)


def test_damaged_shards_are_one_line(copy):
    _, folder = copy
    shards = sorted((folder / "transformer").glob("*.safetensors"))
    whole = shards[1].read_bytes()
    shards[1].write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match=f"{shards[1].name}' is cut short: it has "):
        open_pipeline(str(folder))
    shards[1].unlink()
    with pytest.raises(WeightsError, match=f"index.json' names '{shards[1].name}': expected that file"):
        open_pipeline(str(folder))
    shards[1].write_bytes(shards[0].read_bytes())
    with pytest.raises(WeightsError, match=f"index.json' says that '.*' is in '{shards[1].name}': expected"):
        open_pipeline(str(folder))
    shards[1].write_bytes(whole)
    index = folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    name = next(name for name in weight_map if ".0.attn.to_q.weight" in name)
    change_json(index, weight_map={key: file for key, file in weight_map.items() if key != name})
    with pytest.raises(WeightsError, match=f"index.json' .*{name}"):
        open_pipeline(str(folder))
    change_json(index, weight_map={})
    with pytest.raises(WeightsError, match="expected a 'weight_map' of names of tensors to names of files"):
        open_pipeline(str(folder))


def test_parts_of_another_family_are_one_line(copy):
    kind, folder = copy
    config = folder / "transformer" / "config.json"
    expected = json.loads(config.read_text())["_class_name"]
    change_json(config, _class_name="UNet2DConditionModel")
    with pytest.raises(WeightsError, match=f"_class_name='UNet2DConditionModel': expected '{expected}'"):
        open_pipeline(str(folder))
    change_json(config, _class_name=expected, joint_attention_dim=80)
    with pytest.raises(WeightsError, match="joint_attention_dim=80: expected 96 of text_encoder_[23]"):
        describe_pipeline(str(folder))
    with pytest.raises(WeightsError, match="context_embedder.weight has shape .*, expected"):
        open_pipeline(str(folder))
    change_json(config, joint_attention_dim=96, new_field=3)
    with pytest.raises(WeightsError, match="new_field=3: expected null: the field is not known here"):
        open_pipeline(str(folder))
    change_json(config, new_field=None)
    scheduler = folder / "scheduler" / "scheduler_config.json"
    change_json(scheduler, shift_terminal=0.1)
    with pytest.raises(WeightsError, match="scheduler_config.json': shift_terminal is 0.1, expected"):
        open_pipeline(str(folder))
    change_json(scheduler, shift_terminal=None)
    flow = scheduler.read_text()
    scheduler.write_text(json.dumps(DIFFUSION))
    change_json(folder / "model_index.json", scheduler=["diffusers", "DDIMScheduler"])
    with pytest.raises(WeightsError, match=f"^'{scheduler}': expected the scheduler of a flow$"):
        open_pipeline(str(folder))
    scheduler.write_text(flow)
    change_json(folder / "model_index.json", scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"])
    change_json(scheduler, _class_name="DDIMScheduler")  # PyTorch makes what the index names
    open_pipeline(str(folder))
    tokenizer = "tokenizer_2" if kind.startswith("flux") else "tokenizer_3"
    shutil.rmtree(folder / tokenizer)
    with pytest.raises(WeightsError, match=f"lacks '{tokenizer}/tokenizer.json': expected a T5 tokenizer"):
        open_pipeline(str(folder))
