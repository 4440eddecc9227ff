"""State dicts: weights by their PyTorch names, read from either format and fitted into a Flax tree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from flax.serialization import msgpack_restore
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import safe_open

from rats_jax.errors import WeightsError
from rats_jax.weights.folder import read_json
from rats_jax.weights.naming import OTHER_NAMES, flax_axes, torch_name, unstack
from rats_jax.weights.stored import Sliceable, StoredArray, read_all, stored_stack
from rats_jax.weights.torch_file import read_torch_file, state_dict_of

StateDict = Mapping[str, np.ndarray]
"""Weights by PyTorch name, in PyTorch's layout."""


class _Tensor:
    """A tensor of an open safetensors file, of which parts can be read."""

    def __init__(self, archive: Any, name: str):
        self._archive, self._name = archive, name
        self.shape = tuple(archive.get_slice(name).get_shape())

    def __getitem__(self, index: Any) -> np.ndarray:
        if not self.shape:  # safetensors cannot slice a scalar
            return np.asarray(self._archive.get_tensor(self._name))
        return self._archive.get_slice(self._name)[index]


class _Safetensors(Mapping[str, np.ndarray]):
    """The tensors of an open safetensors file, each read when it is asked for."""

    def __init__(self, archive: Any):
        self._archive, self._names = archive, dict.fromkeys(archive.keys())

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        return self._archive.get_tensor(name)

    def locate(self, name: str) -> _Tensor:
        """Give a tensor without reading it."""
        return _Tensor(self._archive, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class _Shards(Mapping[str, np.ndarray]):
    """The tensors of several open safetensors files."""

    def __init__(self, shards: Mapping[str, _Safetensors]):
        self._shards = shards  # by name of the tensor

    def __getitem__(self, name: str) -> np.ndarray:
        return self._shards[name][name]

    def locate(self, name: str) -> _Tensor:
        """Give a tensor without reading it."""
        return self._shards[name].locate(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shards)

    def __len__(self) -> int:
        return len(self._shards)


def read_shards(index: Path, find: Callable[[str], Path | None]) -> StateDict:
    """Open the safetensors files that an index names.

    Args:
        index: *.safetensors.index.json.
        find: name of a file -> where it is, or None.

    Raises:
        WeightsError: the index is damaged, or names a file that is not there or is damaged, or a tensor that
            its file does not have.
    """
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()) or not files:
        raise WeightsError(f"{str(index)!r}: expected a 'weight_map' of names of tensors to names of files")
    shards = {}
    for file in sorted(set(files.values())):
        found = find(file)
        if found is None:
            raise WeightsError(f"{str(index)!r} names {file!r}: expected that file beside it")
        shards[file] = read_safetensors(found)
    for name, file in files.items():
        if name not in shards[file]:
            raise WeightsError(f"{str(index)!r} says that {name!r} is in {file!r}: expected it there")
    return _Shards({name: shards[file] for name, file in files.items()})


def read_safetensors(file: Path) -> _Safetensors:
    """Open a safetensors file.

    Raises:
        WeightsError: no such file, or damaged.
    """
    if not file.is_file():
        raise WeightsError(f"weights file {str(file)!r} does not exist")
    try:
        return _Safetensors(safe_open(str(file), framework="numpy"))
    except Exception as error:  # safetensors raises its own Rust error type for damaged files
        raise WeightsError(
            f"weights file {str(file)!r} is not a readable safetensors file: {error}"
        ) from None


def read_state_dict(file: Path) -> StateDict:
    """Read a safetensors file, or a PyTorch checkpoint through an unpickler that admits only tensors.

    Args:
        file: *.safetensors, or anything else as a zip checkpoint of PyTorch 1.6 and later (.pt, .pth, .bin).

    Returns:
        The state dict; of a checkpoint with more in it, the part under "state_dict".

    Raises:
        WeightsError: no such file, damaged, or something else than tensors in it.
    """
    if file.suffix == ".safetensors":
        return read_safetensors(file)
    return state_dict_of(read_torch_file(file), source=str(file))


