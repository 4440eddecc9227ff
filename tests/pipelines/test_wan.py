"""A pipeline of Wan2.1 that PyTorch diffusers wrote: videos, prompts, noise levels, bad folders and clips."""

import json
import shutil

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from flax.traverse_util import flatten_dict

import rats_jax
from rats_jax.errors import ConfigError, WeightsError
from rats_jax.pipelines.base import VIDEO_OPTIONS, Options
from rats_jax.pipelines.open import describe_pipeline, load_pipeline, open_pipeline
from rats_jax.pipelines.wan import clean, is_prompt
from rats_jax.training.models import describe_models, open_models
from rats_jax.weights.naming import torch_name, unstack
from rats_jax.weights.stored import StoredArray, read_all
from tests.networks.parity import compile_quickly
from tests.tiny import change_json, tiny_config
from tests.torch_wan import VAE, draw_with_torch, make_wan

PROMPTS = ["a fish swims  left &amp;amp; turns", "two balls grow, and more words than are read"]
NEGATIVE = "blurred &lt;"
CLIP = Options(height=16, width=32, max_sequence_length=14, num_frames=5, negative_prompt=NEGATIVE)
CHOSEN = {"height": 16, "width": 32, "max_sequence_length": 14, "num_frames": 5}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    original = make_wan()
    folder = tmp_path_factory.mktemp("wan") / "pipeline"
    original.save_pretrained(folder, max_shard_size="60KB")
    assert len(list((folder / "transformer").glob("*.safetensors"))) > 1
    return original, folder


@pytest.fixture
def copy(pair, tmp_path):
    """A copy of the folder that a test may spoil."""
    return shutil.copytree(pair[1], tmp_path / "copy")


@pytest.mark.slow
def test_videos_are_those_of_pytorch(pair, tmp_path):
    original, folder = pair
    model = rats_jax.load(str(folder), **CHOSEN, negative_prompt=NEGATIVE)
    noise = model.make_noise([0, 1])
    assert noise.shape == (2, 2, 2, 4, 4)
    ours = model(PROMPTS, num_steps=4, guidance_scale=4.0, latents=noise)
    options = {"num_inference_steps": 4, "guidance_scale": 4.0, "negative_prompt": [NEGATIVE] * 2}
    theirs = draw_with_torch(original, noise, PROMPTS, **CHOSEN, **options)
    assert ours.shape == theirs.shape == (2, 5, 16, 32, 3) and theirs.std() > 0.05
    np.testing.assert_allclose(ours, theirs, atol=2e-4)
    alone = model(PROMPTS, num_steps=4, guidance_scale=1.0, latents=noise)
    theirs = draw_with_torch(original, noise, PROMPTS, **CHOSEN, **options | {"guidance_scale": 1.0})
    np.testing.assert_allclose(alone, theirs, atol=2e-4)
    assert np.abs(alone - ours).max() > 1e-2
    # Written with a solver's folder as the source, it is the same pipeline.
    make_wan("unipc").save_pretrained(tmp_path / "unipc")
    source = open_pipeline(str(tmp_path / "unipc"), options=CLIP)
    (tmp_path / "written").mkdir()
    source.write(tmp_path / "written", source.network, timestep_spacing="", dtype=np.float32)
    written = diffusers.WanPipeline.from_pretrained(tmp_path / "written")
    again = draw_with_torch(written, noise, PROMPTS, **CHOSEN, **options)
    np.testing.assert_allclose(again, ours, atol=2e-4)


def test_prompts_are_encoded_as_pytorch_does(pair):
    original, folder = pair
    pipeline = load_pipeline(folder, options=CLIP)
    inputs = pipeline.text_encoder, pipeline.tokenize(PROMPTS)
    embeds = compile_quickly(pipeline.encode_fn, *inputs)(*inputs)
    with torch.no_grad():
        cond, uncond = original.encode_prompt(PROMPTS, [NEGATIVE] * 2, max_sequence_length=14)
    np.testing.assert_allclose(embeds.cond, cond, atol=1e-4)
    np.testing.assert_allclose(embeds.uncond, uncond, atol=1e-4)
    assert not embeds.uncond[:, -1].any() and embeds.cond[1, -1].any()  # it fills all rows
    assert pipeline.negative_prompt == NEGATIVE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  a \t b\n\n c ",
        "caf\u00c3\u00a9 &amp;lt;b&amp;gt; &#28; x",
        "\u3000\u201cquoted\u201d\u00a0\u2026 \x1c y\x1f",
        "&lt;pad&gt; \u200b z\x85w",
    ],
)
def test_prompts_are_mended_as_pytorch_does(text):
    assert clean(text) == prompt_clean(text)


def test_what_fills_prompts_up_is_what_stands_at_their_ends():
    ids = jnp.array([[5, 0, 7, 1, 0, 0], [1, 0, 0, 0, 0, 0], [3, 4, 5, 6, 7, 1]])
    lengths = np.array([4, 1, 6])
    np.testing.assert_array_equal(is_prompt(ids, 0), np.arange(6) < lengths[:, None])
    np.testing.assert_array_equal(is_prompt(ids[1:2, :1], 1), [[True]])


