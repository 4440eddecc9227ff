"""Wan2.1's transformer against PyTorch's: every argument of the original is computed as it is, or refused."""

import json

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from rats_jax.networks.lora import Adapted, init_adapters, merge_adapters, variables, with_adapters
from rats_jax.networks.wan import FIELDS, WanTransformer3DModel, cut, join
from rats_jax.weights.naming import to_torch_names
from rats_jax.weights.state_dict import open_weights
from rats_jax.weights.stored import read_all
from tests.networks.jaxprs import dtypes_of, scans
from tests.networks.mmdit_originals import assert_close
from tests.networks.parity import (
    assert_given_back,
    assert_refused,
    assert_walks_all,
    compile_quickly,
    from_torch,
    make_original,
    to_torch,
    weights_of,
)

TINY = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 20,
    "freq_dim": 16,
    "ffn_dim": 40,
    "num_layers": 3,
}
SIZES = {
    "in_channels": 6,
    "out_channels": 5,
    "text_dim": 24,
    "freq_dim": 10,
    "ffn_dim": 28,
    "num_layers": 2,
    "num_attention_heads": 3,
    "attention_head_dim": 14,
}
NORMS = {"cross_attn_norm": False, "eps": 0.1}
COMPUTED = {"sizes": SIZES, "norms": NORMS, "patch": {"patch_size": [2, 1, 3], "rope_max_seq_len": 7}}
WALK = [(name, change) for change in COMPUTED.values() for name in change]
REFUSED = [
    ("patch_size", {"patch_size": [2, 2]}),
    ("patch_size", {"patch_size": [1, 0, 2]}),
    ("num_attention_heads", {"num_attention_heads": "2"}),
    ("attention_head_dim", {"attention_head_dim": 15}),
    ("attention_head_dim", {"attention_head_dim": 4}),
    ("in_channels", {"in_channels": 0}),
    ("out_channels", {"out_channels": None}),
    ("text_dim", {"text_dim": [40]}),
    ("freq_dim", {"freq_dim": 1}),
    ("ffn_dim", {"ffn_dim": 0}),
    ("num_layers", {"num_layers": 0}),
    ("cross_attn_norm", {"cross_attn_norm": None}),
    ("qk_norm", {"qk_norm": "rms_norm"}),
    ("qk_norm", {"qk_norm": None}),
    ("eps", {"eps": 0.0}),
    ("image_dim", {"image_dim": 1280}),
    ("added_kv_proj_dim", {"added_kv_proj_dim": 32}),
    ("pos_embed_seq_len", {"pos_embed_seq_len": 514}),
    ("rope_max_seq_len", {"rope_max_seq_len": 0}),
    ("a_field_of_tomorrow", {"a_field_of_tomorrow": False}),
]
# Fields that can only change together, and those that change no number where all tokens have a place: see
# test_latents_that_do_not_fit_are_refused.
TOGETHER = {"num_attention_heads", "attention_head_dim"}
LIMITS = {"rope_max_seq_len"}
# Outputs are about 2, and 2e-6 apart.
TOLERANCE = 2e-5
ATTENTION = r"attn[12]/(to_[qkv]|to_out_0)|patch_embedding|ffn/net_0/proj"


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wan")
    original = make_original(diffusers.WanTransformer3DModel, TINY)
    original.save_pretrained(folder)
    network = WanTransformer3DModel.from_config(json.loads((folder / "config.json").read_text()))
    file = folder / "diffusion_pytorch_model.safetensors"
    return original, network, read_all(open_weights(file, network.abstract_params()))


def draw_inputs(config, *, sizes=(2, 4, 6), tokens=5):
    """Draw noisy latents of two videos [B, T, H, W, C], prompts and timesteps."""
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(2, *sizes, config["in_channels"])).astype(np.float32)
    context = rng.normal(size=(2, tokens, config["text_dim"])).astype(np.float32)
    return latents, context, np.array([750.5, 31.0], np.float32)


def run_original(original, latents, context, timestep):
    """Call PyTorch's network; `latents` may be one of its tensors already."""
    hidden = latents if isinstance(latents, torch.Tensor) else to_torch(latents)
    return original(hidden, torch.from_numpy(timestep), torch.from_numpy(context)).sample


def output_of(original, inputs):
    with torch.no_grad():
        return from_torch(run_original(original, *inputs))


def test_the_table_has_every_argument_of_the_original():
    cases = [*WALK, *(case for case in REFUSED if case[0] in FIELDS)]
    assert_walks_all(cases, FIELDS, diffusers.WanTransformer3DModel)


@pytest.mark.parametrize("name", COMPUTED)
def test_what_is_accepted_is_computed(name):
    config = TINY | COMPUTED[name]
    original = make_original(diffusers.WanTransformer3DModel, config)
    network, inputs = WanTransformer3DModel.from_config(config), draw_inputs(config)
    params = {"params": weights_of(original, network)}
    actual = compile_quickly(network.apply, params, *inputs)(params, *inputs)
    np.testing.assert_allclose(actual, output_of(original, inputs), atol=TOLERANCE)


