"""What ships with the package: small enough, complete, and rewards that are worth climbing."""

from pathlib import Path

import numpy as np
import pytest

import rats_jax
from rats_jax.data.prompts import read_prompts
from rats_jax.evaluation.reference import load_reference
from rats_jax.pretraining.check import score_spoilt
from rats_jax.pretraining.corrupt import CORRUPTIONS
from rats_jax.rewards.pickscore import load_pickscore

EMOJI = Path(rats_jax.__file__).parent / "assets" / "emoji"


def test_they_are_small_and_hold_nothing_but_what_is_read():
    files = [file for file in EMOJI.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 40e6
    kinds = {".safetensors", ".json", ".txt", ".npz", ".md"}  # the last a model card, for its licence
    assert {file.suffix for file in files} == kinds, "weights are safetensors, never pickles"
    assert {file.name for file in EMOJI.iterdir()} == {
        *("pipeline", "reward", "heldout_reward", "prompts.txt", "reference.npz")
    }


@pytest.mark.slow
def test_the_rewards_know_a_clean_match_from_the_rest():
    """A mismatch loses half of the score of a clean match at least, a corruption a tenth."""
    prompts = read_prompts(EMOJI / "prompts.txt")
    reference = load_reference(EMOJI / "reference.npz", prompts, (32, 32, 3))
    rewards = {name: load_pickscore(str(EMOJI / name)) for name in ("reward", "heldout_reward")}
    chosen = np.random.default_rng(0).permutation(len(reference.images))[:16]
    table = score_spoilt(
        rewards,
        reference.images[chosen],
        [reference.captions[i] for i in chosen],
        {name: CORRUPTIONS[name] for name in ("mix", "tint", "contrast", "swap_blocks")},
        attacked="reward",
        severity=0.6,
        seed=0,
    )
    for name in rewards:
        scores = {condition: row[name] for condition, row in table.items()}
        clean = scores.pop("clean")
        assert clean > 0.95
        assert scores["caption of another"] < 0.5 * clean
        assert all(score < 0.9 * clean for score in scores.values()), scores
    # What fools the reward that is climbed does not fool the one that judges.
    attacked = table["attacked on reward"]
    assert attacked["heldout_reward"] < 0.6 * attacked["reward"]
