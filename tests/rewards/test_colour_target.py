"""The reward of a colour, by hand: SHA-256 of 'a' begins ca 97 81, that of 'b' 3e 23 e8."""

import numpy as np

from rats_jax.rewards import REWARDS

# 0.1 + 0.8 / 255 times the first three bytes.
TARGETS = {"a": (0.7337255, 0.5737255, 0.5047059), "b": (0.2945098, 0.2098039, 0.8278431)}


def test_targets_are_of_the_hash_of_the_prompt():
    prepared = REWARDS["colour_target"].load("").prepare(["a", "b", "a"])
    np.testing.assert_allclose(prepared, [TARGETS["a"], TARGETS["b"], TARGETS["a"]], atol=1e-6)


def test_it_is_minus_the_squared_distance_of_the_mean_colour():
    reward = REWARDS["colour_target"].load("")
    black, red = np.zeros((2, 4, 3), np.float32), np.zeros((2, 4, 3), np.float32)
    red[0] = 1, 0, 0  # a half of the picture
    exact = np.broadcast_to(np.float32(TARGETS["b"]), (2, 4, 3))
    scores = reward.reward_fn(reward.params, np.stack([black, red, exact]), reward.prepare(["a", "a", "b"]))
    wanted = [
        -(0.7337255**2 + 0.5737255**2 + 0.5047059**2),  # -1.1222
        -(0.2337255**2 + 0.5737255**2 + 0.5047059**2),  # -0.6385
        0.0,
    ]
    np.testing.assert_allclose(scores, wanted, atol=1e-6)
