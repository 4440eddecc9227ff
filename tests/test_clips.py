"""The embedded Wan in miniature: PyTorch draws its clips, few steps break them, its judges can tell."""

from pathlib import Path

import numpy as np
import pytest

import rats_jax
from rats_jax.config.flags import load_config
from rats_jax.config.together import validate, validate_paths
from rats_jax.data.prompts import read_prompts
from rats_jax.pretraining.check import mean_scores, read_weights
from rats_jax.rewards.tracker import load_likelihood, load_tracker
from rats_jax.rewards.viclip import load_viclip
from tests.torch_wan import draw_with_torch

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "rats_jax" / "assets" / "clips"
SIZE = {"height": 32, "width": 32, "num_frames": 9, "max_sequence_length": 8}
PROMPTS = read_prompts(ASSETS / "prompts.txt")[:12]


@pytest.fixture(scope="module")
def model():
    return rats_jax.load("assets/clips/pipeline", **SIZE)


def test_the_config_of_the_job_is_good():
    config = load_config(ROOT / "configs" / "clips_cpu.py")
    validate(config)
    validate_paths(config)
    assert config.student.num_steps == 4 and config.teacher.num_steps == 50


def test_prompts_of_the_second_table_are_never_trained_on():
    trained, heldout = (read_prompts(ASSETS / f"{name}.txt") for name in ("prompts", "heldout_prompts"))
    motions = [{prompt.split(" on ")[0] for prompt in prompts} for prompts in (trained, heldout)]
    assert motions[0].isdisjoint(motions[1]) and all(motions)


def test_all_of_it_is_smaller_than_40_megabytes():
    sizes = [file.stat().st_size for file in ASSETS.rglob("*") if file.is_file()]
    assert sum(sizes) < 40e6


@pytest.mark.slow
def test_pytorch_opens_the_folder_and_draws_the_same_clips(model):
    from diffusers import WanPipeline

    original = WanPipeline.from_pretrained(ASSETS / "pipeline")
    noise = model.make_noise(list(range(4)))
    ours = model(PROMPTS[:4], num_steps=4, guidance_scale=3.0, latents=noise)
    options = SIZE | {"num_inference_steps": 4, "guidance_scale": 3.0}
    theirs = draw_with_torch(original, noise, PROMPTS[:4], **options)
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


@pytest.mark.slow
def test_few_steps_break_the_clips_and_every_judge_says_so(model):
    judges = read_weights(
        {
            "accuracy": load_tracker(str(ASSETS / "judge")),
            "reward": load_likelihood(str(ASSETS / "reward")),
            "heldout_reward": load_viclip(str(ASSETS / "heldout_reward")),
        }
    )
    few, many = (
        mean_scores(judges, model(PROMPTS, num_steps=steps, guidance_scale=scale, seed=3), PROMPTS)
        for steps, scale in ((4, 1.0), (50, 3.0))
    )
    for name, least in {"accuracy": 0.2, "reward": 1.0, "heldout_reward": 0.05}.items():
        assert many[name] > few[name] + least
