"""Verification of a reward: its score and its gradient in the picture, here and in PyTorch."""

from __future__ import annotations

import gc
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.errors import ConfigError, expect, reason_of
from rats_jax.rewards import REWARDS
from rats_jax.verification.comparison import GRADIENTS, SCORES, Check, compare_outputs, compare_scores
from rats_jax.verification.inputs import PROMPTS
from rats_jax.verification.reward_originals import REWARD_ORIGINALS
from rats_jax.weights.stored import read_all

_PROMPTS = [PROMPTS[0], PROMPTS[2]]
# Of the pictures: neither a square nor the size of a tower.
_HEIGHT, _WIDTH, _BLOCK = 240, 320, 16


def expect_original(kind: str) -> None:
    """Refuse a kind of reward that PyTorch's side cannot compute.

    Raises:
        ConfigError: lists those that it can.
    """
    known = ", ".join(sorted(REWARD_ORIGINALS))
    expect(kind in REWARD_ORIGINALS, "reward", kind, f"a kind whose original transformers computes: {known}")


def verify_reward(kind: str, path: str, *, device: str) -> list[Check]:
    """Compare a reward's scores of two pictures and prompts, and the gradient of their sum, in float32.

    Args:
        kind: in REWARD_ORIGINALS.
        path: of its weights, '' for the published ones.
        device: of PyTorch's side, 'cpu' or 'cuda'.

    Raises:
        ConfigError: either side does not open the weights.
    """
    images = draw_pictures()
    reward = REWARDS[kind].load(path)  # which says in one line what is wrong with a folder
    theirs = _run_original(kind, path, images, device)
    own = _run_ours(reward, images)
    gradient = compare_outputs(f"{kind}, gradient", own[1], theirs[1], GRADIENTS)
    if not theirs[1].any():  # as of CLIPScore below 0, where any two models agree
        gradient = gradient._replace(fault="PyTorch's is 0 everywhere, which compares nothing")
    return [compare_scores(f"{kind}, score", own[0], theirs[0], SCORES), gradient]


def draw_pictures() -> np.ndarray:
    """Draw two pictures of coloured blocks and noise, [2, H, W, 3] float32 in [0, 1]."""
    rng = np.random.default_rng(0)
    blocks = rng.uniform(size=(2, _HEIGHT // _BLOCK, _WIDTH // _BLOCK, 3))
    large = blocks.repeat(_BLOCK, axis=1).repeat(_BLOCK, axis=2)
    return (0.8 * large + 0.2 * rng.uniform(size=large.shape)).astype(np.float32)


def _run_original(kind: str, path: str, images: np.ndarray, device: str) -> tuple[np.ndarray, np.ndarray]:
    """Give PyTorch's scores [2] and gradient like the pictures."""
    import torch

    leaf = torch.from_numpy(np.moveaxis(images, -1, 1).copy()).to(device).requires_grad_()
    try:
        score_fn = REWARD_ORIGINALS[kind](path)
        scores = score_fn(leaf, _PROMPTS)
        scores.sum().backward()
    except ConfigError:
        raise
    except Exception as error:  # whatever another package raises
        raise ConfigError(
            f"reward={kind}={path}: expected weights that PyTorch opens and runs "
            f"({type(error).__name__}: {reason_of(error)})"
        ) from None
    assert leaf.grad is not None
    found = scores.detach().cpu().numpy(), np.moveaxis(leaf.grad.cpu().numpy(), 1, -1)
    del score_fn, scores, leaf
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    return found


def _run_ours(reward: Any, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give our scores [2] and gradient like the pictures."""

    @jax.jit
    def run(params: Any, images: Any, prompt: Any) -> Any:
        def total(images: Any) -> Any:
            scores = reward.reward_fn(params, images, prompt)
            return jnp.sum(scores), scores

        slope, scores = jax.grad(total, has_aux=True)(images)
        return scores, slope

    with jax.default_matmul_precision("highest"):
        scores, slope = run(read_all(reward.params), images, reward.prepare(_PROMPTS))
    return np.asarray(scores), np.asarray(slope)