@pytest.mark.parametrize(("name", "change"), [case for case in WALK if case[0] not in LIMITS])
def test_what_is_computed_matters(name, change):
    together = {name} | (TOGETHER if name in TOGETHER else set())
    without = TINY | {key: value for key, value in change.items() if key not in together}
    one, other = (
        output_of(make_original(diffusers.WanTransformer3DModel, config), draw_inputs(config))
        for config in (without, TINY | change)
    )
    assert one.shape != other.shape or np.abs(one - other).max() > 1e-3


@pytest.mark.parametrize(("name", "change"), REFUSED)
def test_what_is_not_computed_is_refused(name, change):
    assert_refused(WanTransformer3DModel.from_config, TINY | change, name)


@pytest.mark.parametrize(("sizes", "tokens"), [((1, 2, 2), 1), ((3, 4, 8), 7)])
def test_videos_of_any_size(pair, sizes, tokens):
    original, network, params = pair
    inputs = draw_inputs(TINY, sizes=sizes, tokens=tokens)
    compiled = compile_quickly(network.apply, {"params": params}, *inputs)
    actual = compiled({"params": params}, *inputs)
    np.testing.assert_allclose(actual, output_of(original, inputs), atol=TOLERANCE)


def test_gradients_are_those_of_the_original(pair):
    original, network, params = pair
    latents, context, timestep = draw_inputs(TINY)
    weights = np.random.default_rng(1).normal(size=latents.shape).astype(np.float32)
    hidden = to_torch(latents).requires_grad_()
    original.zero_grad()
    torch.sum(run_original(original, hidden, context, timestep) * to_torch(weights)).backward()

    def total(params, latents):
        return jnp.sum(network.apply({"params": params}, latents, context, timestep) * weights)

    take = compile_quickly(jax.grad(total, argnums=(0, 1)), params, latents)
    of_params, of_latents = take(params, latents)
    assert_close({"": np.asarray(of_latents)}, {"": np.moveaxis(hidden.grad.numpy(), 1, -1)}, rtol=1e-3)
    theirs = {name: parameter.grad.numpy() for name, parameter in original.named_parameters()}
    assert_close(to_torch_names(of_params), theirs, rtol=1e-3)


def test_names_and_numbers_are_given_back_as_pytorch_has_them(pair):
    original, _, params = pair
    assert_given_back(original, params)


def test_adapters_of_all_kinds_of_layers_are_those_of_merged_weights(pair):
    original, network, params = pair
    adapters = init_adapters(params, targets=ATTENTION, rank=2, seed=0)
    assert {name for name in adapters} == {"blocks_0_to_2", "patch_embedding"}
    rng = np.random.default_rng(2)
    adapters = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32) * 0.1, adapters)
    inputs = draw_inputs(TINY)
    latents, context, timestep = inputs

    def denoise(params, latents, timestep, context):
        return network.apply(variables(params), latents, context, timestep)

    adapted, args = Adapted(params, adapters), (latents, timestep, context)
    beside = compile_quickly(with_adapters(denoise, scale=0.5), adapted, *args)(adapted, *args)
    merged = merge_adapters(params, adapters, scale=0.5)
    np.testing.assert_allclose(beside, compile_quickly(denoise, merged, *args)(merged, *args), atol=TOLERANCE)
    assert np.abs(beside - output_of(original, inputs)).max() > 1e-2


def test_blocks_are_one_loop_and_what_must_be_is_float32(pair):
    original, network, params = pair
    inputs = draw_inputs(TINY)
    half = network.clone(dtype=jnp.bfloat16)
    program = jax.make_jaxpr(half.apply)({"params": params}, *inputs)
    assert len(scans(program)) == 1
    dtypes = dtypes_of(program)
    assert all(dtypes[name] == {jnp.dtype(jnp.float32)} for name in ("exp", "cos", "sin", "rsqrt"))
    assert jnp.dtype(jnp.bfloat16) in dtypes["dot_general"]
    output = compile_quickly(half.apply, {"params": params}, *inputs)({"params": params}, *inputs)
    assert output.dtype == jnp.bfloat16
    assert np.abs(output.astype(np.float32) - output_of(original, inputs)).mean() < 0.03


def test_latents_that_do_not_fit_are_refused(pair):
    _, network, params = pair
    short = network.clone(rope_max_seq_len=4)
    for sizes, message in (
        ((2, 3, 4), r"latents of \(2, 3, 4\): expected multiples of patch_size=\(1, 2, 2\)"),
        ((5, 4, 4), r"\(5, 2, 2\) tokens along the axes: expected at most rope_max_seq_len=4"),
    ):
        inputs = draw_inputs(TINY, sizes=sizes)
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(short.apply, {"params": params}, *inputs)


def test_tokens_are_cut_and_joined():
    latents = np.arange(2 * 4 * 2 * 6 * 3).reshape(2, 4, 2, 6, 3)
    tokens = cut(jnp.asarray(latents), (2, 1, 3))
    np.testing.assert_array_equal(tokens[1, 3], latents[1, :2, 1, 3:].reshape(-1))
    np.testing.assert_array_equal(join(tokens, (2, 1, 3), (4, 2, 6)), latents)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}, 1.41900e9),
        ({"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40}, 14.288e9),
    ],
)
def test_the_published_sizes_have_as_many_weights_as_their_files(config, expected):
    params = WanTransformer3DModel.from_config(config).abstract_params()
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    np.testing.assert_allclose(count, expected, rtol=1e-4)
