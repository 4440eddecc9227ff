"""The saved config: JSON and back, and what may change when a run is resumed."""

import json
from pathlib import Path

import pytest

from rats_jax.config.flags import load_config
from rats_jax.errors import ConfigError
from rats_jax.workdir.saved_config import config_difference, from_json, to_dict, to_json, validate_resume

DEFAULT = Path(__file__).parents[2] / "configs" / "default.py"


@pytest.fixture
def config():
    config = load_config(DEFAULT)
    config.horizon.weights = (0.25, 0.75)
    return config


def test_json_round_trip(config):
    text = to_json(config)
    assert from_json(text) == config.to_dict()
    assert to_json(from_json(text)) == text
    assert to_dict(config) == json.loads(text)
    assert to_dict(config)["horizon"]["weights"] == [0.25, 0.75]


def test_the_same_config_does_not_differ(config):
    assert config_difference(json.loads(to_json(config)), config) == []


def test_fields_that_may_change(config):
    old = to_dict(config)
    config.num_updates += 1
    config.log_every += 1
    config.loggers = ("trackio",)
    config.checkpoint.every += 1
    config.checkpoint.keep += 1
    config.samples.every += 1
    config.samples.num += 1
    assert config_difference(old, config) == []
    validate_resume(old, config, workdir="runs/a")


def test_all_other_fields_are_listed_old_to_new(config):
    old = to_dict(config)
    config.student.num_steps = 8
    config.horizon.weights = (1.0,)
    config.rewards.extra = {"weight": 2.0}
    assert config_difference(old, config) == [
        "horizon.weights: [0.25, 0.75] -> [1.0]",
        "rewards: {} -> (none)",
        "rewards.extra.weight: (none) -> 2.0",
        "student.num_steps: 4 -> 8",
    ]


def test_the_message_names_the_workdir_and_at_most_five_fields(config):
    old = to_dict(config)
    config.seed, config.batch_size, config.reward_weight = 1, 16, 0.5
    config.gate.value, config.student.num_steps = 0.5, 8
    with pytest.raises(ConfigError) as caught:
        validate_resume(old, config, workdir="runs/a")
    assert str(caught.value).count("->") == 5 and "more" not in str(caught.value)
    config.sampler = "euler"
    with pytest.raises(
        ConfigError, match=r"^workdir='runs/a' holds .*batch_size: 8 -> 16; .*; and 1 more\)"
    ) as caught:
        validate_resume(old, config, workdir="runs/a")
    assert str(caught.value).count("->") == 5 and "\n" not in str(caught.value)


def test_a_run_of_before_lacks_fields_that_came_later_and_goes_on():
    saved = {"num_updates": 4, "student": {"num_steps": 4}, "gate": {"kind": "hard"}}
    config = saved | {"height": 0, "width": 0, "max_sequence_length": 0, "num_frames": 0, "flow_shift": 0.0}
    config |= {"negative_prompt": "", "num_decoded_latents": 0, "reward_frames": 0}
    assert config_difference(saved, config) == []
    assert config_difference(saved, config | {"height": 512}) == ["height: 0 -> 512"]
    read = from_json(to_json(saved))
    assert read["max_sequence_length"] == 0 and read["gate"] == {"kind": "hard", "gap": "sample"}
    assert config_difference(saved, config | {"gate": {"kind": "hard", "gap": "mean"}}) == [
        "gate.gap: 'sample' -> 'mean'"
    ]
