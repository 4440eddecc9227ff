"""Config files by path and by name."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rats_jax.config.find import find_config, names_of_configs
from rats_jax.config.flags import load_config, validate_overrides
from rats_jax.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"
FILE = """
from ml_collections import ConfigDict
def get_config(size="1"):
    return ConfigDict({"size": size, "more": True})
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(file):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(FILE)
    return file


@pytest.mark.parametrize("name", ["emoji_cpu", "emoji_cpu.py", "configs/emoji_cpu.py", "configs/emoji_cpu"])
def test_a_name_finds_the_config_that_comes_with_the_package(name):
    file, arguments = find_config(name)
    assert file.samefile(CONFIGS / "emoji_cpu.py") and file.is_absolute() and arguments == []
    assert load_config(name).student.num_steps == 4


def test_all_configs_have_a_name():
    assert names_of_configs() == sorted(file.stem for file in CONFIGS.glob("*.py"))


@pytest.mark.parametrize(
    ("own", "name"),
    [
        ("emoji_cpu.py", "emoji_cpu"),
        ("emoji_cpu.py", "emoji_cpu.py"),
        ("configs/emoji_cpu.py", "configs/emoji_cpu.py"),
        ("configs/emoji_cpu.py", "configs/emoji_cpu"),
        ("configs/emoji_cpu.py", "emoji_cpu"),
        ("mine.py", "mine"),
        ("a/mine.py", "a/mine"),
        ("a:b.py", "a:b.py"),
    ],
)
def test_a_file_of_the_working_directory_is_before_it(here, own, name):
    write(here / own)
    assert find_config(name)[0].samefile(here / own)


def test_what_stands_nearer_is_before_what_stands_in_configs(here):
    write(here / "configs" / "emoji_cpu.py")
    assert find_config("emoji_cpu")[0].samefile(here / "configs" / "emoji_cpu.py")
    write(here / "emoji_cpu.py")
    assert find_config("emoji_cpu")[0].samefile(here / "emoji_cpu.py")


@pytest.mark.parametrize(
    ("name", "closest"),
    [
        ("emoji_cup", "emoji_cpu"),
        ("configs/sdtpu.py", "sd_tpu"),
        ("elsewhere/flux_gpu.py", "flux_gpu"),
        ("./scenes_cpuu", "scenes_cpu"),
        ("sdxl_tpus:8", "sdxl_tpu"),
    ],
)
def test_what_is_none_names_those_that_there_are_the_closest_first(name, closest):
    path = re.escape(name.partition(":")[0])
    expected = "an existing Python file, or one that comes with rats_jax"
    with pytest.raises(ConfigError, match=f"^config='{path}': expected {expected}: {closest}, ") as caught:
        find_config(name)
    assert set(str(caught.value).split("rats_jax: ")[1].split(", ")) == set(names_of_configs())


@pytest.mark.parametrize("own", ["emoji_cpu", "emoji_cpu.txt"])
def test_a_file_that_is_no_python_hides_no_config_in_silence(here, own):
    (here / own).write_text("")
    with pytest.raises(ConfigError, match="expected an existing Python file"):
        find_config(own)


@pytest.mark.parametrize("name", ["gs://bucket/emoji_cpu.py", "", "~nobodyhere/x"])
def test_what_can_be_no_path_is_refused(name):
    with pytest.raises(ConfigError, match="^config="):
        find_config(name)


def test_an_argument_reaches_get_config(here):
    write(here / "mine.py")
    assert load_config("mine.py:7").size == load_config("mine:7").size == "7"
    assert load_config("mine").size == "1"
    validate_overrides(["main", "--config=mine:7", "--config.size=8"])
    with pytest.raises(ConfigError, match=r"takes 0 positional arguments but 1 was given"):
        load_config("emoji_cpu:7")


@pytest.mark.parametrize("line", [["--config=mine:7"], ["--config", "mine:7"], ["-config=mine:7"]])
def test_a_command_takes_names_with_overrides(here, line):
    """ml_collections reads the file and the overrides itself; it knows paths alone."""
    write(here / "mine.py")
    code = (
        "import sys; from rats_jax.config.flags import define_config, parse_flags; "
        "config = define_config(); parse_flags(sys.argv); print(config.value.size, config.value.more)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *line, "--config.more=False"],
        env=os.environ | {"PYTHONPATH": str(CONFIGS.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("7 False\n", "")
