"""The optimizer chain of the student."""

import jax.numpy as jnp
import optax


def make_optimizer(
    *,
    learning_rate: float,
    warmup_updates: int,
    decay_updates: int,
    clip_norm: float,
    b1: float,
    b2: float,
    weight_decay: float,
) -> optax.GradientTransformation:
    """Make AdamW behind a clip of the global gradient norm, with a linear warm-up and a linear decay.

    Update n = 0, 1, ... uses the learning rate times min(1, (n + 1) / warmup_updates) and
    max(0, 1 - n / decay_updates), either left out where its number of updates is 0: the first update moves.

    Args:
        learning_rate: the rate after warm-up, > 0.
        warmup_updates: updates of warm-up, >= 0.
        decay_updates: updates until the rate is 0, counted from the first; 0 keeps it constant.
        clip_norm: gradients of a larger global norm are scaled down to it, > 0.
        b1: decay of the first moment, 0 .. below 1.
        b2: decay of the second moment, 0 .. below 1.
        weight_decay: decoupled decay per unit of learning rate, >= 0.

    Returns:
        The transformation; its state is a pytree of arrays shaped as the params, and counters.

    Source:
        Loshchilov and Hutter, "Decoupled Weight Decay Regularization", arXiv 1711.05101, algorithm 2.
    """

    def rate(count):
        rate = learning_rate * jnp.minimum(1.0, (count + 1) / max(warmup_updates, 1))
        return rate * jnp.maximum(0.0, 1.0 - count / decay_updates) if decay_updates else rate

    return optax.chain(
        optax.clip_by_global_norm(clip_norm), optax.adamw(rate, b1=b1, b2=b2, weight_decay=weight_decay)
    )
