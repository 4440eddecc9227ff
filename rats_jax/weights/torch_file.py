"""PyTorch checkpoints (.pt, .pth, .bin) without PyTorch, and without running the code that they may hold.

A checkpoint of torch >= 1.6 is a zip archive: <any>/data.pkl is a pickle of the object that was saved, in
which each tensor names its storage, and <any>/data/<key> are the bytes of that storage. A pickle can call
whatever it can import, so the unpickler here imports nothing: each global is a stand-in from `_ALLOWED`.
"""

from __future__ import annotations

import dataclasses
import io
import math
import pickle
import pickletools
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from rats_jax.errors import WeightsError
from rats_jax.weights.pickle_depth import tuple_depth

_RESAVE = "save it again with torch >= 1.6 or as safetensors"
_MOST_DEEP = 100


class _RefusedError(Exception):
    """Why a file is refused, as the rest of a sentence that begins with its name."""


class _StandIn:
    """What a pickle holds in place of an object of PyTorch."""

    def __setstate__(self, state: Any) -> None:
        # The opcode BUILD calls this if it is there, and else writes attributes, be they frozen or not.
        raise _RefusedError("sets the attributes of a global in its pickle: refused")


@dataclass(frozen=True)
class _Function(_StandIn):
    function: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


@dataclass(frozen=True)
class _StorageType(_StandIn):
    dtype: np.dtype


@dataclass(frozen=True)
class _Storage(_StandIn):
    dtype: np.dtype
    data: bytes
    numel: int


class _OrderedDict(OrderedDict):
    """An OrderedDict that drops its pickled attributes (`_metadata`), lest one of them hide a method."""

    def __setstate__(self, state: Any) -> None:
        pass


def _rebuild_tensor(
    storage: Any, offset: Any, shape: Any, stride: Any, _grad: Any, _hooks: Any, metadata: Any = None
) -> np.ndarray:
    """Stand in for torch._utils._rebuild_tensor_v2; offset and stride count elements."""
    tuples = isinstance(shape, tuple) and isinstance(stride, tuple)
    if not isinstance(storage, _Storage) or not tuples or not len(shape) == len(stride) <= 64:
        raise _RefusedError("has a tensor without storage or one stride per dimension: refused")
    if any(type(n) is not int or n < 0 for n in (offset, *shape, *stride)):
        raise _RefusedError("has a tensor whose offset, shape or stride is negative or no integer: refused")
    what = f"has a tensor of shape {shape!r:.80}, stride {stride!r:.80} and offset {offset!r:.80}"
    if metadata:
        raise _RefusedError(f"{what} that is a conjugate or negative view: call .clone() before saving")
    count = math.prod(shape)
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True)) if count else offset - 1
    if last >= storage.numel:
        raise _RefusedError(f"{what}: outside its storage of {storage.numel} elements: refused")
    # An expanded tensor of a few bytes would fill the memory of whoever copies it.
    if count > storage.numel:
        raise _RefusedError(f"{what}: repeats its {storage.numel} elements: call .contiguous() before saving")
    size = storage.dtype.itemsize
    return np.ndarray(shape, storage.dtype, storage.data, offset * size, [s * size for s in stride])


def _rebuild_small(
    storage: Any, offset: Any, shape: Any, stride: Any, grad: Any, hooks: Any, kind: Any, metadata: Any = None
) -> np.ndarray:
    """Stand in for torch._utils._rebuild_tensor_v3, of the numbers of 8 bits that came after its storages."""
    if not isinstance(storage, _Storage) or not isinstance(kind, _StorageType):
        raise _RefusedError("has a tensor without storage or kind of numbers: refused")
    if storage.dtype.itemsize != kind.dtype.itemsize:
        raise _RefusedError(f"has a tensor of {kind.dtype} in a storage of {storage.dtype}: refused")
    typed = dataclasses.replace(storage, dtype=kind.dtype)
    return _rebuild_tensor(typed, offset, shape, stride, grad, hooks, metadata)


def _rebuild_parameter(data: Any, _grad: Any, _hooks: Any) -> np.ndarray:
    """Stand in for torch._utils._rebuild_parameter."""
    if not isinstance(data, np.ndarray):
        raise _RefusedError("has a Parameter that is no tensor: refused")
    return data


