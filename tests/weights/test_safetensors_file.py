"""Safetensors files of every kind of number against PyTorch's, and files that are none."""

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from rats_jax.errors import WeightsError
from rats_jax.weights.safetensors_file import read_safetensors
from rats_jax.weights.state_dict import fit_state_dict, read_state_dict

FLOATS = "float64 float32 float16 bfloat16 float8_e4m3fn float8_e5m2".split()
INTEGERS = "int64 int32 int16 int8 uint8 bool".split()
VALUES = torch.tensor([[0.0, -1.5, 0.0156], [448.0, 3.0, -0.25]])


@pytest.mark.parametrize("kind", FLOATS)
def test_floats_are_the_numbers_that_pytorch_wrote(tmp_path, kind):
    tensor = VALUES.to(getattr(torch, kind))
    save_file({"a": tensor, "scalar": tensor[0, 1].clone(), "empty": tensor[:0]}, tmp_path / "w.safetensors")
    found = read_safetensors(tmp_path / "w.safetensors")
    np.testing.assert_array_equal(found["a"].astype(np.float64), tensor.to(torch.float64).numpy())
    assert (found["scalar"].shape, float(found["scalar"])) == ((), float(tensor[0, 1]))
    assert found["empty"].shape == (0, 3) and not found["a"].flags.writeable
    shapes = {"a": np.zeros((2, 3), np.float32)}
    fitted = fit_state_dict({"a": found["a"]}, shapes, source="w")["a"]
    np.testing.assert_array_equal(np.asarray(fitted[:, 1:]), tensor.to(torch.float32).numpy()[:, 1:])


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("kind", FLOATS[-2:])
def test_8_bit_floats_are_the_same_from_both_formats(tmp_path, kind, suffix):
    tensor = VALUES.to(getattr(torch, kind))
    (save_file if suffix == "safetensors" else torch.save)({"a": tensor}, tmp_path / f"w.{suffix}")
    found = read_state_dict(tmp_path / f"w.{suffix}")["a"]
    np.testing.assert_array_equal(found.astype(np.float32), tensor.to(torch.float32).numpy())


@pytest.mark.parametrize("kind", INTEGERS)
def test_integers_are_no_weights(tmp_path, kind):
    """Weights of a quantised model mean something with their scales alone; buffers are integers by right."""
    tensors = {"a": torch.ones(3).to(getattr(torch, kind)), "x.position_ids": torch.arange(3)}
    save_file(tensors, tmp_path / "w.safetensors")
    state = read_safetensors(tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=f"'w' does not fit .*: a holds {kind}, expected floating point"):
        fit_state_dict(state, {"a": np.zeros(3)}, source="w")
    fit_state_dict({**state, "a": np.zeros(3)}, {"a": np.zeros(3)}, source="w")


@pytest.mark.parametrize(("kind", "name"), [("complex64", "C64"), ("float8_e8m0fnu", "F8_E8M0")])
def test_other_numbers_are_refused_by_name(tmp_path, kind, name):
    save_file({"a": torch.ones(3).to(getattr(torch, kind))}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=f"w.safetensors' has 'a' in {name}: expected F64, F32,"):
        read_safetensors(tmp_path / "w.safetensors")


def test_what_was_read_stays_when_the_file_changes(tmp_path):
    save_file({"a": torch.ones(3)}, tmp_path / "w.safetensors")
    whole = (tmp_path / "w.safetensors").read_bytes()
    fitted = fit_state_dict(read_safetensors(tmp_path / "w.safetensors"), {"a": np.zeros(3)}, source="w")
    read = np.asarray(fitted["a"])
    with (tmp_path / "w.safetensors").open("r+b") as stream:
        stream.seek(len(whole) - 12)
        stream.write(np.full(3, 7, np.float32).tobytes())
    assert read.tolist() == [1, 1, 1] and np.asarray(fitted["a"]).tolist() == [7, 7, 7]


WHOLE = save({"a": torch.ones(100)})
DAMAGED = {
    "half": (WHOLE[: len(WHOLE) // 2], f"is cut short: it has {len(WHOLE) // 2} of {len(WHOLE)} bytes"),
    "all but a byte": (WHOLE[:-1], f"is cut short: it has {len(WHOLE) - 1} of {len(WHOLE)} bytes"),
    "half a header": (WHOLE[:20], "is no safetensors file, or a part of one"),
    "nothing": (b"", "is no safetensors file, or a part of one"),
    "zeros": (bytes(5000), "is no safetensors file, or a part of one"),
    "words": (b"not a safetensors file", "is no safetensors file, or a part of one"),
    "a PyTorch file": (b"PK\x03\x04" + bytes(100), "is a PyTorch checkpoint: expected a safetensors file"),
    "more than it says": (WHOLE + b"\0", "incomplete metadata, file not fully covered"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_what_is_no_whole_file_is_named(tmp_path, what):
    content, message = DAMAGED[what]
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match=rf"^weights file '.*w.safetensors' .*{message}") as error:
        read_safetensors(tmp_path / "w.safetensors")
    assert "\n" not in str(error.value)
