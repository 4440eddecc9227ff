"""CLIP's text encoder: every field, value and gradient against PyTorch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from rats_jax.networks.clip_encoder import TOWER_IGNORED
from rats_jax.networks.clip_text import (
    TEXT_FIELDS,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
)
from rats_jax.networks.pretrained_fields import PRETRAINED_FIELDS, PRETRAINED_IGNORED
from tests.clip_originals import (
    ABOUT_TOWERS,
    IDS,
    TEXT,
    assert_trees_close,
    grad_tree,
    randomise,
    record_attention,
    shapes_of,
    to_tree,
)
from tests.pretrained_originals import PRECISION, WITHOUT_EFFECT, arguments

# A value of each argument of the PyTorch class that is neither the default nor that of TEXT.
OTHER = {
    "vocab_size": 41,
    "hidden_size": 24,
    "intermediate_size": 20,
    "projection_dim": 10,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "max_position_embeddings": 8,
    "hidden_act": "gelu",
    "layer_norm_eps": 0.1,
    "attention_dropout": 0.5,
    "initializer_range": 0.5,
    "initializer_factor": 3.0,
    "pad_token_id": 3,
    "bos_token_id": 4,
    "eos_token_id": 2,
}
# config.json as published; SDXL's second encoder differs from 2.1's in its sizes alone.
SD15 = {
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "projection_dim": 768,
    "torch_dtype": "float32",
    "transformers_version": "4.37.2",
    "vocab_size": 49408,
}
SD21 = SD15 | {"_name_or_path": "any", "hidden_act": "gelu", "hidden_size": 1024, "intermediate_size": 4096}
SD21 |= {"num_attention_heads": 16, "num_hidden_layers": 23, "projection_dim": 512, "torch_dtype": "float16"}
SDXL = SD21 | {"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20}
SDXL |= {"num_hidden_layers": 32, "projection_dim": 1280, "architectures": ["CLIPTextModelWithProjection"]}
REFUSED = {
    "vocab_size": 0,
    "hidden_size": 15,
    "num_attention_heads": 0,
    "num_hidden_layers": 2.0,
    "hidden_act": "gelu_new",
    "layer_norm_eps": -1e-5,
    "projection_dim": None,
    "eos_token_id": [7],
    "model_type": "metaclip_2_text_model",
    "pruned_heads": {"0": [1]},
    "tie_encoder_decoder": True,
    "quantization_config": {"bits": 4},
}


def make_original(config, *, projects=True):
    name = "CLIPTextModelWithProjection" if projects else "CLIPTextModel"
    return randomise(getattr(transformers, name)(transformers.CLIPTextConfig(**config)))


def run_original(original, *, projects=True):
    """Everything that ours gives, in its order."""
    outputs = original(torch.from_numpy(IDS).long(), output_hidden_states=True)
    last, penultimate = outputs.last_hidden_state, outputs.hidden_states[-2]
    if not projects:
        return last, penultimate, outputs.pooler_output
    pooled = original.text_model(torch.from_numpy(IDS).long()).pooler_output
    return last, penultimate, pooled, outputs.text_embeds


def make_ours(config, *, projects=True, **options):
    network = CLIPTextModelWithProjection if projects else CLIPTextModel
    return network.from_config(config, **options)


def make_pair(config, *, projects=True):
    original, ours = make_original(config, projects=projects), make_ours(config, projects=projects)
    return original, ours, to_tree(original.state_dict(), shapes_of(CLIPTextModel.init_params, ours))


def run_ours(module, params):
    outputs = jax.jit(lambda params, ids: module.apply({"params": params}, ids))(params, IDS)
    return [output for output in outputs if output is not None]


@pytest.mark.parametrize("name", arguments(transformers.CLIPTextConfig))
def test_every_argument_computes_what_it_does_in_pytorch(name):
    assert OTHER[name] not in (TEXT.get(name), getattr(transformers.CLIPTextConfig(), name))
    original, ours, params = make_pair(TEXT | {name: OTHER[name]})
    with torch.no_grad():
        expected, before = run_original(original), run_original(make_original(TEXT))
    for actual, wanted in zip(run_ours(ours, params), expected, strict=True):
        np.testing.assert_allclose(actual, wanted, atol=1e-4)
    changes = any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(expected, before, strict=True))
    assert changes == (name not in TOWER_IGNORED or name == "eos_token_id")


def test_fields_that_every_config_of_transformers_has_change_nothing():
    values = {n: value for n, value in (ABOUT_TOWERS | WITHOUT_EFFECT).items() if n != "eos_token_id"}
    with torch.no_grad():
        for changed, plain in zip(
            run_original(make_original(TEXT | values)), run_original(make_original(TEXT)), strict=True
        ):
            np.testing.assert_allclose(changed, plain, atol=1e-6)
    assert make_ours(TEXT | values) == make_ours(TEXT)


def test_ignored_fields_are_all_tested_and_all_that_transformers_writes():
    assert set(PRETRAINED_IGNORED) == set(WITHOUT_EFFECT) | PRECISION
    assert set(TOWER_IGNORED) == set(PRETRAINED_IGNORED) | set(ABOUT_TOWERS)
    written = {name for name in transformers.PretrainedConfig().to_dict() if not name.startswith("_")}
    assert written - {"model_type"} <= set(TOWER_IGNORED) | set(PRETRAINED_FIELDS)


@pytest.mark.parametrize("config", [{}, SD15, SD21, SDXL, transformers.CLIPTextConfig(**SD15).to_dict()])
def test_published_files_and_defaults_are_read_as_transformers_reads_them(config):
    original = transformers.CLIPTextConfig(**config)
    for name, value in dataclasses.asdict(CLIPTextConfig.read(config)).items():
        assert value == getattr(original, name), name


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_computed_is_refused_in_one_line(name):
    with pytest.raises(ValueError) as refusal:
        make_ours(TEXT | {name: REFUSED[name]})
    assert str(refusal.value).startswith(f"{name}={REFUSED[name]!r}: expected ")
    assert "\n" not in str(refusal.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("projects", "eos_token_id", "hidden_act", "depth"),
    [
        (True, 2, "gelu", 2),
        (True, 7, "quick_gelu", 5),
        (False, 2, "quick_gelu", 2),
        (False, 7, "gelu", 5),
    ],
)
def test_values_and_gradients_are_pytorchs(projects, eos_token_id, hidden_act, depth):
    config = TEXT | {"eos_token_id": eos_token_id, "hidden_act": hidden_act, "num_hidden_layers": depth}
    original, ours, params = make_pair(config, projects=projects)
    sum(torch.sin(output).sum() for output in run_original(original, projects=projects)).backward()

    def loss(params):
        return sum(jnp.sin(output).sum() for output in run_ours(ours, params))

    found = jax.jit(jax.grad(loss))(params)
    # Of five layers gradients are up to 50.
    assert_trees_close(found, grad_tree(original, params), atol=1e-4, rtol=1e-5 if depth > 2 else 0)


def test_eager_is_jitted():
    _, ours, params = make_pair(TEXT)
    for eager, jitted in zip(ours.apply({"params": params}, IDS), run_ours(ours, params), strict=True):
        np.testing.assert_allclose(eager, jitted, atol=1e-5)


def test_every_attention_is_the_kernels_and_causal():
    masks = []
    _, _, params = make_pair(TEXT)
    make_ours(TEXT, kernels=record_attention(masks)).apply({"params": params}, IDS)
    assert len(masks) == TEXT["num_hidden_layers"]
    for mask in masks:
        np.testing.assert_array_equal(mask, np.arange(8)[:, None] >= np.arange(8))


def test_bfloat16_is_near_float32():
    _, ours, params = make_pair(TEXT)
    rounded = make_ours(TEXT, dtype=jnp.bfloat16)
    for output, exact in zip(run_ours(rounded, params), run_ours(ours, params), strict=True):
        np.testing.assert_allclose(output.astype(jnp.float32), exact, atol=0.1 * np.abs(exact).max())
    dtypes = [output.dtype for output in run_ours(rounded, params)]
    assert dtypes == [jnp.bfloat16, jnp.float32, jnp.bfloat16, jnp.bfloat16]


def test_too_many_tokens_are_refused():
    with pytest.raises(ValueError, match="prompts of 10 tokens: expected at most max_position_embeddings=9"):
        jax.eval_shape(lambda: make_ours(TEXT).init(jax.random.key(0), jnp.zeros((1, 10), jnp.int32)))


def test_fields_are_those_of_the_config_class():
    sizes = {field.name for field in dataclasses.fields(CLIPTextConfig)}
    assert sizes == set(TEXT_FIELDS) - {"model_type", *PRETRAINED_FIELDS}
