"""Every config of the project loads and is right; bad input to the main job is one line and status 1."""

import subprocess
import sys
from pathlib import Path

import pytest

from rats_jax.config.fields import RULES, flatten
from rats_jax.config.flags import load_config
from rats_jax.config.together import validate
from rats_jax.errors import ConfigError

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
TRAINING = [path for path in CONFIGS if {"student", "teacher"} <= set(load_config(path).keys())]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_loads(path):
    assert len(load_config(path)) > 0


@pytest.mark.parametrize("path", [p for p in TRAINING if p.stem != "default"], ids=lambda path: path.stem)
def test_training_config_is_right(path):
    validate(load_config(path))


def test_default_lacks_only_what_a_config_must_name():
    flat = flatten(load_config(ROOT / "configs" / "default.py"))
    assert {field for field, rule in RULES.items() if not rule.holds(flat[field])} == {
        "pretrained",
        "prompts",
    }
    with pytest.raises(ConfigError, match="^rewards="):
        validate(load_config(ROOT / "configs" / "default.py"))


BAD = {
    "no_config": (["--workdir=w"], "--config"),
    "no_workdir": (["--config=configs/emoji_cpu.py"], "--workdir"),
    "missing_file": (
        ["--config=configs/nothing.py"],
        "config='configs/nothing.py': expected an existing Python file",
    ),
    "unknown_field": (["--config.student.nmu_steps=8"], "did you mean 'student.num_steps'?"),
    "wrong_type": (["--config.student.num_steps=few"], "student.num_steps=few: expected an integer >= 1"),
    "wrong_value": (
        ["--config.gate.kind=soft"],
        "gate.kind='soft': expected one of 'sigmoid', 'hard', 'constant'",
    ),
    "too_many_steps": (
        ["--config.student.num_steps=60"],
        "student.num_steps=60: expected at most teacher.num_steps=50",
    ),
    "horizons": (
        ["--config.horizon.weights=(0.5,0.5)"],
        "horizon.weights=(0.5, 0.5): expected one weight for each",
    ),
    "missing_prompts": (["--config.prompts=nothing.txt"], "prompts='nothing.txt': expected an existing file"),
    "missing_model": (
        ["--config.pretrained=assets/nothing"],
        "pretrained='assets/nothing': expected an existing folder",
    ),
    "unknown_flag": (["--confg.seed=3"], "confg.seed"),
    "empty_workdir": (["--workdir="], "workdir='': expected a path"),
    "unknown_scheme": (["--workdir=foo://x"], "workdir='foo://x': expected a folder, or an address as gs://"),
    "unknown_home": (["--config.reference=~nobodyhere/x"], "reference='~nobodyhere/x': expected the home of"),
    "unknown_home_of_config": (["--config=~nobodyhere/x.py"], "config='~nobodyhere/x.py': expected the home"),
    "missing_embeds": (["--config.prompt_embeds=setup.py"], "prompt_embeds='setup.py': expected an existing"),
    "bad_targets": (["--config.teacher.targets=setup.py/x"], "teacher.targets='setup.py/x': expected a path"),
    "field_twice": (["--config.seed=1", "--config.seed=1"], "--config.seed: expected once, it is given 2"),
    "field_both_ways": (
        ["--config.gate.relative", "--noconfig.gate.relative"],
        "--config.gate.relative: expected once, it is given 2 times",
    ),
    "section_after_field": (
        ["--config.gate.value=1", "--config.gate={'value': 0.5}"],
        "Flag --config.gate is provided after --config.gate.value",
    ),
    "item": (["--config.horizon.weights[0]=1"], "expected all of it, as in --config.horizon.weights='"),
    "missing_flagfile": (["--flagfile=nothing"], "Unable to open flagfile: [Errno 2]"),
    "no_flag": (["seed=3"], "arguments=['seed=3']"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_of_the_main_job_is_one_line_and_status_1(case, tmp_path):
    arguments, expected = BAD[case]
    needed = {"--config": "--config=configs/emoji_cpu.py", "--workdir": f"--workdir={tmp_path / 'run'}"}
    given = {argument.split("=")[0] for argument in arguments}
    if not case.startswith("no_c") and not case.startswith("no_w"):
        arguments = [text for flag, text in needed.items() if flag not in given] + arguments
    if case == "missing_prompts":
        arguments.append(f"--config.pretrained={tmp_path}")
        arguments += [
            f"--config.rewards.pickscore_emoji.path={tmp_path}",
            f"--config.monitor.heldout.path={tmp_path}",
        ]
    result = subprocess.run(
        [sys.executable, "-m", "rats_jax.main", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    assert expected in result.stderr
    assert not (tmp_path / "run").exists()


def test_bad_input_is_found_before_jax_is_imported():
    code = "import sys, rats_jax.main; assert 'jax' not in sys.modules and 'orbax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
