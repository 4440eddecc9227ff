"""Rewards of pictures on the frames of a video: which frames, which prompts, and where the gradient goes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rats_jax.rewards.frames import choose_frames, on_frames


def reward(params, images, prompt):
    return params * jnp.mean(images**2 * prompt["scale"][:, None, None, None], axis=(1, 2, 3))


@pytest.mark.parametrize(
    ("length", "count", "expected"),
    [(5, 0, range(5)), (5, 1, [0]), (5, 2, [0, 4]), (17, 3, [0, 8, 16]), (9, 9, range(9)), (1, 1, [0])],
)
def test_frames_are_evenly_spaced_from_the_first(length, count, expected):
    np.testing.assert_array_equal(choose_frames(length, count), list(expected))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_reward_is_the_mean_over_frames_each_with_its_video_s_prompt(count):
    videos = np.random.default_rng(0).uniform(size=(3, 7, 4, 5, 3)).astype(np.float32)
    prompt = {"scale": np.array([1.0, -2.0, 3.0], np.float32)}
    video_reward = on_frames(reward, count)
    chosen = {0: range(7), 1: [0], 3: [0, 3, 6]}[count]
    expected = [
        2.0 * np.mean([np.mean(video[t] ** 2) * scale for t in chosen])
        for video, scale in zip(videos, prompt["scale"], strict=True)
    ]
    found = jax.jit(video_reward)(2.0, videos, prompt)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    gradient = jax.grad(lambda x: jnp.sum(video_reward(2.0, x, prompt)))(jnp.asarray(videos))
    reached = np.abs(gradient).max(axis=(0, 2, 3, 4)) > 0
    np.testing.assert_array_equal(np.flatnonzero(reached), list(chosen))
