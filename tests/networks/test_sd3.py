"""SD3's transformer against PyTorch's: every argument of the original is computed as it is, or refused."""

import diffusers
import jax
import numpy as np
import pytest

from rats_jax.networks.sd3 import FIELDS, SD3Transformer2DModel
from tests.networks.mmdit_originals import (
    CONFIGS,
    SD3,
    TOLERANCE,
    assert_as_original,
    assert_gradients_as_original,
    assert_matters,
    draw_inputs,
    make_pair,
    output_of,
    run,
)
from tests.networks.parity import (
    assert_given_back,
    assert_refused,
    assert_walks_all,
    compile_quickly,
    make_original,
)

SIZES = {
    "in_channels": 5,
    "out_channels": None,
    "num_layers": 2,
    "num_attention_heads": 3,
    "joint_attention_dim": 24,
    "caption_projection_dim": 72,
    "pooled_projection_dim": 12,
}
HEADS = {
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 1,
    "attention_head_dim": 32,
    "caption_projection_dim": 64,
}
TABLE = {"sample_size": 24, "pos_embed_max_size": 9, "qk_norm": "rms_norm"}
COMPUTED = {
    "sizes": SIZES,
    "heads": HEADS,
    "table": TABLE,
    "dual last": {"dual_attention_layers": [2, 0]},
    "dual all": {"dual_attention_layers": [0, 1, 2]},
}
WALK = [(name, change) for change in COMPUTED.values() for name in change]
REFUSED = [
    ("sample_size", {"sample_size": 15}),
    ("patch_size", {"patch_size": 4}),
    ("in_channels", {"in_channels": 0}),
    ("out_channels", {"out_channels": 8}),
    ("out_channels", {"out_channels": 0}),
    ("num_layers", {"num_layers": 0}),
    ("attention_head_dim", {"attention_head_dim": 1.5}),
    ("num_attention_heads", {"num_attention_heads": 3, "attention_head_dim": 2, "caption_projection_dim": 6}),
    ("joint_attention_dim", {"joint_attention_dim": None}),
    ("caption_projection_dim", {"caption_projection_dim": 40}),
    ("pooled_projection_dim", {"pooled_projection_dim": False}),
    ("pos_embed_max_size", {"pos_embed_max_size": None}),
    ("dual_attention_layers", {"dual_attention_layers": [0, 3]}),
    ("dual_attention_layers", {"dual_attention_layers": [-1]}),
    ("dual_attention_layers", {"dual_attention_layers": 2}),
    ("qk_norm", {"qk_norm": "layer_norm"}),
    ("qk_norm", {"qk_norm": "rms_norm_across_heads"}),
    ("a_field_of_tomorrow", {"a_field_of_tomorrow": 0}),
]
KINDS = ("sd3_medium", "sd35_medium", "sd35_large")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return {kind: make_pair(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


def test_the_table_has_every_argument_of_the_original():
    cases = [*WALK, *(case for case in REFUSED if case[0] in FIELDS)]
    assert_walks_all(cases, FIELDS, diffusers.SD3Transformer2DModel)


@pytest.mark.parametrize("name", COMPUTED)
def test_what_is_accepted_is_computed(name):
    config = SD3 | COMPUTED[name]
    assert_as_original(diffusers.SD3Transformer2DModel, SD3Transformer2DModel, config, draw_inputs(config))


@pytest.mark.parametrize(("name", "change"), [case for case in WALK if case[1][case[0]] is not None])
def test_what_is_computed_matters(name, change):
    assert_matters(diffusers.SD3Transformer2DModel, name, SD3, change)


@pytest.mark.parametrize(("name", "change"), REFUSED)
def test_what_is_not_computed_is_refused(name, change):
    assert_refused(SD3Transformer2DModel.from_config, SD3 | change, name)


def test_channels_that_the_file_does_not_say_are_sixteen():
    config = {name: value for name, value in SD3.items() if name != "out_channels"}
    with pytest.raises(ValueError, match="^out_channels=16: expected null or in_channels=4$"):
        SD3Transformer2DModel.from_config(config)
    network = SD3Transformer2DModel.from_config(config | {"in_channels": 16})
    assert network == SD3Transformer2DModel.from_config(SD3 | {"in_channels": 16, "out_channels": None})
    assert diffusers.SD3Transformer2DModel(**config).out_channels == 16


def test_what_says_nothing_is_no_matter():
    more = {"_class_name": "SD3Transformer2DModel", "dual_attention_layers": (), "a_field_of_tomorrow": None}
    assert SD3Transformer2DModel.from_config(SD3 | more) == SD3Transformer2DModel.from_config(SD3)


@pytest.mark.parametrize(
    ("kind", "size", "tokens"),
    [("sd3_medium", (12, 12), 5), ("sd35_medium", (3, 8), 3), ("sd35_large", (7, 2), 1)],
)
def test_pictures_of_any_size_lie_in_the_middle_of_the_table(pairs, kind, size, tokens):
    original, network, params = pairs[kind]
    inputs = draw_inputs(CONFIGS[kind], size=size, tokens=tokens)
    compiled = compile_quickly(lambda params: run(network, {"params": params}, inputs), params)
    np.testing.assert_allclose(compiled(params), output_of(original, inputs), atol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_original_and_none_for_the_table(pairs, kind):
    assert_gradients_as_original(pairs[kind], draw_inputs(CONFIGS[kind]), constants=["pos_embed.pos_embed"])


@pytest.mark.slow
def test_it_computes_the_same_without_being_compiled_as_a_whole(pairs):
    (original, network, params), inputs = pairs[KINDS[0]], draw_inputs(CONFIGS[KINDS[0]])
    eager = run(network, {"params": params}, inputs)
    np.testing.assert_allclose(eager, output_of(original, inputs), atol=TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_numbers_are_given_back_as_pytorch_has_them(pairs, kind):
    original, _, params = pairs[kind]
    assert_given_back(original, params)


def test_a_picture_that_is_larger_than_the_table_is_refused(pairs):
    network, variables = pairs["sd3_medium"].network, {"params": pairs["sd3_medium"].params}
    for size in ((13, 2), (2, 13)):
        inputs = draw_inputs(SD3, size=size)
        message = f"^{size[0]} x {size[1]} tokens: expected at most pos_embed_max_size=12"
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(lambda variables, inputs=inputs: run(network, variables, inputs), variables)


@pytest.mark.parametrize("change", [{}, TABLE, HEADS, {"sample_size": 128, "pos_embed_max_size": 192}])
def test_the_table_that_is_computed_is_that_of_the_original(change):
    config = SD3 | {"num_layers": 1} | change
    network = SD3Transformer2DModel.from_config(config)
    wanted = make_original(diffusers.SD3Transformer2DModel, config).pos_embed.pos_embed
    found = jax.jit(lambda key: network.init_params(key)["pos_embed"]["pos_embed"])(jax.random.key(0))
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)
