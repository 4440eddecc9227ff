"""All stages of text-to-clip, a few updates each, on networks of the smallest size: folders that load."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import rats_jax
from rats_jax.config.flags import load_config
from rats_jax.data.prompts import read_prompts
from rats_jax.pretraining.clips_stages import STAGES
from rats_jax.pretraining.corrupt import CORRUPTIONS
from rats_jax.pretraining.corrupt_clips import CLIP_CORRUPTIONS
from rats_jax.pretraining.scenes import COLOURS
from rats_jax.rewards.tracker import load_likelihood, load_tracker
from rats_jax.rewards.viclip import load_viclip
from tests.pretraining.conftest import TOWER
from tests.tiny import read_reward

CONFIG = Path(__file__).parents[2] / "configs" / "clips_pretrain.py"


def small_config():
    """The real config with three things, few updates and thin networks."""
    config = load_config(CONFIG)
    config.unlock()
    config.nouns = config.nouns[:3]
    config.heldout_share, config.num_prompts, config.num_clips = 0.3, 8, 64
    config.tokenizer.vocab_size = 560
    # Modulations start at zero: a flow of one update would not hear of the prompt.
    for name, num_updates in (("judge", 1), ("reward", 1), ("vae", 1), ("flow", 3)):
        config[name].update({"num_updates": num_updates, "batch_size": 2})
    for name in ("judge", "reward"):
        config[name].corruptions = ("noise", "mix")
        config[f"{name}_model"].update({"num_classes": 3, "channels": (8, 16)})
    config.vae_model.update({"base_dim": 4, "z_dim": 4, "dim_mult": (1, 1)})
    heads = {"num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 1, "ffn_dim": 16}
    config.transformer_model.update(heads | {"in_channels": 4, "out_channels": 4, "text_dim": 16})
    config.text_encoder_model.update({"d_model": 16, "d_kv": 8, "d_ff": 16, "num_heads": 2})
    viclip = config.heldout_reward
    viclip.update({"num_updates": 1, "images_per_corruption": 1, "corruptions": ("slow",)})
    viclip.text_config.update(TOWER)
    viclip.vision_config.update(TOWER)
    config.samples.update({"num_images": 2, "columns": 2, "num_steps": 2})
    config.check.update({"num_clips": 2, "samplings": ((2, 1.5), (1, 1.0))})
    return config


def test_the_real_config_names_what_exists():
    config = load_config(CONFIG)
    assert list(STAGES) == ["judge", "vae", "flow", "reward", "heldout_reward", "prompts", "samples", "check"]
    assert set(config.heldout_reward.corruptions) <= set(CLIP_CORRUPTIONS)
    assert set(config.reward.corruptions) | set(config.judge.corruptions) <= set(CORRUPTIONS)
    for model in (config.judge_model, config.reward_model):
        assert model.num_classes == len(config.nouns) == len(set(config.nouns))
        assert model.num_grounds == len(COLOURS)
    assert config.judge_model.channels != config.reward_model.channels


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
def test_every_stage_writes_a_folder_that_loads_and_keeps_what_is_there(tmp_path):
    config = small_config()
    for stage in STAGES.values():
        stage(config, tmp_path)

    prompts, heldout = (read_prompts(tmp_path / f"{name}.txt") for name in ("prompts", "heldout_prompts"))
    assert len(prompts) == len(heldout) == 8 and set(prompts).isdisjoint(heldout)

    model = rats_jax.load(str(tmp_path / "pipeline"), height=32, width=32, num_frames=9)
    clips = model(prompts[:2], num_steps=2, guidance_scale=1.0)
    guided = model(prompts[:2], num_steps=2, guidance_scale=3.0)
    assert clips.shape == (2, 9, 32, 32, 3) and np.any(clips != guided)  # the prompt counts
    judge = read_reward(load_tracker(str(tmp_path / "judge")))
    assert set(np.asarray(judge.reward_fn(judge.params, clips, judge.prepare(prompts[:2])))) <= {0.0, 1.0}
    for name, load, least, most in (
        ("reward", load_likelihood, -99, 0),
        ("heldout_reward", load_viclip, -1, 1),
    ):
        reward = read_reward(load(str(tmp_path / name)))
        scores = jax.jit(reward.reward_fn)(reward.params, clips, reward.prepare(prompts[:2]))
        assert np.all((least <= scores + 1e-5) & (scores <= most + 1e-5)) and np.all(scores != 0)
    with Image.open(tmp_path / "samples.png") as sheet:
        assert len(sheet.getcolors(maxcolors=1 << 16)) > 100
    table = json.loads((tmp_path / "check.json").read_text())
    assert list(table)[:4] == ["render", "of another prompt", "one thing wrong", "backwards"]
    assert "heldout_prompts, 1 steps, guidance 1" in table and set(CLIP_CORRUPTIONS) <= set(table)
    names = {"accuracy", "reward", "heldout_reward", "motion"}
    assert all(set(row) == names for row in table.values())

    files = list(tmp_path.rglob("*.safetensors"))
    times = {file: file.stat().st_mtime_ns for file in files}
    assert len(times) == 3 + 3  # of the pipeline, of judge and rewards
    assert not list(tmp_path.rglob("*.partial")) and not list(tmp_path.rglob("*.state"))
    for stage in STAGES.values():
        stage(config, tmp_path)
    assert {file: file.stat().st_mtime_ns for file in files} == times
