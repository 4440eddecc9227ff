"""A reward from a user's own file: found, loaded, checked; and what is wrong with one in a line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from rats_jax.errors import ConfigError
from rats_jax.rewards import REWARDS, find_reward
from rats_jax.rewards.open import expect_known_kinds, open_rewards

FILE = '''
import jax.numpy as jnp
import numpy as np

from rats_jax.rewards.base import Reward, without_weights
from rats_jax.types import RewardModel


def load_red(path, *, dtype=jnp.float32):
    """How red a picture is, times a weight from a file."""
    weight = np.load(path) if path else np.float32(1.0)
    return RewardModel(lambda params, images, prompt: params * images[..., 0].mean((1, 2)), weight, len_of)


def len_of(prompts):
    return np.array([len(prompt) for prompt in prompts])


length = without_weights("length", lambda params, images, prompt: jnp.float32(prompt), len_of)
judge = Reward(length.load, describe=None, differentiable=False)
not_callable = 3


def load_nothing(path, *, dtype=jnp.float32):
    return None


def load_whole(path, *, dtype=jnp.float32):
    return RewardModel(lambda params, images, prompt: images, {}, len_of)


def load_integers(path, *, dtype=jnp.float32):
    return RewardModel(lambda params, images, prompt: prompt, {}, len_of)


def load_broken(path, *, dtype=jnp.float32):
    return np.load("there is no such file")
'''
IMAGES = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 8, 8, 3)), jnp.float32)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def config(**kinds):
    made = ConfigDict({"rewards": {}, "monitor": {}})
    for section, kind in kinds.items():
        made[section].mine = ConfigDict({"kind": str(kind), "path": "", "weight": 1.0})
    return made


def score(reward, path=""):
    model = reward.load(path, dtype=jnp.float32)
    return jax.jit(model.reward_fn)(model.params, IMAGES, model.prepare(["one", "three"]))


def test_a_function_that_loads_is_a_reward_with_its_weights(file, tmp_path):
    np.save(tmp_path / "weight.npy", np.float32(3.0))
    reward = find_reward(f"{file}:load_red")
    red = np.asarray(IMAGES[..., 0].mean((1, 2)))
    np.testing.assert_allclose(score(reward), red, rtol=1e-6)
    np.testing.assert_allclose(score(reward, str(tmp_path / "weight.npy")), 3 * red, rtol=1e-6)
    assert reward.differentiable


def test_a_whole_reward_keeps_what_it_says_of_itself(file):
    assert score(find_reward(f"{file}:length")).tolist() == [3.0, 5.0]
    assert not find_reward(f"{file}:judge").differentiable


def test_a_config_names_it_from_the_working_directory_and_the_home(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    monkeypatch.setenv("HOME", str(file.parent))
    for kind in ("mine.py:load_red", "./mine.py:load_red", "~/mine.py:load_red"):
        expect_known_kinds(config(rewards=kind, monitor="mine.py:judge"))
        opened = open_rewards(config(rewards=kind), "rewards", dtype=jnp.float32, frames=None)
        assert opened["mine"].prepare(["four"]).tolist() == [4]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("nowhere.py:load", "FILE.py:NAME, there is no file 'nowhere.py'"),
        ("mine.py:load_blue", "a function or Reward 'load_blue' in that file"),
        ("mine.py:not_callable", "a function or Reward 'not_callable' in that file"),
        ("mine.py:", "a function or Reward '' in that file"),
        ("mine.py:judge", "a reward with a gradient; it has none, but monitor.mine measures it"),
        ("beauty", f"one of {', '.join(sorted(REWARDS))}, or FILE.py:NAME"),
        ("detector", "a reward with a gradient; it has none, but monitor.mine measures it"),
    ],
)
def test_kinds_that_are_none(file, monkeypatch, kind, expected):
    monkeypatch.chdir(file.parent)
    with pytest.raises(ConfigError) as caught:
        expect_known_kinds(config(rewards=kind))
    assert str(caught.value) == f"rewards.mine.kind={kind!r}: expected {expected}"


def test_a_file_that_does_not_run_is_a_line_with_the_place(tmp_path):
    (tmp_path / "bad.py").write_text("import numpy\nnumpy.nothing_of_that_name\n")
    with pytest.raises(
        ConfigError, match=r"^kind='.*bad.py': expected a file that runs \(line 2: AttributeError"
    ):
        find_reward(f"{tmp_path / 'bad.py'}:load")


def test_what_it_gives_is_checked_before_anything_is_compiled(file):
    for name, message in {
        "load_nothing": r"expected a RewardModel from it, not NoneType$",
        "load_broken": r"expected a file that runs \(line \d+: FileNotFoundError: .*\)$",
        "load_whole": r"expected floating-point scores \[2\] of images .*, found float32 \[2, 8, 8, 3\]",
        "load_integers": r"expected floating-point scores \[2\] of images .*, found int(32|64) \[2\]",
    }.items():
        with pytest.raises(ConfigError, match=message):
            score(find_reward(f"{file}:{name}", "rewards.mine.kind"))
