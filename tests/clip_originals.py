"""PyTorch's CLIP with random weights at tiny sizes, and its weights as trees in our names."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax.traverse_util import flatten_dict, unflatten_dict

from rats_jax.networks.kernels import Kernels
from rats_jax.weights.naming import unstack

TEXT = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "projection_dim": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 9,
    "eos_token_id": 7,
}
VISION = {
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}
CLIP = {"text_config": TEXT, "vision_config": VISION, "projection_dim": 10}
# The end token is 7: twice, last, missing; the largest id stands elsewhere, twice in the last row.
IDS = np.array([[3, 9, 7, 39, 7, 1, 1, 1], [5, 38, 2, 8, 4, 6, 9, 7], [39, 2, 3, 4, 39, 5, 6, 8]], np.int32)
PIXELS = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)

ABOUT_TOWERS = {
    **{"attention_dropout": 0.5, "dropout": 0.5, "initializer_factor": 3.0, "initializer_range": 0.5},
    "is_decoder": True,
}
"""Fields that change nothing of a trained tower, with values that are not the defaults."""


def randomise(module, *, seed=0):
    """Give every weight of a PyTorch module a value that counts, the same for the same seed and shape."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_scale = "norm" in name and name.endswith("weight")
            parameter.copy_(is_scale + 0.3 * noise)
    return module.eval()


def to_tree(state, shapes):
    """Arrange PyTorch's tensors by name as a tree of `shapes`; all of them must be used."""
    state = dict(state)

    def take(path, shape):
        layers = unstack(path)
        if layers is not None:
            one = jax.ShapeDtypeStruct(shape.shape[1:], shape.dtype)
            return jnp.stack([take(layer, one) for layer in layers])
        *modules, leaf = path
        leaf = "weight" if leaf in ("kernel", "scale", "embedding") else leaf
        name = ".".join([*modules, leaf])
        # From transformers 5 on, a text encoder by itself is part of nothing.
        name = name if name in state else name.removeprefix("text_model.")
        value = state.pop(name).detach().numpy()
        if path[-1] == "kernel":
            value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
        assert value.shape == shape.shape, path
        return jnp.asarray(value)

    tree = unflatten_dict({path: take(path, shape) for path, shape in flatten_dict(shapes).items()})
    assert not state, f"not used: {list(state)}"
    return tree


def grad_tree(module, shapes):
    """Arrange the gradients of a PyTorch module; all must count but those of the keys' biases."""
    grads = {name: parameter.grad for name, parameter in module.named_parameters()}
    assert all(grad.abs().max() > 1e-4 for name, grad in grads.items() if not name.endswith("k_proj.bias"))
    return to_tree(grads, shapes)


def shapes_of(init, module):
    return jax.eval_shape(lambda: init(module, jax.random.key(0)))


def describe_weights(init, module):
    """Paths, shapes and dtypes of the weights that `init` draws."""
    shapes = flatten_dict(shapes_of(init, module))
    return {path: (leaf.shape, leaf.dtype) for path, leaf in shapes.items()}


def draw_weights(init, module):
    return jax.jit(lambda: init(module, jax.random.key(1)))()


def assert_trees_close(actual, expected, *, atol, rtol=1e-7):
    actual, expected = flatten_dict(actual), flatten_dict(expected)
    assert actual.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_allclose(actual[path], value, atol=atol, rtol=rtol, err_msg=str(path))


def record_attention(calls):
    """Kernels whose attention notes the mask of each call and gives a shape's worth of zeros."""

    def attend(query, key, value, mask=None):
        calls.append(None if mask is None else np.asarray(mask))
        assert query.shape == key.shape == value.shape
        return jnp.zeros_like(query)

    return Kernels(attend=attend)


def attend_as_flax(query, key, value, mask=None):
    """Attention in the order of operations of the Flax classes, which scale the queries."""
    bias = None if mask is None else jnp.where(mask, 0.0, jnp.finfo(query.dtype).min)[None, None]
    weights = nn.dot_product_attention_weights(query, key, bias=bias)
    return jnp.einsum("...hqk,...khd->...qhd", weights, value)
