"""The command that compares with PyTorch: families and rewards that agree, weights that do not, bad input."""

import shutil
import sys

import pytest
import torch
from safetensors.numpy import load_file, save_file

from rats_jax.errors import ConfigError
from rats_jax.pipelines import PIPELINES
from rats_jax.pipelines.base import Options
from rats_jax.rewards import REWARDS
from rats_jax.verification import pytorch
from rats_jax.verification.originals import ORIGINALS
from rats_jax.verification.report import expect_all, verify
from rats_jax.verification.reward_originals import REWARD_ORIGINALS
from rats_jax.verification.rewards import expect_original
from tests.commands import assert_one_line, call
from tests.rewards.test_aesthetic import make_aesthetic
from tests.rewards.test_hpsv2 import make_hpsv2
from tests.rewards.test_imagereward import make_imagereward
from tests.rewards.test_pickscore import make_pickscore
from tests.tiny import write_tiny_pipeline
from tests.torch_flows import make_flow
from tests.torch_pipelines import make_original
from tests.torch_wan import make_wan

SIZE = {"height": 16, "width": 24}
FAMILIES = {
    "sdxl": (lambda: make_original("sdxl"), {}),
    "sd3": (lambda: make_flow("sd3"), SIZE | {"max_sequence_length": 12}),
    "flux_dev": (lambda: make_flow("flux_dev"), SIZE | {"max_sequence_length": 12}),
    "wan": (lambda: make_wan("unipc"), {"height": 16, "width": 32, "num_frames": 5}),
}
PLAIN = {"original": None, "options": Options(), "dtype": "float32", "device": "cpu"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Stable Diffusion of the smallest size."""
    return write_tiny_pipeline(tmp_path_factory.mktemp("tiny") / "pipeline")


def test_every_family_has_an_original():
    assert set(ORIGINALS) == set(PIPELINES)
    assert set(REWARD_ORIGINALS) < {kind for kind, reward in REWARDS.items() if reward.describe is not None}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_pipeline_is_that_of_pytorch(family, tmp_path):
    make, options = FAMILIES[family]
    make().save_pretrained(tmp_path)
    report, checks = verify(str(tmp_path), {}, **PLAIN | {"options": Options(**options)})
    expect_all(checks)
    parts = [check.part for check in checks]
    assert sum("timestep" in part for part in parts) == 3 and parts[-2:] == ["decoder", "sample of 4 steps"]
    assert any("text_encoder" in part for part in parts)
    # Far within the tolerances, which are for thousands of times as many weights.
    assert all(check.found.mean < 0.02 * check.tolerance.mean for check in checks)
    assert all(check.unit in report for check in checks)


@pytest.mark.slow
def test_the_command_prints_a_table_to_post_and_fails_by_name(folder, tmp_path):
    """Beside a copy whose decoder has another weight: all else is as it was."""
    broken = shutil.copytree(folder, tmp_path / "broken")
    file = broken / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["decoder.conv_in.weight"] = weights["decoder.conv_in.weight"] * 1.01
    save_file(weights, file, metadata={"format": "pt"})
    done = call("verify", f"--model={folder}", f"--original={broken}", cwd=tmp_path)
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert line == "error: 2 of 7 comparisons are beyond their tolerance: decoder; sample of 4 steps"
    head, rows = done.stdout.split("\n\n")
    assert f"- model: {folder}, beside {broken} (StableDiffusionPipeline), 32x32, float32" in head
    assert "torch 2" in head and "diffusers 0" in head and "jax on cpu, PyTorch on cpu" in head
    results = [row.split("|")[-2].strip() for row in rows.splitlines()[2:]]
    assert results == ["ok"] * 5 + ["FAIL: beyond its tolerance"] * 2


MAKERS = {
    "aesthetic": make_aesthetic,
    "hpsv2.1": make_hpsv2("v2.1", 4),
    "imagereward": make_imagereward,
    "pickscore": make_pickscore,
}


@pytest.mark.slow
def test_rewards_are_those_of_pytorch(tmp_path):
    paths = {kind: tmp_path / kind for kind in MAKERS}
    for kind, make in MAKERS.items():
        paths[kind].mkdir()
        make(paths[kind])
    report, checks = verify(None, {kind: str(path) for kind, path in paths.items()}, **PLAIN)
    expect_all(checks)
    assert [check.part for check in checks] == [
        f"{k}, {what}" for k in MAKERS for what in ("score", "gradient")
    ]
    assert f"reward: pickscore, {paths['pickscore']}, float32" in report


def test_what_cannot_be_compared_is_one_line(tmp_path):
    done = call("verify", "--original=owner/name", "--reward=pickscore", cwd=tmp_path)
    assert_one_line(done, "original='owner/name': expected none without --model")
    known = "aesthetic, clipscore, hpsv2.0, hpsv2.1, imagereward, pickscore$"
    with pytest.raises(ConfigError, match=f"^reward='viclip': expected a kind whose original .*: {known}"):
        expect_original("viclip")


@pytest.mark.parametrize("name", pytorch.PACKAGES)
def test_without_pytorch_it_is_one_line(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError) as error:
        pytorch.import_packages("cpu")
    text = str(error.value)
    assert text.startswith(f"the package {name!r} cannot be imported (") and "\n" not in text
    assert text.endswith("torch, diffusers, transformers; pip install 'rats_jax[verify]'")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_one_line():
    with pytest.raises(ConfigError, match="^device='cuda': expected 'cpu': PyTorch sees no GPU$"):
        pytorch.import_packages("cuda")


def test_a_folder_that_pytorch_does_not_open_is_one_line(folder, tmp_path):
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    (damaged / "text_encoder" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(
        ConfigError, match="^model='.*damaged': expected a pipeline that PyTorch opens and runs, its 'tex"
    ):
        verify(str(folder), {}, **PLAIN | {"original": str(damaged)})