_DTYPES = {
    "Float": np.float32,
    "Half": np.float16,
    "BFloat16": ml_dtypes.bfloat16,
    "Double": np.float64,
    "Long": np.int64,
    "Int": np.int32,
    "Short": np.int16,
    "Char": np.int8,
    "Byte": np.uint8,
    "Bool": np.bool_,
}
_ALLOWED: dict[tuple[str, str], _StandIn] = {
    ("collections", "OrderedDict"): _Function(_OrderedDict),
    ("torch._utils", "_rebuild_tensor_v2"): _Function(_rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v3"): _Function(_rebuild_small),
    ("torch._utils", "_rebuild_parameter"): _Function(_rebuild_parameter),
    ("torch.storage", "UntypedStorage"): _StorageType(np.dtype(np.uint8)),
    ("torch", "float8_e4m3fn"): _StorageType(np.dtype(ml_dtypes.float8_e4m3fn)),
    ("torch", "float8_e5m2"): _StorageType(np.dtype(ml_dtypes.float8_e5m2)),
    **{("torch", f"{name}Storage"): _StorageType(np.dtype(dtype)) for name, dtype in _DTYPES.items()},
}


class _Records:
    """The records of an archive, which together are no larger than the file."""

    def __init__(self, archive: zipfile.ZipFile, file_size: int):
        self._archive, self._left = archive, file_size
        self._infos = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in self._infos if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise _RefusedError(f"is a zip with {len(pickles)} data.pkl in it, expected one: {_RESAVE}")
        self._folder = pickles[0].removesuffix("data.pkl")
        inside = [name.removeprefix(self._folder) for name in self._infos]
        if any(name.startswith(("constants.pkl", "code/")) for name in inside):
            raise _RefusedError("is a TorchScript archive, which is a program: save its state_dict() instead")

    def read(self, name: str, default: bytes | None = None) -> bytes:
        """Read a record, whole and as it lies there: PyTorch compresses nothing, a zip bomb has to."""
        info = self._infos.get(self._folder + name)
        if info is None:
            if default is None:
                raise _RefusedError(f"lacks the record {name!r}: damaged")
            return default
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise _RefusedError(f"has a compressed or encrypted record {name!r}: refused; {_RESAVE}")
        self._left -= info.file_size
        data = self._archive.read(info) if self._left >= 0 else b""
        if len(data) != info.file_size:
            raise _RefusedError(f"lacks some of the {info.file_size} bytes of the record {name!r}: damaged")
        return data


class _Unpickler(pickle.Unpickler):
    """Admits numbers, text, plain containers and what `_ALLOWED` lists."""

    def __init__(self, pickled: bytes, records: _Records):
        super().__init__(io.BytesIO(pickled), encoding="utf-8")
        self._records, self._data = records, {}

    def find_class(self, module: str, name: str) -> Any:
        asked = f"{module}.{name}"
        if (module, name) not in _ALLOWED:
            raise _RefusedError(f"asks for {asked!r:.120}, which is no tensor of a plain kind: refused")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", _StorageType(dtype=dtype), str(key), str(), int(numel)) if numel >= 0:
                pass
            case _:
                raise _RefusedError("refers to something that is no storage: refused")
        if not re.fullmatch("[0-9]{1,20}", key):
            raise _RefusedError(f"refers to a storage {key!r:.80}, which is no number: refused")
        if key not in self._data:  # tied weights share their bytes
            self._data[key] = self._records.read(f"data/{key}")
        data = self._data[key]
        if len(data) < numel * dtype.itemsize:
            raise _RefusedError(f"has a storage {key!r} of fewer than {numel!r:.80} {dtype}: damaged")
        return _Storage(dtype, data, numel)


def _unpickle(records: _Records) -> Any:
    if records.read("byteorder", b"little") != b"little":
        raise _RefusedError("was written on a big-endian machine: save it again on a little-endian one")
    pickled = records.read("data.pkl")
    # Two opcodes do harm without find_class: the memo grows to PUT's index, and a cache holds what EXT names.
    for opcode, argument, _ in pickletools.genops(pickled):
        oversized = opcode.name.endswith("PUT") and int(argument or 0) > len(pickled)
        if oversized or opcode.name.startswith("EXT"):
            raise _RefusedError(f"has the opcode {opcode.name} {argument!r:.40} in its pickle: refused")
    if (depth := tuple_depth(pickled)) > _MOST_DEEP:
        raise _RefusedError(f"has {depth} tuples inside each other in its pickle: refused")
    return _Unpickler(pickled, records).load()


def read_torch_file(file: Path) -> Any:
    """Read what `torch.save` wrote, if it is made of tensors, plain containers, numbers and text.

    Args:
        file: a zip checkpoint of torch >= 1.6, from anyone: nothing in it is run.

    Returns:
        The object; tensors and Parameters as np.ndarray (read-only, bfloat16 of ml_dtypes), which share
        memory where they shared a storage. An OrderedDict comes without its attributes.

    Raises:
        WeightsError: no such file, of another format, damaged, or with something else in it; names what.
    """
    try:
        with file.open("rb") as stream:
            if stream.read(2) != b"PK":
                raise _RefusedError(f"is no zip archive: {_RESAVE}")
            with zipfile.ZipFile(stream) as archive:
                return _unpickle(_Records(archive, file.stat().st_size))
    except _RefusedError as error:
        reason = str(error)
    except FileNotFoundError:
        reason = "does not exist"
    except zipfile.BadZipFile:
        reason = "is a zip archive that is cut short or damaged"
    except OSError as error:
        reason = f"cannot be read ({error.strerror or type(error).__name__})"
    except Exception as error:  # the wrong bytes make zipfile and pickle raise nearly everything
        reason = f"cannot be read, it may be damaged ({type(error).__name__}: {str(error)!r:.160})"
    raise WeightsError(f"weights file {str(file)!r} {reason}")


def state_dict_of(content: Any, *, source: str) -> dict[str, np.ndarray]:
    """Take the state dict out of the content of a checkpoint.

    Args:
        content: from `read_torch_file`: tensors by name, or a mapping with those under "state_dict" or
            "model".
        source: of the content, for the message.

    Returns:
        The tensors by name, without the "module." before every name that DataParallel puts there.

    Raises:
        WeightsError: anything else than named tensors; says what there is.
    """
    if isinstance(content, Mapping):
        parts = (content.get(part) for part in ("state_dict", "model"))
        content = next((part for part in parts if isinstance(part, Mapping)), content)
    if problem := _problem_of(content):
        raise WeightsError(f"weights file {source!r} holds {problem}; expected tensors by name")
    prefix = "module." if all(name.startswith("module.") for name in content) else ""
    return {name.removeprefix(prefix): value for name, value in content.items()}


def _problem_of(content: Any) -> str:
    """Say what in `content` makes it no state dict; nothing if it is one."""
    if not isinstance(content, Mapping):
        return f"one {type(content).__name__}"
    for name, value in content.items():
        if not isinstance(name, str):
            return f"a name of type {type(name).__name__}"
        if not isinstance(value, np.ndarray):
            return f"{name!r:.80} of type {type(value).__name__}, which is no tensor"
    return "" if content else "no tensors"
