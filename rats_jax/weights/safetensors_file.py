"""Safetensors files as arrays that stay in them: a header of names, then the bytes of each tensor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import safe_open

from rats_jax.errors import WeightsError, reason_of

_DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def read_safetensors(file: Path) -> dict[str, np.ndarray]:
    """Open a safetensors file.

    Args:
        file: of numbers that NumPy and ml_dtypes have, those of 8 bits among them.

    Returns:
        Read-only arrays by name, each mapped: what is not asked for is not read.

    Raises:
        WeightsError: no such file, cut short, damaged, or of other numbers.
    """
    try:
        file.open("rb").close()  # whose errors say more than those of safe_open
        with safe_open(str(file), framework="numpy"):  # it checks that the tensors are all of the file
            pass
        size, header = _read_header(file)
    except FileNotFoundError:
        raise WeightsError(f"weights file {str(file)!r} does not exist") from None
    except OSError as error:
        raise WeightsError(f"weights file {str(file)!r} cannot be read ({reason_of(error)})") from None
    except Exception as error:  # safetensors raises its own Rust error type for damaged files
        reason = _damage(file) or reason_of(error)
        raise WeightsError(f"weights file {str(file)!r} {reason}") from None
    for name, tensor in header.items():
        if tensor["dtype"] not in _DTYPES:
            raise WeightsError(
                f"weights file {str(file)!r} has {name!r} in {tensor['dtype']}: expected {', '.join(_DTYPES)}"
            )
    content = np.memmap(file, np.uint8, mode="r")
    return {
        name: np.ndarray(
            tensor["shape"], _DTYPES[tensor["dtype"]], content, size + 8 + tensor["data_offsets"][0]
        )
        for name, tensor in header.items()
    }


def _read_header(file: Path) -> tuple[int, dict[str, Any]]:
    """Give the bytes of a header, and what it says of each tensor: dtype, shape, data_offsets."""
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if size > file.stat().st_size:
            raise ValueError("no header")
        header = json.loads(stream.read(size))
    return size, {name: tensor for name, tensor in header.items() if name != "__metadata__"}


def _damage(file: Path) -> str:
    """Say in what way a file is no safetensors file, where that can be told."""
    with file.open("rb") as stream:
        if stream.read(2) == b"PK":
            return "is a PyTorch checkpoint: expected a safetensors file, or a name that ends in .bin"
    try:
        size, header = _read_header(file)
        whole = 8 + size + max(tensor["data_offsets"][1] for tensor in header.values())
    except Exception:  # no header at all
        return "is no safetensors file, or a part of one"
    found = file.stat().st_size
    return f"is cut short: it has {found} of {whole} bytes" if found < whole else ""
