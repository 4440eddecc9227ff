"""Running moments of a reward, or of the gap between two: the scale on which they vary."""

from __future__ import annotations

from collections.abc import Mapping

import chex
import jax
import jax.numpy as jnp

from rats_jax.types import Array, Moments


def init_moments() -> Moments:
    """Start with nothing seen.

    Returns:
        Moments of float32 scalars, all 0; each its own buffer, so that a state can be donated.
    """
    return Moments(*(jnp.zeros((), jnp.float32) for _ in Moments._fields))


def update_moments(moments: Moments, values: Array, *, decay: float) -> Moments:
    """Move running moments towards those of one batch.

    m <- decay * m + (1 - decay) * mean_b(x), the same for x^2 and for 1; dividing by the last corrects the
    bias of starting at 0.

    Args:
        moments: float32 scalars.
        values: x, [B] float32, of the global batch.
        decay: in [0, 1).

    Returns:
        Moments of float32 scalars; no gradient flows into values.

    Raises:
        ValueError: decay outside [0, 1).

    Source: Kingma and Ba, Adam, arXiv 1412.6980, section 3 (bias correction).
    """
    chex.assert_rank(values, 1)
    chex.assert_type(values, float)
    if not 0.0 <= decay < 1.0:
        raise ValueError(f"decay is {decay}, expected a number in [0, 1)")
    # State, not loss: a scale made of it must not reach the student either.
    values = jax.lax.stop_gradient(values)
    observed = Moments(
        mean=jnp.mean(values), mean_square=jnp.mean(jnp.square(values)), weight=jnp.ones((), jnp.float32)
    )
    return jax.tree.map(lambda old, new: decay * old + (1.0 - decay) * new, moments, observed)


def mean(moments: Moments) -> Array:
    """Read the running mean, float32 scalar; 0 before the first batch."""
    return moments.mean / _seen(moments)


def _seen(moments: Moments) -> Array:
    """Give the weight seen so far; 1 before the first batch."""
    return jnp.where(moments.weight > 0.0, moments.weight, 1.0)


def std(moments: Moments, *, eps: float) -> Array:
    """Read the running standard deviation, never below a floor.

    max(sqrt(E[x^2] - E[x]^2), eps), both moments divided by the weight seen so far. In float32 the difference
    is good to 1 % while the deviation is above a hundredth of the mean.

    Args:
        moments: float32 scalars.
        eps: the floor, positive, in units of x; also the answer before the first batch.

    Returns:
        float32 scalar, at least eps.

    Raises:
        ValueError: eps that is not positive.
    """
    chex.assert_rank(list(moments), 0)
    if not eps > 0.0:
        raise ValueError(f"eps is {eps}, expected a positive number")
    mean_square = moments.mean_square / _seen(moments)
    return jnp.sqrt(jnp.maximum(mean_square - jnp.square(mean(moments)), eps**2))


def follow(
    moments: Mapping[str, Moments], scores: Mapping[str, Mapping[str, Array]], *, decay: float
) -> dict[str, Moments]:
    """Move the running moments of rewards towards those of a batch, over both contestants.

    Args:
        moments: of each reward that is normalised, by name.
        scores: of "teacher" and "student", each reward [B] float32 by name.
        decay: as of `update_moments`.

    Returns:
        Moments by name; no gradient flows into the scores.
    """
    both = {name: jnp.concatenate([scores[who][name] for who in ("teacher", "student")]) for name in moments}
    return {name: update_moments(old, both[name], decay=decay) for name, old in moments.items()}
