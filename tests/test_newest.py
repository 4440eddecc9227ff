"""Training, drawing, scoring and export in one go, which `make test-newest` runs with the newest of all."""

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

import rats_jax
from rats_jax.data.pairs import read_pairs
from rats_jax.evaluation.score import score_pairs
from rats_jax.rewards import REWARDS
from rats_jax.student import formats as exporting
from rats_jax.student.model import draw_folder
from rats_jax.training.loop import train_and_evaluate
from tests.tiny import PROMPTS, read_reward, tiny_config


@pytest.fixture(scope="module")
def run(models, tmp_path_factory):
    """A run of three updates of adapters, which can be exported in every format."""
    workdir = tmp_path_factory.mktemp("newest") / "run"
    settings = {"num_updates": 3, "samples__every": 3, "checkpoint__every": 3}
    adapters = {"lora__rank": 2, "lora__alpha": 2.0}
    summary = train_and_evaluate(tiny_config(models, **settings, **adapters), workdir)
    assert summary["updates"] == 3
    return workdir


@pytest.fixture(scope="module")
def student(run):
    return rats_jax.load(str(run))


@pytest.mark.slow
def test_pictures_of_a_student_are_drawn_and_scored(models, student, tmp_path):
    draw_folder(student, tmp_path, PROMPTS[:3], seeds=[0], num_steps=None, guidance_scale=None, batch_size=8)
    rewards = {
        "pickscore": read_reward(REWARDS["pickscore"].load(str(models / "reward"))),
        "compressibility_proxy": read_reward(REWARDS["compressibility_proxy"].load("")),
    }
    pairs = read_pairs(tmp_path, tmp_path / "prompts.jsonl")
    scores = score_pairs(rewards, pairs, batch_size=3)
    assert all(np.ptp(values) > 0 and np.isfinite(values).all() for values in scores.values())


@pytest.mark.slow
def test_a_student_is_exported_and_read_back(models, student, tmp_path):
    """Each export reads itself back; PyTorch reads those that are its own."""
    for format in ("diffusers", "flax", "lora", "jax"):
        (tmp_path / format).mkdir()
        exporting.export_student(student, tmp_path / format, format=format, dtype="float32")
    noise = student.make_noise([0, 1])
    ours = student(PROMPTS[:2], latents=noise)
    whole = DiffusionPipeline.from_pretrained(tmp_path / "diffusers")
    # Its weights are float16, and versions differ in which parts they keep so.
    with_adapters = DiffusionPipeline.from_pretrained(models / "pipeline", torch_dtype=torch.float32)
    with_adapters.load_lora_weights(tmp_path / "lora")
    for pipeline in (whole, with_adapters):
        pipeline.set_progress_bar_config(disable=True)
        theirs = pipeline(
            PROMPTS[:2],
            num_inference_steps=student.num_steps,
            guidance_scale=1.0,
            latents=torch.tensor(noise.transpose(0, 3, 1, 2)),
            output_type="np",
        ).images
        assert 255 * np.abs(np.asarray(theirs) - ours).mean() < 0.01
