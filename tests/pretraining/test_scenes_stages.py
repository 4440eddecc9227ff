"""All stages of text-to-scene, a few updates each, on networks of the smallest size: folders that load."""

import itertools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import rats_jax
from rats_jax.config.flags import load_config
from rats_jax.data.prompts import read_prompts
from rats_jax.pretraining.corrupt import CORRUPTIONS
from rats_jax.pretraining.scenes import COLOURS, KINDS
from rats_jax.pretraining.scenes_stages import STAGES
from rats_jax.rewards.detector import load_detector
from rats_jax.rewards.pickscore import load_pickscore
from tests.pretraining.conftest import TOWER
from tests.tiny import read_reward

CONFIG = Path(__file__).parents[2] / "configs" / "scenes_pretrain.py"


def small_config():
    """The real config with six things, one update and thin networks."""
    config = load_config(CONFIG)
    config.unlock()
    config.nouns = config.nouns[:6]
    config.heldout_share = 0.5
    config.prompts.update({"num_train": 8, "num_heldout": 4})
    config.tokenizer.vocab_size = 600
    # Modulations start at zero: a flow of one update would not hear of prompt and guidance.
    for name, num_updates in (("vae", 1), ("flow", 3), ("guidance", 3)):
        config[name].update({"num_updates": num_updates, "batch_size": 4})
    for name in ("judge", "counting_reward"):
        config[name].update({"num_updates": 1, "batch_size": 4, "corruptions": ("noise", "mix")})
        config[f"{name}_model"].update({"num_classes": 6, "channels": (8, 16)})
    config.vae_model.update({"block_out_channels": (8, 8)})
    transformer = {
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
    }
    transformer |= {"axes_dims_rope": (4, 6, 6), "joint_attention_dim": 16, "pooled_projection_dim": 32}
    config.transformer_model.update(transformer)
    config.text_encoder_model.update(TOWER)
    config.text_encoder_2_model.update(
        {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    )
    for name in ("reward", "heldout_reward"):
        config[name].update({"num_updates": 1, "images_per_corruption": 1, "corruptions": ("noise", "mix")})
        config[name].text_config.update(TOWER)
        config[name].vision_config.update(TOWER)
    for name in ("second_round", "third_round", "fourth_round"):
        config[name].num_updates = 1
    config.samples.update({"num_images": 3, "columns": 2, "num_steps": 2})
    config.check.update({"num_images": 4, "num_steps": (2, 1)})
    return config


def test_the_real_config_names_what_exists():
    config = load_config(CONFIG)
    stages = ["judge", "vae", "flow", "guidance", "reward_draft", "reward_numbers"]
    stages += ["reward_sizes", "reward", "counting_reward", "heldout_reward", "prompts", "samples", "check"]
    assert list(STAGES) == stages
    assert set(config.reward.corruptions) | set(config.heldout_reward.corruptions) == set(CORRUPTIONS)
    assert config.heldout_reward.vision_config.hidden_size != config.reward.vision_config.hidden_size
    assert set(config.kinds) == set(KINDS) and sum(config.kinds.values()) == pytest.approx(1)
    assert config.judge_model.num_classes == len(config.nouns) == len(set(config.nouns)) == 64
    assert config.judge_model.num_grounds == len(COLOURS)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
def test_every_stage_writes_a_folder_that_loads_and_keeps_what_is_there(tmp_path):
    config = small_config()
    for stage in STAGES.values():
        stage(config, tmp_path)

    prompts, heldout = (read_prompts(tmp_path / f"{name}.txt") for name in ("prompts", "heldout_prompts"))
    assert (len(prompts), len(heldout)) == (8, 4) and set(prompts).isdisjoint(heldout)
    assert not any(prompt.startswith(("a ", "an ")) and " and " not in prompt for prompt in heldout)

    model = rats_jax.load(str(tmp_path / "pipeline"), height=32, width=32)
    images = model(prompts[:2], num_steps=2, guidance_scale=3.5)
    other = model(prompts[:2], num_steps=2, guidance_scale=1.0)
    assert images.shape == (2, 32, 32, 3) and np.any(images != other)  # it is told the scale
    assert model.pipeline.evaluations(3.5) == 1
    judge = read_reward(load_detector(str(tmp_path / "judge")))
    assert set(np.asarray(judge.reward_fn(judge.params, images, judge.prepare(prompts[:2])))) <= {0.0, 1.0}
    scores = {}
    for name in ("reward", "heldout_reward"):
        reward = read_reward(load_pickscore(str(tmp_path / name)))
        scores[name] = jax.jit(reward.reward_fn)(reward.params, images, reward.prepare(prompts[:2]))
        assert np.all(np.isfinite(scores[name]))
    assert np.all(scores["reward"] != scores["heldout_reward"])
    # A round goes on from the one before: one update moves a weight by about the learning rate.
    rounds = ("reward_draft", "reward_numbers", "reward_sizes", "reward")
    weights = [load_file(tmp_path / name / "model.safetensors") for name in rounds]
    for before, after in itertools.pairwise(weights):
        moved = [np.abs(before[name].astype(np.float32) - after[name]).max() for name in before]
        assert 0.0 < max(moved) < 0.01
    with Image.open(tmp_path / "samples.png") as sheet:
        assert len(sheet.getcolors(maxcolors=1 << 16)) > 100
    table = json.loads((tmp_path / "check.json").read_text())
    assert list(table)[:3] == ["render", "of another prompt", "one thing wrong"]
    assert "heldout_prompts, 1 steps" in table and set(CORRUPTIONS) <= set(table)
    assert {f"{kind}, 2 steps" for kind in KINDS} <= set(table)
    assert all(set(row) == {"accuracy", "reward", "heldout_reward"} for row in table.values())

    files = [file for file in tmp_path.rglob("*.safetensors")]
    times = {file: file.stat().st_mtime_ns for file in files}
    assert len(times) == 3 + 4 + 7  # of the flow, of the pipeline, of judge and rewards
    assert not list(tmp_path.rglob("*.partial")) and not list(tmp_path.rglob("*.state"))
    for stage in STAGES.values():
        stage(config, tmp_path)
    assert {file: file.stat().st_mtime_ns for file in files} == times
