"""FLUX's transformer against PyTorch's: every argument of the original is computed as it is, or refused."""

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rats_jax.networks.flux import FIELDS, FluxTransformer2DModel
from tests.networks.mmdit_originals import (
    CONFIGS,
    FLUX,
    TOLERANCE,
    assert_as_original,
    assert_gradients_as_original,
    assert_matters,
    draw_inputs,
    make_pair,
    output_of,
    run,
)
from tests.networks.parity import assert_given_back, assert_refused, assert_walks_all, compile_quickly

SIZES = {
    "in_channels": 12,
    "out_channels": 12,
    "num_layers": 1,
    "num_single_layers": 2,
    "num_attention_heads": 3,
    "joint_attention_dim": 24,
    "pooled_projection_dim": 12,
}
HEADS = {"attention_head_dim": 32, "axes_dims_rope": [8, 20, 4]}
AXES = {"axes_dims_rope": [2, 4, 18], "guidance_embeds": True}
COMPUTED = {"sizes": SIZES, "heads": HEADS, "axes": AXES}
WALK = [(name, change) for change in COMPUTED.values() for name in change]
REFUSED = [
    ("patch_size", {"patch_size": 2}),
    ("in_channels", {"in_channels": 0}),
    ("out_channels", {"out_channels": 8}),
    ("num_layers", {"num_layers": 0}),
    ("num_single_layers", {"num_single_layers": 0}),
    ("attention_head_dim", {"attention_head_dim": None}),
    ("num_attention_heads", {"num_attention_heads": "2"}),
    ("joint_attention_dim", {"joint_attention_dim": [40]}),
    ("pooled_projection_dim", {"pooled_projection_dim": None}),
    ("guidance_embeds", {"guidance_embeds": 1}),
    ("axes_dims_rope", {"axes_dims_rope": [4, 8, 10]}),
    ("axes_dims_rope", {"axes_dims_rope": [3, 9, 12]}),
    ("axes_dims_rope", {"axes_dims_rope": [12, 12]}),
    ("axes_dims_rope", {"axes_dims_rope": [4, 4, 4, 12]}),
    ("a_field_of_tomorrow", {"a_field_of_tomorrow": False}),
]
KINDS = ("flux_dev", "flux_schnell")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return {kind: make_pair(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


def test_the_table_has_every_argument_of_the_original():
    cases = [*WALK, *(case for case in REFUSED if case[0] in FIELDS)]
    assert_walks_all(cases, FIELDS, diffusers.FluxTransformer2DModel)


@pytest.mark.parametrize("name", COMPUTED)
def test_what_is_accepted_is_computed(name):
    config = FLUX | COMPUTED[name]
    assert_as_original(diffusers.FluxTransformer2DModel, FluxTransformer2DModel, config, draw_inputs(config))


@pytest.mark.parametrize(("name", "change"), WALK)
def test_what_is_computed_matters(name, change):
    assert_matters(diffusers.FluxTransformer2DModel, name, FLUX, change)


@pytest.mark.parametrize(("name", "change"), REFUSED)
def test_what_is_not_computed_is_refused(name, change):
    assert_refused(FluxTransformer2DModel.from_config, FLUX | change, name)


def test_what_says_nothing_is_no_matter():
    more = {"_class_name": "FluxTransformer2DModel", "out_channels": None, "a_field_of_tomorrow": None}
    assert FluxTransformer2DModel.from_config(FLUX | more) == FluxTransformer2DModel.from_config(FLUX)


@pytest.mark.parametrize(
    ("kind", "size", "tokens"),
    [("flux_dev", (4, 4), 5), ("flux_schnell", (2, 7), 3), ("flux_dev", (6, 3), 1)],
)
def test_pictures_of_any_size(pairs, kind, size, tokens):
    original, network, params = pairs[kind]
    inputs = draw_inputs(CONFIGS[kind], size=size, tokens=tokens)
    compiled = compile_quickly(lambda params: run(network, {"params": params}, inputs), params)
    np.testing.assert_allclose(compiled(params), output_of(original, inputs), atol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_original(pairs, kind):
    assert_gradients_as_original(pairs[kind], draw_inputs(CONFIGS[kind]))


@pytest.mark.slow
def test_it_computes_the_same_without_being_compiled_as_a_whole(pairs):
    (original, network, params), inputs = pairs[KINDS[0]], draw_inputs(CONFIGS[KINDS[0]])
    eager = run(network, {"params": params}, inputs)
    np.testing.assert_allclose(eager, output_of(original, inputs), atol=TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_numbers_are_given_back_as_pytorch_has_them(pairs, kind):
    original, _, params = pairs[kind]
    assert_given_back(original, params)


@pytest.mark.parametrize("kind", KINDS)
def test_guidance_is_told_where_it_is_read_and_only_there(pairs, kind):
    (_, network, params), inputs = pairs[kind], draw_inputs(CONFIGS[kind])
    wrong = inputs._replace(guidance=inputs.sigma if inputs.guidance is None else None)
    with pytest.raises(ValueError, match=r"^guidance=.*: guidance_embeds is (True|False)"):
        jax.eval_shape(lambda params: run(network, {"params": params}, wrong), params)


def test_initial_weights_are_float32(pairs):
    found = jax.eval_shape(pairs["flux_dev"].network.init_params, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(jnp.float32)}