def fit_state_dict(
    state: StateDict,
    abstract_params: Any,
    *,
    source: str,
    prefix: str = "",
    unused: tuple[str, ...] = (),
    name_of: Callable[[tuple[str, ...]], str] = torch_name,
) -> dict[str, Any]:
    """Arrange a state dict as a Flax parameter tree; what lies in a safetensors file stays there unread.

    Args:
        state: weights by PyTorch name.
        abstract_params: nested dict of anything with `.shape`: the tree to fill.
        source: of the weights, for the message.
        prefix: what stands before every name in the state dict.
        unused: prefixes of the names that may be left over, because this tree needs only a part of them.
        name_of: path in the tree -> name.

    Returns:
        A nested dict like `abstract_params`; its leaves are StoredArray.

    Raises:
        WeightsError: weights are missing, extra or of another shape; names them.
    """
    wanted = cast(Mapping[tuple[str, ...], Any], flatten_dict(abstract_params))
    locate: Callable[[str], Sliceable] = (
        state.locate if isinstance(state, _Safetensors | _Shards) else state.__getitem__
    )
    params: dict[tuple[str, ...], StoredArray] = {}
    problems, used = [], set()
    for path, leaf in wanted.items():
        layers, shape = unstack(path), tuple(leaf.shape)
        tensors = []
        for layer, expected in (
            [(path, shape)] if layers is None else [(layer, shape[1:]) for layer in layers]
        ):
            names = [prefix + give(layer) for give in (name_of, *OTHER_NAMES)]
            present = [name for name in names if name in state]
            if not present:
                problems.append(f"missing {names[0]}")
                continue
            used.update(present)
            name = present[0]
            tensor = locate(name)
            axes = flax_axes(layer, tensor.shape, len(expected))
            found = StoredArray(tensor, axes).shape
            if found == expected:
                tensors.append((tensor, axes))
            else:
                problems.append(f"{name} has shape {found} (Flax layout), expected {expected}")
        if layers is None and tensors:
            params[path] = StoredArray(*tensors[0], name=f"{source!r}, {name_of(path)!r}")
        elif layers is not None and len(tensors) == len(layers):
            params[path] = stored_stack(tensors, name=f"{source!r}, layers {'/'.join(path)!r}")
    # Buffers that old exports carry and no network learns.
    extra = {n for n in state if not n.endswith("position_ids") and not n.startswith(unused)} - used
    problems += [f"unexpected {name}" for name in sorted(extra)]
    _raise_problems(problems, source=source)
    return unflatten_dict(params)


def open_weights(
    file: Path, abstract_params: Any, *, find: Callable[[str], Path | None] = lambda name: None
) -> dict[str, Any]:
    """Find the weights of a network in its files: safetensors in PyTorch's names, or Flax's own msgpack.

    Args:
        file: *.safetensors or the index of several such, whose tensors are not read yet, or *.msgpack, which
            is read whole.
        abstract_params: as for `fit_state_dict`.
        find: of the files that an index names, see `read_shards`.

    Returns:
        A nested dict like `abstract_params`; its leaves are StoredArray.

    Raises:
        WeightsError: damaged, or weights are missing, extra or of another shape; names them.
    """
    if file.suffix == ".json":
        return fit_state_dict(read_shards(file, find), abstract_params, source=str(file))
    if file.suffix != ".msgpack":
        return fit_state_dict(read_safetensors(file), abstract_params, source=str(file))
    try:
        flat: Mapping[Any, Any] = cast(Any, flatten_dict(msgpack_restore(file.read_bytes())))
    except Exception as error:  # msgpack has an error type for each kind of damage
        reason = " ".join(str(error).split())
        raise WeightsError(f"weights file {str(file)!r} is not a readable msgpack file: {reason}") from None
    wanted = cast(Mapping[tuple[str, ...], Any], flatten_dict(abstract_params))
    problems = [f"missing {'/'.join(path)}" for path in wanted if path not in flat]
    problems += [f"unexpected {'/'.join(path)}" for path in flat if path not in wanted]
    problems += [
        f"{'/'.join(path)} has shape {np.shape(flat[path])}, expected {tuple(leaf.shape)}"
        for path, leaf in wanted.items()
        if path in flat and np.shape(flat[path]) != tuple(leaf.shape)
    ]
    _raise_problems(problems, source=str(file))
    return unflatten_dict(
        {
            path: StoredArray(flat[path], range(leaf.ndim), name=f"{str(file)!r}, {'/'.join(path)!r}")
            for path, leaf in wanted.items()
        }
    )


def _raise_problems(problems: list[str], *, source: str) -> None:
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise WeightsError(f"weights file {source!r} does not fit its architecture: {shown}")


def load_safetensors(file: Path, abstract_params: Any, *, prefix: str = "") -> dict[str, Any]:
    """Read a safetensors file into a Flax tree of float32 NumPy arrays; raises as `fit_state_dict` does."""
    return read_all(fit_state_dict(read_safetensors(file), abstract_params, source=str(file), prefix=prefix))
