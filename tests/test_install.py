"""The package as others get it: wheel and source distribution, and the main job of the wheel by itself."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import rats_jax
from tests.tiny import xla_flags

ROOT = Path(__file__).parents[1]
SOURCES = ("rats_jax", "configs", "setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE")
BUILD = "from setuptools import build_meta; import sys; getattr(build_meta, sys.argv[1])(sys.argv[2])"
# Nothing that makes the checkout importable; one device, whose programs are compiled as all of the tests are.
ENVIRONMENT = {
    name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")
} | {"XLA_FLAGS": xla_flags(devices=1)}


def build(what, source, out):
    """Call setuptools as pip does, in the environment of the tests: nothing is downloaded."""
    subprocess.run(
        [sys.executable, "-c", BUILD, f"build_{what}", str(out)], cwd=source, check=True, capture_output=True
    )
    (file,) = out.iterdir()
    return file


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """What of the checkout goes into the package, for building leaves files behind."""
    folder = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    return build("wheel", source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder `bin` of an environment that has the wheel, and its dependencies from that of the tests."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    scheme = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", "venv", vars=scheme))
    # A line of a .pth adds a folder without reading the .pth files in it: no editable checkout comes along.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    python = Path(sysconfig.get_path("scripts", "venv", vars=scheme)) / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True, env=ENVIRONMENT)
    return python.parent


def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_holds_configs_assets_and_licences(wheel):
    held = contents(wheel)
    configs = {name: held[name] for name in held if name.startswith("rats_jax/configs/")}
    assert configs == {
        f"rats_jax/configs/{file.name}": file.read_bytes() for file in (ROOT / "configs").glob("*.py")
    }
    for folder, pattern in (("assets", "*"), (".", "*.py")):
        files = [path for path in (ROOT / "rats_jax" / folder).rglob(pattern) if path.is_file()]
        assert files and all(path.relative_to(ROOT).as_posix() in held for path in files)
    (notes,) = {name.split("/")[0] for name in held if ".dist-info/" in name}
    for name in ("LICENSE", "NOTICE"):
        assert held[f"{notes}/licenses/{name}"] == (ROOT / name).read_bytes()
    assert {name.split("/")[0] for name in held} == {"rats_jax", notes}
    assert wheel.stat().st_size < 40e6


def test_the_description_has_no_link_that_needs_the_checkout(wheel):
    held = contents(wheel)
    (metadata,) = [text.decode() for name, text in held.items() if name.endswith(".dist-info/METADATA")]
    assert f"\nVersion: {rats_jax.__version__}\n" in metadata
    head, _, description = metadata.partition("\n\n")
    assert "# rats_jax" in description and "text/markdown" in head
    links = re.findall(r"\]\(([^)]*)\)", description)
    assert links and all(link.startswith(("https://", "#")) for link in links)


def test_the_wheel_of_the_source_distribution_is_that_of_the_checkout(source, wheel, tmp_path):
    (tmp_path / "sdist").mkdir()
    (tmp_path / "wheel").mkdir()
    with tarfile.open(build("sdist", source, tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.glob("rats_jax-*")
    assert contents(build("wheel", unpacked, tmp_path / "wheel")) == contents(wheel)


def test_the_wheel_is_imported_and_not_the_checkout(installed, tmp_path):
    code = """
import rats_jax
from rats_jax.config.find import find_config
print(rats_jax.__file__)
print(find_config("sd_tpu")[0])
"""
    done = subprocess.run(
        [str(installed / "python"), "-c", code], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True
    )
    place = installed.parent.resolve()
    package, config = (Path(line).resolve() for line in done.stdout.splitlines())
    assert place in package.parents, done.stderr
    assert config == package.parent / "configs" / "sd_tpu.py"


@pytest.mark.slow
def test_the_main_job_runs_from_the_wheel(installed, models, tmp_path):
    """Three updates of a tiny network, with the config, the prompts and the reference of the wheel."""
    tiny = {
        "pretrained": models / "pipeline",
        "rewards.pickscore_emoji.path": models / "reward",
        "monitor.heldout.path": models / "heldout",
        "num_updates": 3,
        "batch_size": 2,
        "student.num_steps": 2,
        "student.reward_gradient_steps": 2,
        "teacher.num_steps": 3,
        "samples.num": 2,
        "evaluation.num_prompts": 4,
        "evaluation.batch_size": 2,
    }
    overrides = [f"--config.{field}={value}" for field, value in tiny.items()]
    done = subprocess.run(
        [str(installed / "rats-jax"), "main", "--config=emoji_cpu", "--workdir=run", *overrides],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "student, 2 evaluations" in done.stdout + done.stderr
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["updates"] == 3
