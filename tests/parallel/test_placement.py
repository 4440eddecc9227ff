"""The mesh on eight fake CPU devices, and the rule by shape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from rats_jax.errors import ConfigError
from rats_jax.parallel.mesh import make_mesh, validate_batch
from rats_jax.parallel.placement import (
    batch_sharding,
    local_rows,
    param_sharding,
    place,
    place_rows,
    replicated,
)
from rats_jax.training.optimizer import make_optimizer
from tests.tiny import mesh_sizes

LARGEST = [("", "largest")]


def test_there_are_eight_devices():
    assert jax.device_count() == 8


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ({"data": 8}, (8, 1, 1)),
        ({"data": -1}, (8, 1, 1)),
        ({"data": -1, "fsdp": 4}, (2, 4, 1)),
        ({"data": 2, "fsdp": -1}, (2, 4, 1)),
        ({"fsdp": 8}, (1, 8, 1)),
        ({"fsdp": -1, "tensor": 2}, (1, 4, 2)),
        ({"data": 2, "fsdp": 2, "tensor": 2}, (2, 2, 2)),
    ],
)
def test_mesh_sizes(sizes, shape):
    mesh = make_mesh(mesh_sizes(**sizes))
    assert mesh.axis_names == ("data", "fsdp", "tensor") and mesh.devices.shape == shape
    assert len({device.id for device in mesh.devices.flat}) == 8


@pytest.mark.parametrize(
    "sizes",
    [{"data": 4}, {"data": 3, "fsdp": -1}, {"data": -1, "fsdp": 16}, {"data": 16}, {"data": 0, "fsdp": 8}]
    + [{"data": -1, "fsdp": -1}, {"data": -2, "fsdp": -4}, {"tensor": 3}],
)
def test_sizes_that_do_not_fit_are_named(sizes):
    named = ", ".join(f"mesh.{axis}={sizes.get(axis, 1)}" for axis in ("data", "fsdp", "tensor"))
    with pytest.raises(ConfigError, match=rf"^{named}: expected .* number of devices, 8$"):
        make_mesh(mesh_sizes(**sizes))


class FakeDevice:
    """A device of a slice, as far as the arrangement looks at it."""

    platform, device_kind = "cpu", "fake"

    def __init__(self, number, slice_index, process_index):
        self.id, self.slice_index, self.process_index = number, slice_index, process_index


@pytest.mark.parametrize("by", ["slice", "process"])
def test_slices_lie_along_the_outer_axes(by):
    both = [(i // 4, i // 2) if by == "slice" else (None, i // 4) for i in range(8)]
    devices = [FakeDevice(i, *pair) for i, pair in enumerate(both)]
    mesh = make_mesh(mesh_sizes(dcn_data=2, fsdp=2, data=-1), devices)
    assert mesh.devices.shape == (4, 2, 1)
    slices = np.vectorize(lambda d: d.id // 4)(mesh.devices)[..., 0]
    np.testing.assert_array_equal(slices, [[0, 0], [0, 0], [1, 1], [1, 1]])
    mesh = make_mesh(mesh_sizes(dcn_fsdp=-1, fsdp=4), devices)
    np.testing.assert_array_equal(
        np.vectorize(lambda d: d.id // 4)(mesh.devices)[0, :, 0], [0, 0, 0, 0, 1, 1, 1, 1]
    )
    with pytest.raises(ConfigError, match=r"^mesh.dcn_data=3, .* product is the number of slices, 2$"):
        make_mesh(mesh_sizes(dcn_data=3, data=-1), devices)
    with pytest.raises(ConfigError, match=r"^mesh.data=8, .* number of devices of a slice, 4$"):
        make_mesh(mesh_sizes(dcn_data=2, data=8), devices)


def test_the_batch_is_split_over_all_devices():
    mesh = make_mesh(mesh_sizes(data=2, fsdp=4))
    batch = jax.device_put(jnp.arange(48.0).reshape(16, 3), batch_sharding(mesh))
    assert {shard.data.shape for shard in batch.addressable_shards} == {(2, 3)}
    np.testing.assert_array_equal(
        np.sort(np.ravel([s.data for s in batch.addressable_shards])), np.arange(48.0)
    )
    assert jax.device_put(batch, replicated(mesh)).sharding.is_fully_replicated


def test_a_batch_that_does_not_split_is_named():
    mesh = make_mesh(mesh_sizes(data=2, fsdp=4))
    validate_batch(mesh, field="batch_size", batch_size=32, parts=4)
    with pytest.raises(
        ConfigError,
        match=r"^batch_size=16: .* multiple of 32 \(data=2 x fsdp=4 of the mesh times 4",
    ):
        validate_batch(mesh, field="batch_size", batch_size=16, parts=4)
    with pytest.raises(
        ConfigError,
        match=r"^evaluation.batch_size=12: .* multiple of 8 \(data=2 x fsdp=4 of",
    ):
        validate_batch(mesh, field="evaluation.batch_size", batch_size=12, parts=1)


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((), ()),
        ((256, 256), ()),  # 2**16 elements are not more than 2**16
        ((260, 256), ("fsdp",)),
        ((256, 512), (None, "fsdp")),
        ((512, 512), ("fsdp",)),
        ((3, 3, 128, 320), (None, None, None, "fsdp")),
        ((1001, 400), (None, "fsdp")),
        ((1002, 400), (None, "fsdp")),
        ((1001, 1001), ()),
    ],
)
def test_large_leaves_are_split_along_their_largest_divisible_axis(shape, spec):
    sharding = param_sharding(
        make_mesh(mesh_sizes(data=2, fsdp=4)), {"w": jax.ShapeDtypeStruct(shape, jnp.float32)}, LARGEST
    )["w"]
    assert sharding.spec == PartitionSpec(*spec)


def test_without_fsdp_all_is_copied():
    sharding = param_sharding(
        make_mesh(mesh_sizes(data=-1)), jax.ShapeDtypeStruct((1024, 1024), jnp.float32), LARGEST
    )
    assert sharding.is_fully_replicated


@given(st.lists(st.sampled_from([1, 2, 3, 8, 30, 64, 256, 1000]), max_size=4), st.sampled_from([1, 2, 4, 8]))
def test_every_shape_can_be_placed(shape, fsdp):
    sharding = param_sharding(
        make_mesh(mesh_sizes(data=-1, fsdp=fsdp)), jax.ShapeDtypeStruct(tuple(shape), jnp.float32), LARGEST
    )
    part = sharding.shard_shape(tuple(shape))  # raises if an axis is not divisible
    assert np.prod(part) in (np.prod(shape), np.prod(shape) / fsdp)


def test_optimizer_state_lies_as_its_weights_and_init_gives_it_so():
    mesh = make_mesh(mesh_sizes(data=2, fsdp=4))
    optimizer = make_optimizer(
        learning_rate=1.0, warmup_updates=0, decay_updates=0, clip_norm=1.0, b1=0.9, b2=0.9, weight_decay=0.0
    )

    def init():
        params = {"kernel": jnp.ones((512, 256)), "bias": jnp.ones(256)}
        return params, optimizer.init(params)

    shardings = param_sharding(mesh, jax.eval_shape(init), LARGEST)
    params, state = jax.jit(init, out_shardings=shardings)()
    moments = state[1][0].mu
    assert moments["kernel"].sharding == params["kernel"].sharding
    assert {shard.data.shape for shard in moments["kernel"].addressable_shards} == {(128, 256)}
    assert moments["bias"].sharding.is_fully_replicated and state[1][0].count.sharding.is_fully_replicated


RULES = [("(to_q|fc1)/kernel", "fsdp tensor"), ("to_out/kernel", "tensor fsdp"), ("bias", "copy")]


@pytest.mark.parametrize(
    ("path", "shape", "spec"),
    [
        ("attn/to_q/kernel", (512, 256), ("fsdp", "tensor")),
        ("attn/to_out/kernel", (512, 256), ("tensor", "fsdp")),
        ("attn/to_q/kernel", (3, 3, 128, 256), (None, None, "fsdp", "tensor")),
        ("attn/to_q/kernel", (64, 64), (None, "tensor")),  # too small to be split over fsdp
        ("attn/to_q/kernel", (511, 254), (None, "tensor")),
        ("attn/to_q/kernel", (512, 255), ("fsdp",)),
        ("attn/to_q/bias", (2**20,), ()),
        ("attn/fc1/kernel", (2**20,), ("tensor",)),  # shorter than its rule: the last axis of the rule counts
    ],
)
def test_the_first_rule_that_matches_decides(path, shape, spec):
    mesh = make_mesh(mesh_sizes(data=2, fsdp=2, tensor=2))
    keys = path.split("/")
    tree = {keys[0]: {keys[1]: {keys[2]: jax.ShapeDtypeStruct(shape, jnp.float32)}}}
    sharding = param_sharding(mesh, {"student": tree}, RULES)["student"][keys[0]][keys[1]][keys[2]]
    assert sharding.spec == PartitionSpec(*spec)


def test_a_weight_that_no_rule_covers_is_named():
    mesh = make_mesh(mesh_sizes(data=-1))
    tree = {"student": {"norm": {"scale": np.zeros(3)}, "step": np.float32(0)}}
    with pytest.raises(ConfigError, match=r"^sharding: no rule covers the weight 'student/norm/scale' of sh"):
        param_sharding(mesh, tree, RULES)


class Recorded:
    """An array that notes which parts of it are read."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.read = array, array.shape, array.dtype, []

    def __getitem__(self, index):
        self.read.append(self.array[index].shape)
        return self.array[index]


def test_weights_are_read_part_by_part_and_each_part_once():
    mesh = make_mesh(mesh_sizes(data=2, fsdp=4))
    stored = Recorded(np.arange(512 * 256, dtype=np.float32).reshape(512, 256))
    sharding = param_sharding(mesh, {"w": stored}, LARGEST)
    placed = place({"w": stored}, sharding, dtype=jnp.bfloat16)["w"]
    assert stored.read == [(128, 256)] * 4
    assert placed.dtype == jnp.bfloat16 and placed.sharding == sharding["w"]
    np.testing.assert_array_equal(np.asarray(placed, np.float32), stored.array.astype(jnp.bfloat16))


def test_a_batch_is_placed_from_the_rows_that_are_here():
    mesh = make_mesh(mesh_sizes(data=2, fsdp=2, tensor=2))
    split = batch_sharding(mesh)
    rows = local_rows(split, 8)
    np.testing.assert_array_equal(rows, np.arange(8))
    placed = place_rows({"x": rows * 10.0}, rows, split, 8)["x"]
    assert placed.sharding == split
    np.testing.assert_array_equal(placed, np.arange(8) * 10.0)
