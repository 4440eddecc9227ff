"""Weights are read where they are placed, and what is not finite is refused there, by file and tensor."""

import jax
import ml_dtypes
import numpy as np
import pytest
from flax.serialization import to_bytes
from safetensors.numpy import save_file

from rats_jax.errors import WeightsError
from rats_jax.weights.state_dict import open_weights
from rats_jax.weights.stored import StoredArray, is_finite, read_all, stored_stack

DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_one_number_that_is_not_finite_is_found_wherever_it_is(dtype, bad):
    size = 2**18 + 5  # more than is looked at together
    for place in (0, 2**18 - 1, size - 1):
        values = np.linspace(-3, 3, size).astype(dtype)
        assert is_finite(values)
        values[place] = bad
        assert not is_finite(values)
        assert not is_finite(values[::-1]) and not is_finite(values.reshape(size, 1, 1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_numbers_and_none_at_all_are_finite(dtype):
    largest = ml_dtypes.finfo(dtype).max
    assert is_finite(np.array([largest, largest, -largest], dtype))
    assert is_finite(np.zeros((0, 3), dtype)) and is_finite(np.array(-0.0, dtype))


SHAPES = {"conv": {"kernel": jax.ShapeDtypeStruct((3, 2), np.float32)}}


@pytest.mark.parametrize("suffix", [".safetensors", ".msgpack"])
def test_a_weight_that_is_not_finite_is_named_with_its_file(tmp_path, suffix):
    for bad, dtype in ((0.5, np.float32), (np.nan, np.float32), (np.inf, np.float32), (np.inf, np.float16)):
        kernel = np.array([[1, 2], [3, bad], [5, 6]], dtype)
        file = tmp_path / f"{bad}{suffix}"
        if suffix == ".msgpack":
            file.write_bytes(to_bytes({"conv": {"kernel": kernel}}))
            name = "conv/kernel"
        else:
            save_file({"conv.weight": np.ascontiguousarray(kernel.T)}, file)
            name = "conv.weight"
        weights = open_weights(file, SHAPES)["conv"]["kernel"]
        assert weights[slice(0, 1), slice(0, 2)].tolist() == [[1, 2]]  # a part without it
        if np.isfinite(bad):
            np.testing.assert_array_equal(read_all(weights), kernel)
            continue
        message = f"^weights '{file}', '{name}': expected finite numbers, some are nan or infinite$"
        for read in (read_all, lambda leaf: np.asarray(leaf.astype(ml_dtypes.bfloat16))):
            with pytest.raises(WeightsError, match=message):
                read(weights)


def test_so_is_a_layer_of_a_stack():
    layers = [np.full((2, 2), value, np.float32) for value in (1, np.nan)]
    stack = stored_stack([(layer, (0, 1)) for layer in layers], name="'file', 'blocks'")
    assert stack[slice(0, 1), slice(0, 2), slice(0, 2)].tolist() == [[[1, 1], [1, 1]]]
    with pytest.raises(WeightsError, match="weights 'file', 'blocks': expected finite"):
        np.asarray(stack)


def test_what_a_smaller_dtype_makes_infinite_is_refused():
    weights = StoredArray(np.array([1e30], np.float32), (0,), name="'file', 'w'")
    assert np.asarray(weights.astype(ml_dtypes.bfloat16))[0] > 9e29
    with np.errstate(over="ignore"), pytest.raises(WeightsError, match="'file', 'w'"):
        np.asarray(weights.astype(np.float16))
