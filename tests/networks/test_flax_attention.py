"""Attention by a kernel: which layers go through it, and that they compute the same."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rats_jax.networks.flax_attention import find_attend_fn, with_attention
from rats_jax.pipelines import stable_diffusion as sd
from rats_jax.weights.folder import abstract_params
from tests import tiny


def evaluate(dtype, *, side=8, tokens=77, attend_fn=None, **config):
    """The UNet's output and its gradient by the latents, with and without a kernel."""
    unet = sd.make_unet(tiny.UNET | {"sample_size": side} | config, dtype=dtype)
    params = tiny.random_params(abstract_params(sd.init_unet, unet), seed=0)
    keys = jax.random.split(jax.random.key(1))
    latents = jax.random.normal(keys[0], (2, side, side, 4))
    embeds = jax.random.normal(keys[1], (2, tokens, tiny.UNET["cross_attention_dim"]))
    denoise_fn = sd.make_denoise_fn(unet)
    if attend_fn:
        denoise_fn = with_attention(denoise_fn, attend_fn)

    def total(latents):
        output = denoise_fn(params, latents, jnp.int32(500), embeds)
        return jnp.sum(jnp.sin(output)), output

    (_, output), gradient = jax.value_and_grad(total, has_aux=True)(latents)
    return output, gradient


class Attend:
    """The kernel's place, with a record of the shapes that come."""

    def __init__(self):
        self.shapes = []

    def __call__(self, query, key, value):
        assert key.shape == value.shape and query.dtype == key.dtype == value.dtype == jnp.bfloat16
        self.shapes.append((query.shape, key.shape))
        return jax.nn.dot_product_attention(query, key, value)


def test_values_and_gradients_are_the_same_up_to_rounding():
    attend_fn = Attend()
    replaced = evaluate(jnp.bfloat16, attend_fn=attend_fn)
    # Two transformers going up, one going down and one in the middle; positions attend to positions.
    assert attend_fn.shapes == 4 * [((2, 64, 2, 16), (2, 64, 2, 16))]
    for actual, plain, exact in zip(replaced, evaluate(jnp.bfloat16), evaluate(jnp.float32), strict=True):
        error, of_plain = (np.linalg.norm(x - exact) / np.linalg.norm(exact) for x in (actual, plain))
        assert error < 1.2 * of_plain < 0.1


def test_what_the_prompt_has_the_kernel_may_have_too():
    attend_fn = Attend()
    evaluate(jnp.bfloat16, tokens=128, attend_fn=attend_fn)
    assert attend_fn.shapes.count(((2, 64, 2, 16), (2, 128, 2, 16))) == 4 == len(attend_fn.shapes) / 2


@pytest.mark.parametrize(
    ("dtype", "changes"),
    [
        (jnp.float32, {}),
        (jnp.bfloat16, {"side": 6}),  # 36 positions
        (jnp.bfloat16, {"attention_head_dim": 8}),  # 4 features a head
        (jnp.bfloat16, {"attention_head_dim": 1, "block_out_channels": (160,)}),
    ],
)
def test_layers_that_no_kernel_takes_stay_as_they_are(dtype, changes):
    attend_fn = Attend()
    for actual, plain in zip(
        evaluate(dtype, attend_fn=attend_fn, **changes), evaluate(dtype, **changes), strict=True
    ):
        np.testing.assert_array_equal(actual, plain)
    assert not attend_fn.shapes


@pytest.mark.parametrize(
    ("platform", "version", "capability", "found"),
    [
        ("gpu", "cuda 13000", "9.0", True),
        ("gpu", "cuda 12090", "10.3", True),
        ("gpu", "cuda 12090", "7.5", False),
        ("gpu", "rocm 60000", "gfx942", False),
        ("cpu", "cpu", None, False),
        ("tpu", "PJRT", None, False),
    ],
)
def test_only_gpus_of_nvidia_have_a_kernel(platform, version, capability, found):
    client = SimpleNamespace(platform_version=version)
    attend_fn = find_attend_fn(
        SimpleNamespace(platform=platform, client=client, compute_capability=capability)
    )
    assert (attend_fn is not None) == found
    if found:
        assert isinstance(attend_fn, functools.partial) and attend_fn.keywords == {"implementation": "cudnn"}
    assert find_attend_fn(jax.devices("cpu")[0]) is None