@pytest.mark.parametrize("scheduler", ["euler", "unipc"])
def test_the_levels_of_noise_are_of_the_shift_of_any_scheduler(pair, copy, scheduler):
    made = make_wan(scheduler).scheduler
    made.save_pretrained(copy / "scheduler")
    change_json(copy / "model_index.json", scheduler=["diffusers", type(made).__name__])
    original = pair[0].scheduler
    for options, shift in ((CLIP, 5.0), (Options(num_frames=5, flow_shift=8.0), 8.0)):
        pipeline = describe_pipeline(str(copy), options=options)
        reference = type(original)(shift=shift)
        for steps in (1, 3, 4, 50):
            reference.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps))
            grid = pipeline.grid_fn(steps, "")
            np.testing.assert_allclose(grid.noise_rates, reference.sigmas, rtol=1e-6)
            np.testing.assert_allclose(grid.timesteps, reference.timesteps, rtol=1e-6)
    with pytest.raises(ValueError, match="timestep_spacing is 'trailing', expected ''"):
        pipeline.grid_fn(4, "trailing")


def test_the_first_latents_alone_are_decoded_where_they_are_chosen(pair):
    original, folder = pair
    shapes = {}
    for count in (2, 0, 1):
        options = Options(16, 32, num_frames=9, num_decoded_latents=count)
        pipeline = open_pipeline(str(folder), options=options)
        shapes[count] = pipeline.image_shape()
    assert shapes == {0: (9, 16, 32, 3), 1: (1, 16, 32, 3), 2: (5, 16, 32, 3)}
    latents = np.random.default_rng(0).normal(size=(1, *pipeline.latent_shape)).astype(np.float32)
    decoder, weights = read_all(pipeline.decoder), np.random.default_rng(1).normal(size=(1, 1, 16, 32, 3))

    def total(latents):
        videos = pipeline.decode_fn(decoder, latents)
        return jnp.sum(videos * weights), videos

    gradient, videos = compile_quickly(jax.grad(total, has_aux=True), latents)(latents)
    first = latents[:, :1] * np.asarray(VAE["latents_std"], np.float32) + np.float32(VAE["latents_mean"])
    with torch.no_grad():
        theirs = original.vae.decode(torch.from_numpy(np.moveaxis(first, -1, 1).copy())).sample
    np.testing.assert_allclose(np.clip(videos, 0, 1), np.moveaxis(theirs.numpy(), 1, -1) / 2 + 0.5, atol=1e-5)
    assert np.abs(gradient[:, :1]).min() > 0 and not np.any(gradient[:, 1:])


def test_nothing_is_read_before_it_is_placed_and_shapes_are_known_without_files(pair):
    _, folder = pair
    opened, described = open_pipeline(str(folder)), describe_pipeline(str(folder))
    trees = [(p.network, p.text_encoder, p.decoder) for p in (opened, described)]
    assert all(type(leaf) is StoredArray for leaf in jax.tree.leaves(trees[0]))
    shapes = [jax.tree.map(lambda leaf: tuple(leaf.shape), tree) for tree in trees]
    assert shapes[0] == shapes[1] and set(opened.decoder) == {"decoder", "post_quant_conv"}
    assert opened.latent_shape == described.latent_shape == (21, 60, 104, 4)
    assert [opened.evaluations(scale) for scale in (1.0, 5.0)] == [1, 2]


def test_in_bfloat16_what_is_seen_stays_float32(pair):
    model = rats_jax.load(str(pair[1]), **CHOSEN, dtype="bfloat16")
    pipeline = model.pipeline
    theirs = diffusers.WanTransformer3DModel.from_pretrained(
        pair[1] / "transformer", torch_dtype=torch.bfloat16
    ).named_parameters()
    ours = {
        torch_name(layer): leaf.dtype
        for path, leaf in flatten_dict(pipeline.network).items()
        for layer in unstack(path) or [path]
    }
    wide = {name for name, dtype in ours.items() if dtype == np.float32}
    assert wide == {name for name, parameter in theirs if parameter.dtype == torch.float32} and len(wide) < 20
    assert {x.dtype for x in jax.tree.leaves((pipeline.text_encoder, pipeline.decoder))} == {
        jnp.dtype(jnp.bfloat16)
    }
    embeds = jax.eval_shape(pipeline.encode_fn, pipeline.text_encoder, pipeline.tokenize(PROMPTS))
    latents = jnp.zeros((2, *pipeline.latent_shape))
    velocity = jax.eval_shape(pipeline.guided_fn(2.0), pipeline.network, latents, jnp.float32(500.0), embeds)
    videos = jax.eval_shape(pipeline.decode_fn, pipeline.decoder, latents)
    assert embeds.cond.dtype == jnp.bfloat16 and velocity.dtype == videos.dtype == jnp.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 6}, r"^num_frames=6: expected 1 more than a multiple of 4, or 0 for 81$"),
        ({"num_frames": 257}, "^num_frames=257: expected at most rope_max_seq_len=64 tok.* 65 are needed$"),
        ({"height": 24}, "^height=24: expected a multiple of 16 up to 16384, or 0 for the model's own$"),
        ({"width": 8}, "^width=8: expected a multiple of 16"),
        ({"width": 1040}, "^width=1040: expected at most rope_max_seq_len=64 tok.* it, 65 are needed$"),
        ({"num_decoded_latents": 3}, "^num_decoded_latents=3: expected at most 2, the latents of 5 frames"),
        ({"max_sequence_length": 25}, "^max_sequence_length=25: expected at most 24 of '.*/tokenizer'"),
    ],
)
def test_clips_that_cannot_be_are_one_line(pair, options, message):
    own = {"height": 16, "width": 32, "num_frames": 5}
    with pytest.raises(ConfigError, match=message):
        open_pipeline(str(pair[1]), options=Options(**own | options))


