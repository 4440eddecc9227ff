"""Weights of stacks of layers: read from files of one tensor a layer, part by part, and written as such."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.serialization import to_bytes
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.torch import save_file

from rats_jax.errors import WeightsError
from rats_jax.weights.naming import to_torch_names, torch_sizes, unstack, unstack_params
from rats_jax.weights.state_dict import open_weights
from rats_jax.weights.stored import StoredArray, read_all

SHAPES = {
    ("blocks_1_to_3", "attn", "to_out_0", "kernel"): (3, 4, 6),
    ("blocks_1_to_3", "attn", "to_out_0", "bias"): (3, 6),
    ("blocks_1_to_3", "norm", "scale"): (3, 5),
    ("blocks_1_to_3", "conv", "kernel"): (3, 2, 3, 4, 6),
    ("blocks_1_to_3", "gate"): (3,),
    ("blocks_0_to_0", "norm", "scale"): (1, 5),
    ("norm_out", "linear", "kernel"): (4, 6),
}
TENSORS = {
    "blocks.0.norm.weight": (5,),
    **{f"blocks.{i}.attn.to_out.0.weight": (6, 4) for i in (1, 2, 3)},
    **{f"blocks.{i}.attn.to_out.0.bias": (6,) for i in (1, 2, 3)},
    **{f"blocks.{i}.norm.weight": (5,) for i in (1, 2, 3)},
    **{f"blocks.{i}.conv.weight": (6, 4, 2, 3) for i in (1, 2, 3)},
    **{f"blocks.{i}.gate": () for i in (1, 2, 3)},
    "norm_out.linear.weight": (6, 4),
}
ABSTRACT = unflatten_dict({path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in SHAPES.items()})
KERNEL, CONV = ("blocks_1_to_3", "attn", "to_out_0", "kernel"), ("blocks_1_to_3", "conv", "kernel")


def draw(dtype):
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in TENSORS.items()}


@pytest.fixture(params=[torch.float32, torch.float16, torch.bfloat16], ids=str)
def stored(request, tmp_path):
    """A file, its tensors, and a function that writes other tensors to it."""
    file, tensors = tmp_path / "weights.safetensors", draw(request.param)

    def store(changed):
        save_file(changed, str(file))
        return file

    return store(tensors), tensors, store


def test_layers_are_found_by_their_names(stored):
    file, tensors, _ = stored
    found = flatten_dict(open_weights(file, ABSTRACT))
    assert {path: leaf.shape for path, leaf in found.items()} == SHAPES
    assert all(type(leaf) is StoredArray and leaf.dtype == np.float32 for leaf in found.values())
    kernel, conv, gate = (np.asarray(found[path]) for path in (KERNEL, CONV, ("blocks_1_to_3", "gate")))
    for i, layer in enumerate((1, 2, 3)):
        exact = {
            name: tensors[f"blocks.{layer}.{name}"].float().numpy()
            for name in ("attn.to_out.0.weight", "conv.weight", "gate")
        }
        np.testing.assert_array_equal(kernel[i], exact["attn.to_out.0.weight"].T)
        np.testing.assert_array_equal(conv[i], exact["conv.weight"].transpose(2, 3, 1, 0))
        np.testing.assert_array_equal(gate[i], exact["gate"])


@pytest.mark.parametrize(
    ("path", "index"),
    [
        (KERNEL, np.s_[1:2, :, 3:5]),
        (KERNEL, np.s_[0:3, 1:3, 0:6]),
        (KERNEL, np.s_[:2, :, :]),
        (CONV, np.s_[2:3, 0:1, :, 1:4, 5:6]),
        (("blocks_1_to_3", "norm", "scale"), np.s_[1:3, 2:5]),
        (("blocks_1_to_3", "gate"), np.s_[1:2]),
        (("norm_out", "linear", "kernel"), np.s_[1:3, 2:4]),
    ],
)
def test_a_part_is_that_of_the_whole(stored, path, index):
    file, _, _ = stored
    leaf = flatten_dict(open_weights(file, ABSTRACT))[path]
    part = leaf[index if isinstance(index, tuple) else (index,)]
    np.testing.assert_array_equal(part, np.asarray(leaf)[index])
    assert part.flags["C_CONTIGUOUS"] and part.dtype == np.float32
    rounded = leaf.astype(jnp.bfloat16)
    assert rounded.shape == leaf.shape
    part = rounded[index if isinstance(index, tuple) else (index,)]
    assert part.dtype == jnp.bfloat16
    np.testing.assert_array_equal(part, np.asarray(leaf)[index].astype(jnp.bfloat16))


def test_a_part_is_read_of_the_layers_that_it_is_of_and_no_others():
    class Tensor:
        def __init__(self, layer):
            self.shape, self.layer = (6, 4), layer

        def __getitem__(self, index):
            read.append((self.layer, index))
            return np.zeros(self.shape)[index]

    from rats_jax.weights.stored import stored_stack

    read = []
    leaf = stored_stack([(Tensor(layer), (1, 0)) for layer in range(4)])
    assert leaf.shape == (4, 4, 6) and not read
    assert leaf[1:3, 0:2, 5:6].shape == (2, 2, 1)
    assert read == [(layer, (slice(5, 6), slice(0, 2))) for layer in (1, 2)]


def test_layers_are_written_under_the_names_that_they_were_read_from(stored):
    file, tensors, _ = stored
    params = open_weights(file, ABSTRACT)
    for tree in (params, read_all(params), jax.device_put(read_all(params))):
        written = to_torch_names(tree)
        assert {name: value.shape for name, value in written.items()} == TENSORS
        for name, value in written.items():
            assert value.dtype == np.float32 and value.flags["C_CONTIGUOUS"]
            np.testing.assert_array_equal(value, tensors[name].float().numpy())
        assert dict(torch_sizes(tree)) == {name: value.size for name, value in written.items()}
        assert list(dict(torch_sizes(tree))) == list(written)
    rounded = to_torch_names(params, dtype=jnp.bfloat16)
    assert {value.dtype for value in rounded.values()} == {jnp.dtype(jnp.bfloat16)}


MIDDLE = "blocks.2.attn.to_out.0.weight"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: t.pop(MIDDLE), f"missing {MIDDLE}"),
        (lambda t: t.pop("blocks.0.norm.weight"), "missing blocks.0.norm.weight"),
        (
            lambda t: t.update({MIDDLE: torch.zeros(6, 5)}),
            rf"{MIDDLE} has shape \(5, 6\) \(Flax layout\), expected \(4, 6\)",
        ),
        (lambda t: t.update({"blocks.4.norm.weight": torch.zeros(5)}), "unexpected blocks.4.norm.weight"),
        (
            lambda t: t.update({"blocks.0.norm.bias": torch.zeros(5), "blocks.1.gate": torch.zeros(1)}),
            r"blocks.1.gate has shape \(1,\) .*; unexpected blocks.0.norm.bias",
        ),
    ],
)
def test_layers_that_do_not_fit_are_named(stored, change, expected):
    file, tensors, store = stored
    change(tensors)
    with pytest.raises(WeightsError, match=rf"^weights file '.*' does not fit its architecture: {expected}$"):
        open_weights(store(tensors), ABSTRACT)


def test_a_path_is_unstacked_where_a_module_is_a_stack():
    assert unstack(("blocks_9_to_11", "norm", "scale")) == [
        (f"blocks_{i}", "norm", "scale") for i in (9, 10, 11)
    ]
    assert unstack(("decoder", "blocks_0_to_0", "bias")) == [("decoder", "blocks_0", "bias")]
    assert unstack(("layers", "0_to_1", "bias")) == [("layers", "0", "bias"), ("layers", "1", "bias")]
    for path in (("down_blocks_0", "attn", "to_out_0", "kernel"), ("to_out_0", "bias"), ("logit_scale",)):
        assert unstack(path) is None


def test_flax_files_hold_layer_by_layer(tmp_path):
    """Flax's own classes know no stacks; their lists have names with numbers, or numbers alone."""
    rng, file = np.random.default_rng(0), tmp_path / "weights.msgpack"
    params = {
        "layers": {"0_to_2": {"fc1": {"kernel": rng.normal(size=(3, 4, 5)).astype(np.float32)}}},
        "blocks_1_to_2": {"scale": rng.normal(size=(2, 5)).astype(np.float32)},
        "norm": {"scale": np.ones(5, np.float32)},
    }
    layers = unstack_params(params)
    assert set(layers) == {"layers", "blocks_1", "blocks_2", "norm"} and set(layers["layers"]) == set("012")
    np.testing.assert_array_equal(
        layers["layers"]["2"]["fc1"]["kernel"], params["layers"]["0_to_2"]["fc1"]["kernel"][2]
    )
    file.write_bytes(to_bytes(layers))
    found = open_weights(file, jax.eval_shape(lambda: params))
    jax.tree.map(np.testing.assert_array_equal, read_all(found), params)

    layers["layers"]["1"]["fc1"]["kernel"] = np.zeros((5, 4), np.float32)
    del layers["blocks_2"]
    file.write_bytes(to_bytes(layers))
    problems = r"missing blocks_2/scale; layers/1/fc1/kernel has shape \(5, 4\) .*, expected \(4, 5\)$"
    with pytest.raises(WeightsError, match=f"does not fit its architecture: {problems}"):
        open_weights(file, jax.eval_shape(lambda: params))
