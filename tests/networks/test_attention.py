"""Attention against PyTorch's, and which layers the kernel of a GPU takes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from rats_jax.networks import attention
from rats_jax.networks.attention import attend, attend_cudnn, attend_in_columns, join_heads, split_heads


def draw(length=5, context=7, heads=3, features=4, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    lengths = length, context, context
    return [
        jax.random.normal(key, (2, n, heads, features), dtype) for key, n in zip(keys, lengths, strict=True)
    ]


FEW, MANY = 7, 40  # keys; of many there is another way


def masks(context):
    some = np.random.default_rng(0).random((2, 1, 5, context)) < 0.6
    some[..., 0] = True
    return [None, some, some[0, 0], np.tril(np.ones((5, context), bool))]


@pytest.mark.parametrize("function", [attend, attend_in_columns])
@pytest.mark.parametrize(
    ("context", "mask"), [(context, mask) for context in (FEW, MANY) for mask in masks(context)]
)
def test_values_and_gradients_are_those_of_pytorch(function, context, mask):
    assert FEW < attention._LEAST_IN_COLUMNS <= MANY
    inputs = draw(context=context)
    originals = [torch.from_numpy(np.array(x)).requires_grad_() for x in inputs]
    heads_first = (x.transpose(1, 2) for x in originals)
    masked = None if mask is None else torch.from_numpy(mask)
    wanted = torch.nn.functional.scaled_dot_product_attention(*heads_first, attn_mask=masked).transpose(1, 2)
    torch.sin(wanted).sum().backward()
    np.testing.assert_allclose(function(*inputs, mask), wanted.detach(), atol=1e-5)
    gradients = jax.grad(lambda *x: jnp.sum(jnp.sin(function(*x, mask))), argnums=(0, 1, 2))(*inputs)
    for mine, theirs in zip(gradients, originals, strict=True):
        np.testing.assert_allclose(mine, theirs.grad, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "context", "scores"),
    [(attend, FEW, "2,3,5,7"), (attend_in_columns, FEW, "2,3,5,7"), (attend_in_columns, MANY, "6,40,5")],
)
def test_the_softmax_is_float32_and_the_result_has_the_dtype_of_the_inputs(function, context, scores):
    inputs = draw(context=context, dtype=jnp.bfloat16)
    program = jax.make_jaxpr(function)(*inputs)
    exponentials = [line for line in str(program).splitlines() if " = exp " in line]
    assert len(exponentials) == 1 and f":f32[{scores}]" in exponentials[0]
    assert program.out_avals[0].dtype == jnp.bfloat16
    exact = attend(*(x.astype(jnp.float32) for x in inputs))
    np.testing.assert_allclose(function(*inputs).astype(jnp.float32), exact, atol=0.03)


def test_scores_of_any_size_are_attended_to_in_columns():
    query, key, value = draw(context=MANY)
    key = jnp.concatenate([1000.0 * key[:, :1], key[:, 1:]], axis=1)
    np.testing.assert_allclose(attend_in_columns(query, key, value), attend(query, key, value), atol=1e-5)


def test_heads_are_split_and_joined():
    x = jnp.arange(24.0).reshape(1, 2, 12)
    np.testing.assert_array_equal(split_heads(x, 3)[0, 1, 2], x[0, 1, 8:])
    np.testing.assert_array_equal(join_heads(split_heads(x, 3)), x)


@pytest.mark.parametrize(
    ("changes", "takes"),
    [
        ({}, True),
        ({"context": 128}, True),
        ({"features": 128}, True),
        ({"dtype": jnp.float16}, True),
        ({"dtype": jnp.float32}, False),
        ({"context": 77}, True),
        ({"length": 100, "context": 103}, True),
        ({"length": 101, "context": 128}, True),
        ({"length": 101, "context": 99}, True),
        ({"length": 99, "context": 128}, False),
        ({"length": 36}, False),
        ({"features": 4}, False),
        ({"features": 160}, False),
        ({"mask": True}, False),
    ],
)
def test_the_kernel_takes_what_it_can(changes, takes, monkeypatch):
    changes = {"length": 64, "context": 64, "features": 16, "dtype": jnp.bfloat16} | changes
    mask = jnp.ones((64, 64), bool) if changes.pop("mask", False) else None
    inputs, taken = draw(**changes), []

    compute = jax.nn.dot_product_attention

    def kernel(*arrays, implementation, **counts):  # the real one is only traced where its library is
        taken.append(implementation)
        assert all(x.shape[1] % 64 == 0 for x in arrays)
        return compute(*arrays, implementation="xla", **counts)

    def total(*arrays, fn=attend_cudnn):
        return jnp.sum(jnp.sin(fn(*arrays, mask).astype(jnp.float32)))

    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    assert attention._LEAST_FILLED == 1024  # of which a test would take long
    monkeypatch.setattr(attention, "_LEAST_FILLED", 100)
    wanted = attend(*inputs, mask).astype(jnp.float32)
    np.testing.assert_allclose(attend_cudnn(*inputs, mask).astype(jnp.float32), wanted, atol=0.02)
    gradients = [
        jax.grad(functools.partial(total, fn=fn), argnums=(0, 1, 2))(*inputs) for fn in (attend_cudnn, attend)
    ]
    for mine, theirs in zip(*gradients, strict=True):
        theirs = theirs.astype(jnp.float32)
        np.testing.assert_allclose(mine.astype(jnp.float32), theirs, atol=0.03 * float(jnp.abs(theirs).max()))
    assert taken == ["cudnn"] * (2 * takes)
