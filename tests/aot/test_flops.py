"""The count of a trace against closed forms, loops, and sums of ones."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import Mesh, PartitionSpec

from rats_jax.aot.flops import count_flops, useful_taps
from rats_jax.networks.attention import attend_cudnn

LAYOUT = ("NHWC", "HWIO", "NHWC")


def struct(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def conv(x, kernel, **options):
    options = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": LAYOUT} | options
    return jax.lax.conv_general_dilated(x, kernel, **options)


@given(
    st.integers(1, 6),
    st.integers(0, 6),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(-2, 4),
    st.integers(1, 3),
    st.integers(1, 3),
)
def test_useful_taps_are_those_that_a_loop_finds(inputs, outputs, taps, stride, pad, lhs_dilate, rhs_dilate):
    data = {i * lhs_dilate for i in range(inputs)}
    met = sum(o * stride + t * rhs_dilate - pad in data for o in range(outputs) for t in range(taps))
    options = {"stride": stride, "pad_low": pad, "lhs_dilate": lhs_dilate, "rhs_dilate": rhs_dilate}
    assert useful_taps(inputs, outputs, taps, **options) == met


def test_a_dot_is_the_product_of_its_sizes():
    assert count_flops(jnp.dot, struct(3, 5), struct(5, 7)) == 2 * 3 * 5 * 7
    scores = count_flops(
        lambda q, k: jnp.einsum("bqhd,bkhd->bhqk", q, k), struct(2, 9, 4, 8), struct(2, 5, 4, 8)
    )
    assert scores == 2 * (2 * 4) * 9 * 5 * 8
    assert count_flops(lambda x: jnp.exp(x) + x, struct(4, 4)) == 0


def test_a_convolution_is_what_a_loop_counts_one_by_one():
    stride, pad, dilation, groups = (2, 1), ((1, 0), (2, 1)), (1, 2), 2

    def fn(x, k):
        options = {"padding": pad, "rhs_dilation": dilation, "feature_group_count": groups}
        return conv(x, k, window_strides=stride, **options)

    args = struct(2, 5, 6, 4), struct(3, 2, 2, 6)
    count = 0
    for _, y, x, _, j, i, _ in itertools.product(*map(range, (*jax.eval_shape(fn, *args).shape, 3, 2, 2))):
        row, column = y * stride[0] + j - pad[0][0], x * stride[1] + i * dilation[1] - pad[1][0]
        count += 0 <= row < 5 and 0 <= column < 6
    assert count_flops(fn, *args) == 2 * count


@pytest.mark.parametrize(
    ("x", "kernel", "options"),
    [
        ((2, 7, 9, 3), (3, 3, 3, 5), {}),
        ((2, 7, 9, 3), (3, 3, 3, 5), {"window_strides": (2, 3)}),
        ((1, 6, 6, 4), (3, 2, 4, 2), {"padding": ((2, 1), (0, 3)), "lhs_dilation": (2, 3)}),
        ((1, 9, 8, 4), (3, 3, 4, 2), {"padding": "VALID", "rhs_dilation": (2, 1)}),
        ((1, 9, 8, 4), (3, 3, 4, 2), {"padding": ((-1, 2), (1, -2))}),
        ((2, 6, 6, 8), (3, 3, 2, 12), {"feature_group_count": 4}),
        ((4, 6, 6, 3), (3, 3, 3, 6), {"batch_group_count": 2}),
    ],
)
def test_a_convolution_of_ones_sums_to_its_multiply_adds(x, kernel, options):
    total = conv(jnp.ones(x), jnp.ones(kernel), **options).sum()
    assert count_flops(lambda x, k: conv(x, k, **options), struct(*x), struct(*kernel)) == 2 * total


@pytest.mark.parametrize("options", [{}, {"window_strides": (2, 2)}, {"feature_group_count": 2}])
def test_a_convolution_and_its_two_gradients_count_the_same(options):
    x, kernel = struct(2, 9, 8, 4), struct(3, 3, 4 // options.get("feature_group_count", 1), 6)
    forward = count_flops(lambda x, k: conv(x, k, **options), x, kernel)

    def loss(x, k):
        return jnp.sum(conv(x, k, **options) ** 2)

    assert count_flops(jax.grad(loss), x, kernel) == 2 * forward
    assert count_flops(jax.grad(loss, argnums=1), x, kernel) == 2 * forward
    assert count_flops(jax.grad(loss, argnums=(0, 1)), x, kernel) == 3 * forward


def step(x, w):
    return jnp.tanh(x @ w), None


ONE = 2 * 4 * 8 * 8  # of step, with x (4, 8) and w (8, 8)


def test_every_turn_of_a_scan_counts():
    def nested(x, w):
        return jax.lax.scan(lambda c, _: (jax.lax.scan(step, c, w)[0], None), x, None, length=5)[0]

    assert count_flops(nested, struct(4, 8), struct(3, 8, 8)) == 15 * ONE

    def turns(x, w):
        return jax.lax.fori_loop(2, 9, lambda _, x: step(x, w)[0], x)

    assert count_flops(turns, struct(4, 8), struct(8, 8)) == 7 * ONE


def test_calls_count_and_remat_counts_again():
    def square(x, w):
        return jnp.sum(step(x, w)[0] ** 2)

    plain = jax.grad(lambda x, w: square(step(x, w)[0], w), argnums=(0, 1))
    again = jax.grad(lambda x, w: square(jax.checkpoint(step)(x, w)[0], w), argnums=(0, 1))
    assert count_flops(plain, struct(4, 8), struct(8, 8)) == 6 * ONE
    assert count_flops(jax.jit(plain), struct(4, 8), struct(8, 8)) == 6 * ONE
    assert count_flops(again, struct(4, 8), struct(8, 8)) == 7 * ONE


def test_the_most_expensive_branch_counts():
    branches = [lambda x, w: x, lambda x, w: x @ w @ w, lambda x, w: x @ w]
    args = jax.ShapeDtypeStruct((), jnp.int32), struct(4, 8), struct(8, 8)
    assert count_flops(lambda i, x, w: jax.lax.switch(i, branches, x, w), *args) == 2 * ONE


def test_arguments_may_be_pytrees():
    assert count_flops(lambda p, x: x @ p["w"], {"w": struct(8, 8)}, struct(4, 8)) == ONE
    assert count_flops(lambda p, x: x @ p["w"], {"w": np.ones((8, 8))}, np.ones((4, 8))) == ONE


def test_all_devices_of_a_shard_map_count():
    mesh, row = Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "fsdp")), PartitionSpec(("data", "fsdp"))
    fn = jax.shard_map(jnp.dot, mesh=mesh, in_specs=(row, PartitionSpec()), out_specs=row)
    assert count_flops(fn, struct(32, 8), struct(8, 8)) == 8 * ONE


def test_what_cannot_be_counted_is_refused():
    def until(x):
        return jax.lax.while_loop(lambda x: jnp.sum(x) < 1, lambda x: x @ x, x)

    with pytest.raises(ValueError, match="while .* trip count"):
        count_flops(until, struct(8, 8))
    with pytest.raises(ValueError, match="ragged_dot_general"):
        sizes = jax.ShapeDtypeStruct((2,), jnp.int32)
        count_flops(jax.lax.ragged_dot, struct(4, 8), struct(2, 8, 8), sizes)
    with pytest.raises(ValueError, match="custom_linear_solve"):
        count_flops(jnp.linalg.solve, struct(8, 8), struct(8))


def test_a_while_loop_without_dots_costs_nothing():
    count = count_flops(lambda x: jax.lax.while_loop(lambda x: x < 1, lambda x: x * 2, x), struct())
    assert count == 0


def test_attention_of_cudnn_counts_its_products_and_its_gradient_the_scores_again(monkeypatch):
    from jax._src.cudnn import fused_attention_stablehlo

    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)  # it is only traced
    query, key = (jax.ShapeDtypeStruct((2, length, 8, 40), jnp.bfloat16) for length in (512, 1024))

    def attend(query, key):
        return jnp.sum(attend_cudnn(query, key, key).astype(jnp.float32))

    product = 2.0 * 2 * 512 * 1024 * 8 * 40
    assert count_flops(attend, query, key) == 2 * product
    assert count_flops(jax.grad(attend, argnums=(0, 1)), query, key) == (2 + 5) * product
