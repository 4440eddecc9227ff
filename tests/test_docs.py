"""Examples of the docs, run as they stand there; links that lead somewhere."""

import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from rats_jax import rewards
from rats_jax.config.flags import load_config
from rats_jax.config.together import validate
from rats_jax.rewards.open import expect_known_kinds
from tests.tiny import tiny_config

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
TEXT = (ROOT / "docs" / "rewards.md").read_text()


def run(source, name):
    module = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
    return module


def test_the_reward_that_is_added_there_passes_its_test(monkeypatch):
    section = TEXT.split("## Adding a reward")[1]
    file, test = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    line = re.search(r'^ +"(\w+)": (\w+),$', section, flags=re.MULTILINE)
    assert line is not None
    module = run(file, "rats_jax.rewards.brightness")
    monkeypatch.setitem(sys.modules, "rats_jax.rewards.brightness", module)
    monkeypatch.setattr(rewards, "REWARDS", {**rewards.REWARDS, line[1]: getattr(module, line[2])})
    tests = [value for name, value in vars(run(test, "test_brightness")).items() if name.startswith("test_")]
    assert len(tests) == 1
    tests[0]()


def test_every_reward_has_its_row():
    rows = set(re.findall(r"^\| `([\w.]+)` \|", TEXT.split("## Using them")[0], flags=re.MULTILINE))
    assert rows == set(rewards.REWARDS)


def test_rewards_of_ones_own_file_are_those_of_the_page(tmp_path, monkeypatch):
    section = (ROOT / "docs" / "own.md").read_text().split("## Rewards")[1].split("## Models")[0]
    file, own_config, loader = (
        code for code in re.findall(r"```python\n(.*?)```", section, re.DOTALL) if "import" in code
    )
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(f"{file}\n{loader}")
    Path("mine_config.py").write_text(own_config)
    config = load_config(Path("mine_config.py"))
    validate(config)
    expect_known_kinds(config)
    assert set(config.rewards) == {"hpsv2", "red"} and {"clip"} <= set(config.monitor)
    np.save("weights.npy", np.array([1.0, 2.0, 3.0], np.float32))
    images = np.random.default_rng(0).uniform(size=(2, 4, 4, 3)).astype(np.float32)
    mean = images.mean((1, 2))
    wanted = {
        "redness": ("", mean[:, 0] - mean[:, 1:].mean(1)),
        "load_linear": ("weights.npy", mean @ np.array([1.0, 2.0, 3.0])),
    }
    for name, (path, scores) in wanted.items():
        reward = rewards.find_reward(f"mine.py:{name}").load(path)
        found = jax.jit(reward.reward_fn)(reward.params, images, reward.prepare(["one", "two"]))
        np.testing.assert_allclose(found, scores, rtol=1e-5, atol=1e-6)


def test_the_lines_for_a_notebook_draw_score_and_update(models, capsys):
    section = (ROOT / "docs" / "own.md").read_text().split("## In a notebook")[1]
    draw, update = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert run(draw, "draw").scores.shape == (2,)
    small = tiny_config(models)
    code = update.replace('load_config("emoji_cpu")', "small")
    namespace = {"small": small}
    exec(code, namespace)
    assert int(namespace["state"].step) == 3 and capsys.readouterr().out.count("'gate/mean'") == 3


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_of_the_checkout_and_to_headings(page):
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        file = page.parent / path if path else page
        if page.parent.name == "docs" and path == "reference/config.md":
            continue  # made by docs/hooks.py
        assert file.exists(), target
        if heading:
            assert heading in {_anchor(line) for line in _headings(file)}, target


@pytest.mark.parametrize(
    ("heading", "name"),
    [
        ("What the gate is worth", "scenes_ablation"),
        ("What a teacher that follows its student is worth", "scenes_teachers"),
        ("A constant gate", "emoji_gates"),
    ],
)
def test_the_tables_of_a_comparison_are_what_its_records_say(heading, name, tmp_path):
    page = (ROOT / "docs" / "results.md").read_text()
    section = re.split(r"\n##+ ", page.split(f"### {heading}\n")[1])[0]
    place = f"docs/records/{name}"
    (command,) = re.findall(rf"`python -m (rats_jax\.ablate [^`]*--workdir={place}[^`]*)`", section)
    shutil.copytree(ROOT / place, tmp_path / "records")
    arguments = command.replace(place, str(tmp_path / "records")).split()
    subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, check=True, capture_output=True)
    tables = (tmp_path / "records" / "ablation.md").read_text().splitlines()
    shown = [line for line in section.splitlines() if line.startswith("| ")]
    assert len(shown) > 20 and [line for line in shown if line not in tables] == []


def _headings(page):
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"^#+ (.*)$", prose, flags=re.MULTILINE)


def _anchor(heading):
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
