"""Config files and overrides."""

from pathlib import Path

import pytest

from rats_jax.config.flags import fail, load_config, validate_overrides
from rats_jax.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"
EMOJI = str(CONFIGS / "emoji_cpu.py")


def test_load_config_does_not_depend_on_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config(EMOJI)
    assert config.pretrained == "assets/emoji/pipeline" and config.teacher.num_steps == 50


@pytest.mark.parametrize("path", ["missing.py", "", str(CONFIGS), str(CONFIGS.parent / "pyproject.toml")])
def test_a_missing_file_is_named(path):
    with pytest.raises(ConfigError, match="expected an existing Python file"):
        load_config(path)


def test_a_file_that_makes_no_config(tmp_path):
    file = tmp_path / "empty.py"
    file.write_text("")
    with pytest.raises(ConfigError, match=r"expected a file that defines get_config\(\)"):
        load_config(file)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--workdir=x"],
        [f"--config={EMOJI}", "--config.student.num_steps=8"],
        ["--config", EMOJI, "--config.student.num_steps", "8", "--noconfig.gate.relative"],
        [f"--config={EMOJI}", "--config.horizon.weights[0]=1", "--config.rewards.pickscore_emoji.weight=2"],
        [f"--config={EMOJI}", "--config.student={'num_steps': 8}"],
        [f"--config={EMOJI}", "--", "--config.nothing=1"],
    ],
)
def test_good_overrides_pass(arguments):
    validate_overrides(["main", *arguments])


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("--config.student.nmu_steps=8", "'student.nmu_steps' in .*; did you mean 'student.num_steps'"),
        ("-config.bath_size=8", "did you mean 'batch_size'"),
        ("--noconfig.gate.realtive", "did you mean 'gate.relative'"),
        ("--config.xyzzy=8", "no field 'xyzzy' in .*emoji_cpu.py$"),
        ("--config.rewards.other.weight=8", "no field 'rewards.other.weight'"),
    ],
)
def test_unknown_overrides_are_named_with_the_nearest_field(override, expected):
    with pytest.raises(ConfigError, match=expected):
        validate_overrides(["main", f"--config={EMOJI}", override])


def test_an_error_is_one_line_and_status_1(capsys):
    with pytest.raises(SystemExit) as caught:
        fail(ValueError("two\n  lines"))
    assert caught.value.code == 1
    assert capsys.readouterr().err == "error: two lines\n"
