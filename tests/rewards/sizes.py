"""Numbers of weights of published networks, worked out by hand."""

import jax


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def layer(width, hidden, *, context=None):
    """Attention of four biased maps, two norms, two maps in between; and a second attention to a context."""
    attention = 4 * width * width + 4 * width
    between = 2 * width * hidden + hidden + width
    cross = 0 if context is None else 2 * (width + context) * width + 4 * width + 2 * width
    return attention + between + 4 * width + cross


# Patches without bias, class token, positions, two norms around the layers, projection, logit scale.
VIT_H = 3 * 14 * 14 * 1280 + 1280 + 257 * 1280 + 4 * 1280 + 32 * layer(1280, 5120) + 1280 * 1024 + 1
VIT_L = 3 * 14 * 14 * 1024 + 1024 + 257 * 1024 + 4 * 1024 + 24 * layer(1024, 4096) + 1024 * 768 + 1