def test_a_model_of_pictures_has_no_choice_of_videos(models):
    for field in VIDEO_OPTIONS:
        value = {"flow_shift": 3.0, "negative_prompt": "x"}.get(field, 1)
        message = f"^{field}={value!r}: expected .*: a StableDiffusionPipeline has no such choice$"
        with pytest.raises(ConfigError, match=message):
            open_pipeline(str(models / "pipeline"), options=Options(**{field: value}))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("model_index.json", {"boundary_ratio": 0.9}, "model_index.json': boundary_ratio=0.9: expected None"),
        ("model_index.json", {"expand_timesteps": True}, "expand_timesteps=True: expected False"),
        (
            "model_index.json",
            {"transformer_2": ["diffusers", "WanTransformer3DModel"]},
            r"transformer_2=\['diffusers', 'WanTransformer3DModel'\]: expected \[null, null\]",
        ),
        ("model_index.json", {"vae": None}, "model_index.json': vae=None: expected a library and a class"),
        ("transformer/config.json", {"text_dim": 20}, "text_dim=20: expected 24 of text_encoder"),
        ("transformer/config.json", {"out_channels": 8}, "out_channels=8: expected 4 of the autoencoder"),
        ("transformer/config.json", {"image_dim": 1280}, "image_dim=1280: expected None: no other value"),
        ("vae/config.json", {"_class_name": "AutoencoderKL"}, "expected 'AutoencoderKLWan'"),
        ("text_encoder/config.json", {"model_type": "t5"}, "model_type='t5': expected 'umt5'"),
        ("scheduler/scheduler_config.json", {"use_dynamic_shifting": True}, "use_dynamic_shifting=True: exp"),
    ],
)
def test_parts_that_do_not_belong_together_are_one_line(copy, file, changes, message):
    change_json(copy / file, **changes)
    with pytest.raises(WeightsError, match=message):
        describe_pipeline(str(copy))


def test_the_scheduler_of_a_diffusion_is_one_line(copy):
    scheduler = copy / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps({"_class_name": "DDIMScheduler", "clip_sample": False}))
    change_json(copy / "model_index.json", scheduler=["diffusers", "DDIMScheduler"])
    with pytest.raises(WeightsError, match=f"^'{scheduler}': expected the scheduler of a flow$"):
        describe_pipeline(str(copy))


def test_where_only_pictures_are_known_videos_are_refused(pair, models):
    own = {"pretrained": str(pair[1]), "reference": "", "samples__every": 0, "num_frames": 5}
    own |= {"height": 16, "width": 16, "num_decoded_latents": 1, "reward_frames": 1}
    pictures = {"pretrained": str(models / "pipeline"), "num_frames": 0, "height": 0, "width": 0}
    for changes, message in (
        ({"reward_frames": 2}, "^reward_frames=2: expected at most 1, the frames that are decoded, or 0 for"),
        ({"reference": "x.npz"}, "^reference='x.npz': expected '': it has pictures, this model makes videos"),
        (pictures, "^num_decoded_latents=1: expected 0: a StableDiffusionPipeline has no such choice$"),
        (pictures | {"num_decoded_latents": 0}, "^reward_frames=1: expected 0: this model makes pictures$"),
    ):
        for open_or_describe in (open_models, describe_models):
            with pytest.raises(ConfigError, match=message):
                open_or_describe(tiny_config(models, **own | changes))


@pytest.mark.parametrize(
    ("name", "network", "encoder"),
    [
        ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", 1.419e9, 5.681e9),
        ("Wan-AI/Wan2.1-T2V-14B-Diffusers", 14.288e9, 0),
    ],
)
def test_the_published_models_are_opened_by_their_names_alone(name, network, encoder):
    pipeline = describe_pipeline(name, options=Options(480, 832, num_frames=17))
    assert pipeline.latent_shape == (5, 60, 104, 16)
    assert pipeline.tokenize(["a"]).shape == (1, 512)
    counts = [
        sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (pipeline.network, pipeline.text_encoder)
    ]
    np.testing.assert_allclose(counts[0], network, rtol=1e-3)
    np.testing.assert_allclose(counts[1], encoder or 5.681e9, rtol=1e-3)
    np.testing.assert_allclose(pipeline.grid_fn(4, "").noise_rates, [1, 0.9, 0.75, 0.5, 0])
