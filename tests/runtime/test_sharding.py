"""The mesh on eight fake CPU devices, and the rule by shape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from rats_jax.errors import ConfigError
from rats_jax.runtime.optimizer import make_optimizer
from rats_jax.runtime.sharding import batch_sharding, make_mesh, param_sharding, replicated, validate_batch


def test_there_are_eight_devices():
    assert jax.device_count() == 8


@pytest.mark.parametrize(
    ("data", "fsdp", "shape"),
    [(8, 1, (8, 1)), (-1, 1, (8, 1)), (-1, 4, (2, 4)), (2, -1, (2, 4)), (1, 8, (1, 8))],
)
def test_mesh_sizes(data, fsdp, shape):
    mesh = make_mesh(data=data, fsdp=fsdp)
    assert mesh.axis_names == ("data", "fsdp") and mesh.devices.shape == shape


@pytest.mark.parametrize(("data", "fsdp"), [(4, 1), (3, -1), (-1, 16), (16, 1), (-1, -1), (0, 8), (-2, -4)])
def test_sizes_that_do_not_fit_are_named(data, fsdp):
    with pytest.raises(
        ConfigError, match=rf"^mesh.data={data}, mesh.fsdp={fsdp}: expected .* number of devices, 8$"
    ):
        make_mesh(data=data, fsdp=fsdp)


def test_the_batch_is_split_over_all_devices():
    mesh = make_mesh(data=2, fsdp=4)
    batch = jax.device_put(jnp.arange(48.0).reshape(16, 3), batch_sharding(mesh))
    assert {shard.data.shape for shard in batch.addressable_shards} == {(2, 3)}
    np.testing.assert_array_equal(
        np.sort(np.ravel([s.data for s in batch.addressable_shards])), np.arange(48.0)
    )
    assert jax.device_put(batch, replicated(mesh)).sharding.is_fully_replicated


def test_a_batch_that_does_not_split_is_named():
    mesh = make_mesh(data=2, fsdp=4)
    validate_batch(mesh, field="batch_size", batch_size=32, parts=4)
    with pytest.raises(
        ConfigError, match=r"^batch_size=16: expected a multiple of 32 \(8 devices times 4 acc"
    ):
        validate_batch(mesh, field="batch_size", batch_size=16, parts=4)
    with pytest.raises(
        ConfigError, match=r"^evaluation.batch_size=12: expected a multiple of 8 \(8 devices\)"
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
    sharding = param_sharding(make_mesh(data=2, fsdp=4), {"w": jax.ShapeDtypeStruct(shape, jnp.float32)})["w"]
    assert sharding.spec == PartitionSpec(*spec)


def test_without_fsdp_all_is_copied():
    sharding = param_sharding(make_mesh(data=-1, fsdp=1), jax.ShapeDtypeStruct((1024, 1024), jnp.float32))
    assert sharding.is_fully_replicated


@given(st.lists(st.sampled_from([1, 2, 3, 8, 30, 64, 256, 1000]), max_size=4), st.sampled_from([1, 2, 4, 8]))
def test_every_shape_can_be_placed(shape, fsdp):
    sharding = param_sharding(make_mesh(data=-1, fsdp=fsdp), jax.ShapeDtypeStruct(tuple(shape), jnp.float32))
    part = sharding.shard_shape(tuple(shape))  # raises if an axis is not divisible
    assert np.prod(part) in (np.prod(shape), np.prod(shape) / fsdp)


def test_optimizer_state_lies_as_its_weights_and_init_gives_it_so():
    mesh = make_mesh(data=2, fsdp=4)
    optimizer = make_optimizer(
        learning_rate=1.0, warmup_updates=0, decay_updates=0, clip_norm=1.0, b1=0.9, b2=0.9, weight_decay=0.0
    )

    def init():
        params = {"kernel": jnp.ones((512, 256)), "bias": jnp.ones(256)}
        return params, optimizer.init(params)

    shardings = param_sharding(mesh, jax.eval_shape(init))
    params, state = jax.jit(init, out_shardings=shardings)()
    moments = state[1][0].mu
    assert moments["kernel"].sharding == params["kernel"].sharding
    assert {shard.data.shape for shard in moments["kernel"].addressable_shards} == {(128, 256)}
    assert moments["bias"].sharding.is_fully_replicated and state[1][0].count.sharding.is_fully_replicated
