"""The example of docs/rewards.md, run as it stands there."""

import re
import sys
import types
from pathlib import Path

from rats_jax import rewards

TEXT = (Path(__file__).parents[1] / "docs" / "rewards.md").read_text()


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
