"""All stages of pretraining, one update each, on networks of the smallest size: folders that load."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from rats_jax.config.flags import load_config
from rats_jax.data.prompts import read_prompts
from rats_jax.evaluation.reference import load_reference
from rats_jax.pipelines.open import load_pipeline
from rats_jax.pretraining.corrupt import CORRUPTIONS
from rats_jax.pretraining.emoji_stages import STAGES
from rats_jax.rewards.pickscore import load_pickscore
from tests.pretraining.conftest import TOWER
from tests.tiny import UNET, VAE, read_reward

CONFIG = Path(__file__).parents[2] / "configs" / "emoji_pretrain.py"


def small_config(data_dir):
    """The real config with fewer pictures, one update and thin networks."""
    config = load_config(CONFIG)
    config.unlock()
    config.data_dir = str(data_dir)
    config.subcategories, config.exclude = ("food-fruit",), ("red apple",)
    config.tokenizer.vocab_size = 600
    config.samples.update({"num_images": 3, "columns": 2, "num_steps": 2})
    config.vae.update({"num_updates": 1, "batch_size": 2})
    config.unet.update({"num_updates": 1, "batch_size": 2})
    written = ("_class_name", "scaling_factor")  # by the stages themselves
    config.unet_model = ConfigDict({k: v for k, v in UNET.items() if k not in written})
    config.vae_model = ConfigDict({k: v for k, v in VAE.items() if k not in written})
    config.text_encoder_model = ConfigDict(config.text_encoder_model.to_dict() | TOWER)
    for name, size in (("reward", 32), ("heldout_reward", 40)):
        reward = config[name]
        reward.update({"num_updates": 1, "images_per_corruption": 1, "corruptions": ("noise", "mix")})
        reward.text_config.update(TOWER)
        reward.vision_config.update(TOWER)
        assert reward.vision_config.image_size == size
    return config


def test_the_real_config_names_what_exists():
    config = load_config(CONFIG)
    assert list(STAGES) == ["vae", "pipeline", "reward", "heldout_reward", "prompts", "samples", "check"]
    assert set(config.reward.corruptions) | set(config.heldout_reward.corruptions) == set(CORRUPTIONS)
    judge, reward = config.heldout_reward, config.reward
    assert judge.vision_config.hidden_size != reward.vision_config.hidden_size
    assert judge.max_shift != reward.max_shift


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
def test_every_stage_writes_a_folder_that_loads_and_keeps_what_is_there(data_dir, tmp_path):
    config = small_config(data_dir)
    for stage in STAGES.values():
        stage(config, tmp_path)

    prompts = read_prompts(tmp_path / "prompts.txt")
    assert "watermelon" in prompts and "red apple" not in prompts
    reference = load_reference(tmp_path / "reference.npz", prompts, (32, 32, 3))
    assert len(reference.images) == len(prompts)

    pipeline = load_pipeline(tmp_path / "pipeline")
    embeds = jax.jit(pipeline.encode_fn)(pipeline.text_encoder, pipeline.tokenize(prompts[:2]))
    noise = jax.random.normal(jax.random.key(0), (2, *pipeline.latent_shape))
    output = jax.jit(pipeline.guided_fn(1.0))(pipeline.network, noise, jnp.int32(999), embeds)
    images = jnp.clip(jax.jit(pipeline.decode_fn)(pipeline.decoder, output), 0, 1)
    assert images.shape == (2, 32, 32, 3)
    scores = {}
    for name in ("reward", "heldout_reward"):
        reward = read_reward(load_pickscore(str(tmp_path / name)))
        scores[name] = jax.jit(reward.reward_fn)(reward.params, images, reward.prepare(prompts[:2]))
        assert np.all(np.isfinite(scores[name]))
    assert np.all(scores["reward"] != scores["heldout_reward"])

    with Image.open(tmp_path / "samples.png") as sheet:
        assert sheet.width == 2 * 78 and sheet.height == 2 * 90  # two columns and rows for three pictures
        assert len(sheet.getcolors(maxcolors=1 << 16)) > 100

    table = json.loads((tmp_path / "rewards.json").read_text())
    assert list(table)[:3] == ["clean", "caption of another", "autoencoder"] and "cut_out" in table
    assert all(-1 <= cosine <= 1 for row in table.values() for cosine in row.values())
    assert all(set(row) == {"reward", "heldout_reward"} for row in table.values())

    times = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.safetensors")}
    assert len(times) == 5 and not list(tmp_path.rglob("*.partial"))
    for stage in STAGES.values():
        stage(config, tmp_path)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.safetensors")} == times
