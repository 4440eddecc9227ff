"""Reward-Aware Trajectory Shaping (RATS) of few-step generators, in JAX.

model = rats_jax.load(path)
images = model(["a black cat"], num_steps=4, seed=0)  # [B, H, W, 3] in [0, 1]
score = rats_jax.load_reward("pickscore")
scores = score(images, ["a black cat"])  # [B]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rats_jax.parallel import environment

if TYPE_CHECKING:
    from rats_jax.evaluation.reward import load_reward
    from rats_jax.student.load import load

__all__ = ["load", "load_reward"]
__version__ = "0.1.0"

environment.leave_out_wrong_sums()


def __getattr__(name: str) -> Any:
    """Import what is public when it is first asked for: jax and diffusers take seconds."""
    if name == "load":
        from rats_jax.student.load import load

        return load
    if name == "load_reward":
        from rats_jax.evaluation.reward import load_reward

        return load_reward
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return ["__version__", *__all__]
