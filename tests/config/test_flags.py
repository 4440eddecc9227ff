"""Config files and overrides."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

from rats_jax.config.flags import errors_in_a_line, fail, load_config, validate_once, validate_overrides
from rats_jax.errors import ConfigError, ExportError, StoppedError

CONFIGS = Path(__file__).parents[2] / "configs"
EMOJI = str(CONFIGS / "emoji_cpu.py")


def test_load_config_does_not_depend_on_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config(EMOJI)
    assert config.pretrained == "assets/emoji/pipeline" and config.teacher.num_steps == 50


@pytest.mark.parametrize("path", ["missing.py", "", str(CONFIGS), str(CONFIGS.parent / "pyproject.toml")])
def test_a_missing_file_is_named(path):
    with pytest.raises(ConfigError, match=f"^config='{path}': expected (an existing Python file|a path, it)"):
        load_config(path)


def test_a_file_that_makes_no_config(tmp_path):
    file = tmp_path / "empty.py"
    file.write_text("")
    with pytest.raises(ConfigError, match=r"expected a file that defines get_config\(\)"):
        load_config(file)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"def f(:\n", "a file that runs (line 1: SyntaxError: invalid syntax)"),
        (b"\nimport nosuch\n", "a file that runs (line 2: ModuleNotFoundError: No module named 'nosuch')"),
        (b"x = 1\ny = z\n", "a file that runs (line 2: NameError: name 'z' is not defined)"),
        (b'"\xe9"\n', "a file that runs (line 1: SyntaxError: (unicode error) 'utf-8' codec can't decode"),
        (b"def get_config():\n  raise KeyError('a')\n", "a file that runs (line 2: KeyError: 'a')"),
        (b"import sys\nsys.exit(3)\n", "a file that runs (line 2: SystemExit: 3)"),
        (b"get_config = 3\n", "a file that runs (TypeError: 'int' object is not callable)"),
        (b"def get_config():\n  pass\n", "a ConfigDict from get_config(), not NoneType"),
    ],
)
def test_a_file_that_does_not_run_is_one_line_with_the_place(tmp_path, content, expected):
    file = tmp_path / "broken.py"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert str(caught.value).startswith(f"config={str(file)!r}: expected {expected}")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--workdir=x"],
        [f"--config={EMOJI}", "--config.student.num_steps=8"],
        ["--config", EMOJI, "--config.student.num_steps", "8", "--noconfig.gate.relative"],
        [f"--config={EMOJI}", "--config.horizon.weights=(1,2)", "--config.rewards.pickscore_emoji.weight=2"],
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
        ("--config.=8", "no field ''"),
        ("--config.horizon.weights[0]=1", "expected all of it, as in --config.horizon.weights='"),
        ("--config.student[0]=1", "expected all of it"),
        ("--config.rewards.other.weight=8", "no field 'rewards.other.weight'"),
    ],
)
def test_unknown_overrides_are_named_with_the_nearest_field(override, expected):
    with pytest.raises(ConfigError, match=expected):
        validate_overrides(["main", f"--config={EMOJI}", override])


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (["--out=a"], None),
        (["--prompt=a", "--prompt=a", "--dry"], None),
        (["--out=a", "--out", "a"], "out"),
        (["--steps=1", "--steps=2"], "steps"),
        (["--dry", "--nodry"], "dry"),
    ],
)
def test_a_flag_counts_twice_or_is_refused(line, named):
    values = flags.FlagValues()
    flags.DEFINE_string("out", None, "", flag_values=values)
    flags.DEFINE_list("steps", [], "", flag_values=values)
    flags.DEFINE_bool("dry", False, "", flag_values=values)
    flags.DEFINE_multi_string("prompt", [], "", flag_values=values)
    values(["command", *line])
    if named is None:
        validate_once(values)
        assert values.prompt == [text[9:] for text in line if text.startswith("--prompt")]
        return
    with pytest.raises(ConfigError, match=f"^--{named}: expected once, it is given 2 times$"):
        validate_once(values)


def test_an_error_is_one_line_and_status_1(capsys):
    with pytest.raises(SystemExit) as caught:
        fail(ValueError("two\n  lines"))
    assert caught.value.code == 1
    assert capsys.readouterr().err == "error: two lines\n"


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ConfigError("a=1: expected 2"), 1, "error: a=1: expected 2"),
        (ExportError("another picture"), 1, "error: another picture"),
        (StoppedError("is saved"), 75, "error: is saved"),
        (
            PermissionError(13, "Permission denied", "a/b"),
            1,
            "error: 'a/b': expected .* [(]Permission denied[)]",
        ),
        (IsADirectoryError(21, "Is a directory", b"a"), 1, "error: 'a': expected .* [(]Is a directory[)]"),
        (
            MemoryError("Unable to allocate 4 TiB"),
            1,
            "error: memory: expected .* [(]Unable to allocate 4 TiB[)]",
        ),
        (RuntimeError("RESOURCE_EXHAUSTED: 9 GB"), 1, "error: memory: .* [(]RESOURCE_EXHAUSTED: 9 GB[)]"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
    ],
)
def test_what_a_command_ends_with_is_one_line(capsys, error, status, line):
    with pytest.raises(SystemExit) as caught, errors_in_a_line():
        raise error
    assert caught.value.code == status
    assert re.fullmatch(f"{line}\n", capsys.readouterr().err)


@pytest.mark.parametrize("error", [RuntimeError("a fault"), KeyError("a"), OSError("no file")])
def test_a_fault_of_the_program_keeps_its_traceback(error):
    with pytest.raises(type(error)), errors_in_a_line():
        raise error


def test_an_output_that_nobody_reads_any_more_ends_a_command_without_a_word():
    code = (
        "from rats_jax.config.flags import errors_in_a_line\nwith errors_in_a_line(): print('a', flush=True)"
    )
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
