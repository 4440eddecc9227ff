"""State dicts: weights by their PyTorch names, read from either format and fitted into a Flax tree."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax.numpy as jnp
import numpy as np
from flax.serialization import msgpack_restore
from flax.traverse_util import flatten_dict, unflatten_dict

from rats_jax.errors import WeightsError
from rats_jax.weights.folder import read_json
from rats_jax.weights.hub import WEIGHT_SUFFIXES, find_file
from rats_jax.weights.naming import OTHER_NAMES, flax_axes, torch_name, unstack
from rats_jax.weights.safetensors_file import read_safetensors
from rats_jax.weights.stored import StoredArray, read_all, stored_stack
from rats_jax.weights.torch_file import read_torch_file, state_dict_of

StateDict = Mapping[str, np.ndarray]
"""Weights by PyTorch name, in PyTorch's layout."""


def read_shards(index: Path, find: Callable[[str], Path | None]) -> StateDict:
    """Open the files that an index names.

    Args:
        index: *.index.json.
        find: name of a file -> where it is, or None.

    Returns:
        The tensors of all of them.

    Raises:
        WeightsError: the index is damaged, or names a file that is not there, is damaged or lies elsewhere,
            or a file has other tensors than the index says: fewer, or more.
    """
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()) or not files:
        raise WeightsError(f"{str(index)!r}: expected a 'weight_map' of names of tensors to names of files")
    shards: dict[str, Path] = {}
    for file in sorted(set(files.values())):
        found = find(file) if _is_shard(file) else None
        if found is None:
            raise WeightsError(f"{str(index)!r} names {file!r}: expected that file of weights beside it")
        shards[file] = found
    state: dict[str, np.ndarray] = {}
    for file, found in shards.items():
        tensors, named = read_state_dict(found), {name for name in files if files[name] == file}
        if lacking := sorted(named - set(tensors)):
            raise WeightsError(f"{str(index)!r} says that {lacking[0]!r} is in {file!r}: expected it there")
        if extra := sorted(set(tensors) - named):
            place = f"is in {files[extra[0]]!r}" if extra[0] in files else "is nowhere"
            raise WeightsError(f"{str(index)!r} says that {extra[0]!r} {place}: it is in {file!r} too")
        state |= tensors
    return state


def _is_shard(name: str) -> bool:
    """Tell whether an index may name a file: one of weights, beside it."""
    return Path(name).name == name and Path(name).suffix in WEIGHT_SUFFIXES


def read_state_dict(file: Path, find: Callable[[str], Path | None] | None = None) -> StateDict:
    """Read a safetensors file, or a PyTorch checkpoint through an unpickler that admits only tensors.

    Args:
        file: *.safetensors, the index of several files, or anything else as a zip checkpoint of PyTorch 1.6
            and later (.pt, .pth, .bin).
        find: of the files that an index names, see `read_shards`; None is beside the index.

    Returns:
        The state dict; of a checkpoint with more in it, the part under "state_dict".

    Raises:
        WeightsError: no such file, damaged, or something else than tensors in it.
    """
    if file.suffix == ".json":
        return read_shards(file, find or (lambda name: find_file(str(file.parent), name)))
    if file.suffix == ".safetensors":
        return read_safetensors(file)
    return state_dict_of(read_torch_file(file), source=str(file))


def is_float(tensor: Any) -> bool:
    """Tell whether a tensor holds weights: quantised ones are integers, which mean nothing by themselves."""
    return jnp.issubdtype(tensor.dtype, np.floating)


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
    layout = _Layout(lambda path: [prefix + give(path) for give in (name_of, *OTHER_NAMES)], flax_axes)
    # Buffers that old exports carry and no network learns.
    skipped = {name for name in state if name.endswith("position_ids") or name.startswith(unused)}
    return _fit(state, abstract_params, layout, source=source, skipped=skipped)


class _Layout(NamedTuple):
    """How a file names the parameter of one layer, and lays it out.

    Attributes:
        names_of: path in the tree -> the names that it may have, the first one today's.
        axes_of: (path, shape of the tensor, number of axes of the parameter) -> axes, as of `StoredArray`.
    """

    names_of: Callable[[tuple[str, ...]], Sequence[str]]
    axes_of: Callable[[tuple[str, ...], tuple[int, ...], int], Sequence[int | None]]


_FLAX_LAYOUT = _Layout(lambda path: ["/".join(path)], lambda path, shape, ndim: range(len(shape)))


def _fit(
    state: StateDict, abstract_params: Any, layout: _Layout, *, source: str, skipped: Collection[str] = ()
) -> dict[str, Any]:
    wanted = cast(Mapping[tuple[str, ...], Any], flatten_dict(abstract_params))
    params: dict[tuple[str, ...], StoredArray] = {}
    problems, used = [], set()
    for path, leaf in wanted.items():
        layers, shape = unstack(path), tuple(leaf.shape)
        tensors = []
        for layer, expected in (
            [(path, shape)] if layers is None else [(layer, shape[1:]) for layer in layers]
        ):
            names = layout.names_of(layer)
            present = [name for name in names if name in state]
            if not present:
                problems.append(f"missing {names[0]}")
                continue
            used.update(present)
            name = present[0]
            tensor = state[name]
            axes = layout.axes_of(layer, tensor.shape, len(expected))
            found = StoredArray(tensor, axes).shape
            if not is_float(tensor):
                problems.append(f"{name} holds {tensor.dtype}, expected floating point numbers")
            elif found == expected:
                tensors.append((tensor, axes))
            else:
                problems.append(f"{name} has shape {found} (Flax layout), expected {expected}")
        if layers is None and tensors:
            params[path] = StoredArray(*tensors[0], name=f"{source!r}, {layout.names_of(path)[0]!r}")
        elif layers is not None and len(tensors) == len(layers):
            params[path] = stored_stack(tensors, name=f"{source!r}, layers {'/'.join(path)!r}")
    problems += [f"unexpected {name}" for name in sorted(set(state) - used - set(skipped))]
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise WeightsError(f"weights file {source!r} does not fit its architecture: {shown}")
    return unflatten_dict(params)


def open_weights(
    file: Path, abstract_params: Any, *, find: Callable[[str], Path | None] | None = None
) -> dict[str, Any]:
    """Find the weights of a network in its files: in PyTorch's names, or Flax's own msgpack.

    Args:
        file: *.msgpack, which is read whole, or as for `read_state_dict`; tensors of safetensors files are
            not read yet.
        abstract_params: as for `fit_state_dict`.
        find: as for `read_state_dict`.

    Returns:
        A nested dict like `abstract_params`; its leaves are StoredArray.

    Raises:
        WeightsError: damaged, or weights are missing, extra or of another shape; names them.
    """
    if file.suffix != ".msgpack":
        return fit_state_dict(read_state_dict(file, find), abstract_params, source=str(file))
    try:
        content: Any = flatten_dict(msgpack_restore(file.read_bytes()))
        state = {"/".join(map(str, path)): np.asarray(value) for path, value in content.items()}
    except Exception as error:  # msgpack has an error type for each kind of damage
        reason = " ".join(str(error).split())
        raise WeightsError(f"weights file {str(file)!r} is not a readable msgpack file: {reason}") from None
    return _fit(state, abstract_params, _FLAX_LAYOUT, source=str(file))


def load_safetensors(file: Path, abstract_params: Any, *, prefix: str = "") -> dict[str, Any]:
    """Read a safetensors file into a Flax tree of float32 NumPy arrays; raises as `fit_state_dict` does."""
    return read_all(fit_state_dict(read_safetensors(file), abstract_params, source=str(file), prefix=prefix))
