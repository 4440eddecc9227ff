"""The command that compares with PyTorch: families and rewards that agree, weights that do not, bad input."""

import shutil
import subprocess
import sys

import pytest
from safetensors.numpy import load_file, save_file

from rats_jax.errors import ConfigError
from rats_jax.pipelines import PIPELINES
from rats_jax.pipelines.base import Options
from rats_jax.rewards import REWARDS
from rats_jax.verification.originals import ORIGINALS
from rats_jax.verification.report import expect_all, verify
from rats_jax.verification.reward_originals import REWARD_ORIGINALS
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


def run(*arguments, cwd, code=""):
    line = ["-c", code] if code else ["-m", "rats_jax.verify"]
    return subprocess.run(
        [sys.executable, *line, *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


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
    """A folder as it is, and beside a copy whose decoder has another weight."""
    done = run(f"--model={folder}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"- model: {folder} (StableDiffusionPipeline), 32x32, float32" in done.stdout
    assert "torch 2" in done.stdout and "diffusers 0" in done.stdout and "FAIL" not in done.stdout
    assert len([line for line in done.stdout.splitlines() if line.endswith(" ok |")]) == 7
    broken = shutil.copytree(folder, tmp_path / "broken")
    file = broken / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["decoder.conv_in.weight"] = weights["decoder.conv_in.weight"] * 1.01
    save_file(weights, file, metadata={"format": "pt"})
    done = run(f"--model={folder}", f"--original={broken}", cwd=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line == "error: 2 of 7 comparisons are beyond their tolerance: decoder; sample of 4 steps"
    assert sum("FAIL: beyond its tolerance" in line for line in done.stdout.splitlines()) == 2


MAKERS = {
    "aesthetic": make_aesthetic,
    "hpsv2.1": make_hpsv2("v2.1", 4),
    "imagereward": make_imagereward,
    "pickscore": make_pickscore,
}


@pytest.mark.slow
def test_rewards_are_those_of_pytorch_and_a_changed_weight_is_seen(tmp_path):
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


def test_what_cannot_be_compared_is_one_line(folder, tmp_path):
    known = "aesthetic, clipscore, hpsv2.0, hpsv2.1, imagereward, pickscore"
    for flags, message in (
        ([], "model=None: expected a pipeline to verify, or a --reward"),
        (
            ["--reward=viclip"],
            f"reward='viclip': expected a kind whose original transformers computes: {known}",
        ),
        (["--reward=pickscore", f"--original={folder}"], "original='"),
    ):
        done = run(*flags, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"error: {message}")


def test_without_pytorch_it_is_one_line(folder, tmp_path):
    code = (
        "import sys, runpy; sys.modules['torch'] = None; "
        "runpy.run_module('rats_jax.verify', run_name='__main__', alter_sys=True)"
    )
    done = run(f"--model={folder}", cwd=tmp_path, code=code)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: the package 'torch' cannot be imported (")
    assert line.endswith("torch, diffusers, transformers; pip install 'rats_jax[verify]'")


def test_a_folder_that_pytorch_does_not_open_is_one_line(folder, tmp_path):
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    (damaged / "text_encoder" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(
        ConfigError, match="^model='.*damaged': expected a pipeline that PyTorch opens, its 'tex"
    ):
        verify(str(folder), {}, **PLAIN | {"original": str(damaged)})
