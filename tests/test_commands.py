"""The commands under one name: what is listed, how they are called, and what is no command."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import rats_jax
from rats_jax.__main__ import COMMANDS, usage

PACKAGE = Path(rats_jax.__file__).parent


def call(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )


def test_every_module_that_runs_is_listed_with_its_own_first_line():
    modules = {path.stem for path in PACKAGE.glob("*.py") if "app.run(main" in path.read_text()}
    assert len(COMMANDS) == len(set(COMMANDS)) and set(COMMANDS) == modules
    listed = dict(line.split(maxsplit=1) for line in usage().splitlines() if line.startswith("  "))
    assert tuple(listed) == COMMANDS
    for name, line in listed.items():
        documentation = ast.get_docstring(ast.parse((PACKAGE / f"{name}.py").read_text()))
        assert line == str(documentation).splitlines()[0] and line.endswith("."), name


@pytest.mark.parametrize("argument", ["--help", "-h", "--version"])
def test_what_there_is_is_said_without_slow_imports(argument, tmp_path):
    code = (
        f"import sys; from rats_jax.__main__ import main; sys.argv[1:] = [{argument!r}]; main(); "
        "assert not {'jax', 'absl', 'numpy', 'ml_collections'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = f"rats_jax {rats_jax.__version__}" if argument == "--version" else usage()
    assert done.stdout == f"{expected}\n"


@pytest.mark.parametrize("arguments", [["score", "--help"], ["score", "--reward=nothing"]])
def test_a_command_does_what_its_module_does(arguments):
    name, *rest = arguments
    ours, own = (
        call(*line, *rest, cwd=PACKAGE.parent) for line in (["rats_jax", name], [f"rats_jax.{name}"])
    )
    assert (ours.returncode, ours.stdout, ours.stderr) == (own.returncode, own.stdout, own.stderr)
    assert "--images" in ours.stdout + ours.stderr


@pytest.mark.parametrize(
    ("name", "expected"),
    [("evalute", "did you mean 'evaluate'?"), ("--config=x", "pretrain\n"), ("errors", "pretrain\n")],
)
def test_what_is_no_command_is_one_line_and_status_2(name, expected):
    done = call("rats_jax", name, "--workdir=x", cwd=PACKAGE.parent)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: COMMAND={name!r}: expected one of main, ")
    assert done.stderr.count("\n") == 1 and done.stderr.rstrip("\n").endswith(expected.rstrip("\n"))
