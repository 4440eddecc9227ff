"""The embedded FLUX in miniature: PyTorch draws its pictures, few steps break them, its judges can tell."""

from pathlib import Path

import numpy as np
import pytest

import rats_jax
from rats_jax.config.flags import load_config
from rats_jax.config.together import validate, validate_paths
from rats_jax.data.prompts import read_prompts
from rats_jax.pretraining.check import mean_scores, read_weights
from rats_jax.rewards.detector import load_detector, load_likelihood
from rats_jax.rewards.pickscore import load_pickscore
from tests.torch_flows import draw_with_torch

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "rats_jax" / "assets" / "scenes"
PROMPTS = [prompt for prompt in read_prompts(ASSETS / "prompts.txt") if prompt.startswith("a ")][:24]


@pytest.fixture(scope="module")
def model():
    return rats_jax.load("assets/scenes/pipeline", height=32, width=32)


def test_the_config_of_the_job_is_good():
    config = load_config(ROOT / "configs" / "scenes_cpu.py")
    validate(config)
    validate_paths(config)
    assert config.student.num_steps == 4 and config.teacher.ema_decay == 0.995


def test_prompts_of_the_second_table_are_never_trained_on():
    trained, heldout = (read_prompts(ASSETS / f"{name}.txt") for name in ("prompts", "heldout_prompts"))
    assert (len(set(trained)), len(set(heldout))) == (512, 63)
    things = [{prompt.split(" on ")[0] for prompt in prompts} for prompts in (trained, heldout)]
    assert things[0].isdisjoint(things[1])  # whatever the ground


def test_all_of_it_is_smaller_than_40_megabytes():
    sizes = [file.stat().st_size for file in ASSETS.rglob("*") if file.is_file()]
    assert sum(sizes) < 40e6


@pytest.mark.slow
def test_pytorch_opens_the_folder_and_draws_the_same_pictures(model):
    from diffusers import FluxPipeline

    original = FluxPipeline.from_pretrained(ASSETS / "pipeline")
    original.set_progress_bar_config(disable=True)
    noise = model.make_noise(list(range(8)))
    ours = model(PROMPTS[:8], num_steps=4, guidance_scale=5.0, latents=noise)
    size = {"height": 32, "width": 32, "max_sequence_length": 10}  # as its T5 was trained
    theirs = draw_with_torch(original, noise, PROMPTS[:8], num_inference_steps=4, guidance_scale=5.0, **size)
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


@pytest.mark.slow
def test_few_steps_break_the_pictures_and_every_judge_says_so(model):
    judges = read_weights(
        {"accuracy": load_detector(str(ASSETS / "judge"))}
        | {"counting_reward": load_likelihood(str(ASSETS / "counting_reward"))}
        | {name: load_pickscore(str(ASSETS / name)) for name in ("reward", "heldout_reward")}
    )
    few, many = (
        mean_scores(judges, model(PROMPTS, num_steps=steps, guidance_scale=5.0, seed=3), PROMPTS)
        for steps in (4, 50)
    )
    assert many["accuracy"] >= 0.85 and many["accuracy"] - few["accuracy"] >= 0.2
    assert all(many[name] - few[name] > 2.0 for name in ("reward", "heldout_reward"))
    assert many["counting_reward"] - few["counting_reward"] > 0.2
