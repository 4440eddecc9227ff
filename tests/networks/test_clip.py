"""CLIP, the dual encoder: every field, value and gradient against PyTorch."""

import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from rats_jax.networks.clip import (
    IMAGE_TOWER,
    TEXT_TOWER,
    CLIPConfig,
    CLIPModel,
    embed_images,
    embed_text,
    init_clip,
    to_unit_length,
)
from rats_jax.networks.clip_encoder import TOWER_IGNORED
from rats_jax.networks.clip_text import CLIPTextConfig
from rats_jax.networks.clip_vision import VISION_FIELDS, CLIPVisionConfig
from rats_jax.networks.kernels import Kernels
from rats_jax.networks.pretrained_fields import PRETRAINED_FIELDS
from tests.clip_originals import (
    ABOUT_TOWERS,
    CLIP,
    IDS,
    PIXELS,
    TEXT,
    VISION,
    assert_trees_close,
    grad_tree,
    randomise,
    record_attention,
    shapes_of,
    to_tree,
)
from tests.pretrained_originals import WITHOUT_EFFECT, arguments

# A value of each argument of the PyTorch classes that is neither the default nor that of CLIP.
OTHER_VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "projection_dim": 9,
    "num_hidden_layers": 6,
    "num_attention_heads": 3,
    "num_channels": 2,
    "image_size": 18,  # patches of 4 leave two rows and columns over
    "patch_size": 8,
    "hidden_act": "gelu",
    "layer_norm_eps": 0.1,
    "attention_dropout": 0.5,
    "initializer_range": 0.5,
    "initializer_factor": 3.0,
}
OTHER = {
    "text_config": TEXT | {"num_attention_heads": 4, "projection_dim": 9},
    "vision_config": VISION | {"num_attention_heads": 3, "projection_dim": 9},
    "projection_dim": 9,
    "logit_scale_init_value": -1.0,
    "initializer_factor": 3.0,
}
REFUSED = [
    ("", "projection_dim", None),
    ("", "logit_scale_init_value", "2.6592"),
    ("", "text_config", 3),
    ("", "vision_config_dict", [VISION]),
    ("", "model_type", "siglip"),
    ("", "vision_feature_layer", -2),
    ("text_config", "hidden_act", "gelu_new"),
    ("text_config", "rope_theta", 1.0),
    ("vision_config", "image_size", [16, 16]),
    ("vision_config", "patch_size", 17),
    ("vision_config", "num_channels", 0),
    ("vision_config", "hidden_size", 13),
    ("vision_config", "model_type", "siglip_vision_model"),
    ("vision_config", "pruned_heads", {"0": [1]}),
]
# As OpenAI's ViT-L/14 was published: each tower twice.
_OPENAI_TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
_OPENAI_TEXT |= {"num_hidden_layers": 12, "projection_dim": 768}
_OPENAI_VISION = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}
_OPENAI_VISION |= {"num_hidden_layers": 24, "patch_size": 14, "projection_dim": 768}
OPENAI = {
    "architectures": ["CLIPModel"],
    "initializer_factor": 1.0,
    "logit_scale_init_value": 2.6592,
    "model_type": "clip",
    "projection_dim": 768,
    "text_config": ABOUT_TOWERS
    | WITHOUT_EFFECT
    | _OPENAI_TEXT
    | {"eos_token_id": 2, "model_type": "clip_text_model", "pruned_heads": {}, "torch_dtype": None},
    "text_config_dict": _OPENAI_TEXT,
    "torch_dtype": "float32",
    "transformers_version": None,
    "vision_config": ABOUT_TOWERS
    | WITHOUT_EFFECT
    | _OPENAI_VISION
    | {"model_type": "clip_vision_model", "image_size": 224},
    "vision_config_dict": _OPENAI_VISION,
}
FILES = {
    "nothing": {},
    "null": {"text_config": None, "vision_config": None},
    "both towers": CLIP,
    "as written": transformers.CLIPConfig(**copy.deepcopy(CLIP)).to_dict(),
    "OpenAI": OPENAI,
    "short ones alone": {"text_config_dict": TEXT, "vision_config_dict": VISION},
    "short ones that disagree": CLIP
    | {"text_config_dict": {"hidden_size": 24}, "vision_config_dict": {"hidden_act": "gelu"}},
    "short ones that are empty": CLIP | {"text_config_dict": {}, "vision_config_dict": {}},
}


def make_original(config):
    return randomise(transformers.CLIPModel(transformers.CLIPConfig(**copy.deepcopy(config))))


def project_images(original, pixels):
    """Features of pixels [B, S, S, 3]; from transformers 5 on they come with others."""
    features = original.get_image_features(torch.as_tensor(pixels).permute(0, 3, 1, 2))
    return getattr(features, "pooler_output", features)


def run_original(original, pixels=PIXELS):
    """Everything that ours gives, in its order."""
    ids = torch.from_numpy(IDS).long()
    outputs = original(ids, torch.as_tensor(pixels).permute(0, 3, 1, 2))
    texts = original.get_text_features(ids)
    return outputs.logits_per_image, project_images(original, pixels), getattr(texts, "pooler_output", texts)


def make_pair(config):
    original, ours = make_original(config), CLIPModel.from_config(config)
    return original, ours, to_tree(original.state_dict(), shapes_of(init_clip, ours))


def apply_ours(module, params, pixels):
    variables = {"params": params}
    return (
        module.apply(variables, IDS, pixels),
        module.apply(variables, pixels, method=module.project_images),
        module.apply(variables, IDS, method=module.project_text),
    )


def run_ours(module, params, pixels=PIXELS):
    return jax.jit(lambda params, pixels: apply_ours(module, params, pixels))(params, pixels)


@pytest.mark.parametrize("name", arguments(transformers.CLIPVisionConfig))
def test_every_argument_of_the_vision_tower_computes_what_it_does_in_pytorch(name):
    assert OTHER_VISION[name] not in (VISION.get(name), getattr(transformers.CLIPVisionConfig(), name))
    vision = VISION | {name: OTHER_VISION[name]}
    shape = (2, vision["image_size"], vision["image_size"], vision.get("num_channels", 3))
    pixels = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    original, ours, params = make_pair(CLIP | {"vision_config": vision})
    with torch.no_grad():
        expected, before = project_images(original, pixels), project_images(make_original(CLIP), PIXELS)
    actual = jax.jit(lambda p, x: ours.apply({"params": p}, x, method=ours.project_images))(params, pixels)
    np.testing.assert_allclose(actual, expected, atol=1e-4)
    assert torch.equal(expected, before) == (name in TOWER_IGNORED or name == "projection_dim")


@pytest.mark.parametrize("name", arguments(transformers.CLIPConfig))
def test_every_argument_of_the_dual_encoder_computes_what_it_does_in_pytorch(name):
    config = CLIP | {name: OTHER[name]}
    original, ours, params = make_pair(config)
    with torch.no_grad():
        expected, before = run_original(original), run_original(make_original(CLIP))
    for actual, wanted in zip(run_ours(ours, params), expected, strict=True):
        np.testing.assert_allclose(actual, wanted, atol=1e-4)
    same = all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(expected, before, strict=True))
    # The scale is in the weights, which are drawn anew.
    assert same == (name in ("logit_scale_init_value", "initializer_factor"))


def test_the_first_logit_scale_is_the_configs():
    module = CLIPModel.from_config(CLIP | {"logit_scale_init_value": -1.0})
    assert init_logit_scale(module) == -1.0
    assert init_logit_scale(CLIPModel.from_config(CLIP)) == np.float32(
        transformers.CLIPConfig().logit_scale_init_value
    )


def init_logit_scale(module):
    return jax.jit(lambda: init_clip(module, jax.random.key(0))["logit_scale"])()


def test_fields_that_every_config_of_transformers_has_change_nothing():
    without_effect = ABOUT_TOWERS | WITHOUT_EFFECT
    text = {name: value for name, value in without_effect.items() if name != "eos_token_id"}
    config = CLIP | without_effect
    config |= {"text_config": TEXT | text, "vision_config": VISION | without_effect}
    with torch.no_grad():
        for changed, plain in zip(
            run_original(make_original(config)), run_original(make_original(CLIP)), strict=True
        ):
            np.testing.assert_allclose(changed, plain, atol=1e-6)
    assert CLIPModel.from_config(config) == CLIPModel.from_config(CLIP)


@pytest.mark.parametrize("file", FILES)
def test_files_are_read_as_transformers_reads_them(file):
    config = FILES[file]
    before, original = copy.deepcopy(config), transformers.CLIPConfig(**copy.deepcopy(config))
    for name, value in dataclasses.asdict(CLIPConfig.read(config)).items():
        wanted = getattr(original, name)
        if isinstance(value, dict):
            wanted = {field: getattr(wanted, field) for field in value}
        assert value == wanted, name
    assert config == before


@pytest.mark.parametrize(("tower", "name", "value"), REFUSED)
def test_what_is_not_computed_is_refused_in_one_line(tower, name, value):
    config = CLIP | ({tower: CLIP[tower] | {name: value}} if tower else {name: value})
    with pytest.raises(ValueError) as refusal:
        CLIPModel.from_config(config)
    place = f"{tower}.{name}" if tower else name
    assert str(refusal.value).startswith(f"{place}={value!r}: expected ")
    assert "\n" not in str(refusal.value)


@pytest.mark.slow
@pytest.mark.parametrize(("hidden_act", "eos_token_id", "depth"), [("quick_gelu", 7, 2), ("gelu", 2, 5)])
def test_gradients_are_pytorchs(hidden_act, eos_token_id, depth):
    same = {"hidden_act": hidden_act, "num_hidden_layers": depth}
    text = TEXT | same | {"eos_token_id": eos_token_id}
    config = CLIP | {"text_config": text, "vision_config": VISION | same}
    original, ours, params = make_pair(config)
    pixels = torch.tensor(PIXELS, requires_grad=True)
    sum(torch.sin(output).sum() for output in run_original(original, pixels)).backward()

    def loss(params, pixels):
        return sum(jnp.sin(output).sum() for output in run_ours(ours, params, pixels))

    of_params, of_pixels = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, PIXELS)
    assert_trees_close(of_params, grad_tree(original, params), atol=1e-4)
    np.testing.assert_allclose(of_pixels, pixels.grad, atol=1e-4)
    assert np.abs(of_pixels).max() > 0.01


def test_embeddings_are_pytorchs_of_unit_length_and_each_reads_its_own_tower():
    original, ours, params = make_pair(CLIP)
    images = np.random.default_rng(1).uniform(size=(2, 16, 16, 3)).astype(np.float32)
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    with torch.no_grad():
        _, image, text = run_original(original, (images - np.float32(mean)) / np.float32(std))
    vision_params, text_params = ({n: params[n] for n in names} for names in (IMAGE_TOWER, TEXT_TOWER))
    for actual, wanted in (
        (jax.jit(lambda images: embed_images(ours, vision_params, images))(images), image),
        (jax.jit(lambda ids: embed_text(ours, text_params, ids))(IDS), text),
    ):
        np.testing.assert_allclose(actual, torch.nn.functional.normalize(wanted), atol=1e-5)
        assert actual.dtype == jnp.float32


def test_images_are_shown_as_the_preprocessing_leaves_them():
    _, ours, params = make_pair(CLIP)
    images = jax.random.uniform(jax.random.key(0), (2, 20, 24, 3))
    corner = embed_images(ours, params, images, preprocess=lambda images, side: images[:, :side, :side])
    np.testing.assert_allclose(corner, embed_images(ours, params, images[:, :16, :16]), atol=1e-6)


def test_gradients_are_finite_where_there_is_nothing_to_see():
    _, ours, params = make_pair(CLIP)
    gradient = jax.jit(jax.grad(lambda images: embed_images(ours, params, images).sum()))
    assert np.isfinite(gradient(jnp.zeros((2, 16, 16, 3)))).all()
    assert np.isfinite(jax.grad(lambda x: to_unit_length(x).sum())(jnp.zeros((2, 4)))).all()


def test_eager_is_jitted():
    _, ours, params = make_pair(CLIP)
    for eager, jitted in zip(apply_ours(ours, params, PIXELS), run_ours(ours, params), strict=True):
        np.testing.assert_allclose(eager, jitted, atol=1e-5)


def test_every_attention_and_convolution_is_the_kernels():
    masks, strides = [], []
    _, _, params = make_pair(CLIP)
    plain = Kernels().convolve

    def convolve(inputs, kernel, steps, padding):
        strides.append((steps, padding))
        return plain(inputs, kernel, steps, padding)

    kernels = dataclasses.replace(record_attention(masks), convolve=convolve)
    module = CLIPModel.from_config(CLIP, kernels=kernels)
    module.apply({"params": params}, PIXELS, method=module.project_images)
    assert masks == [None] * VISION["num_hidden_layers"]
    assert strides == [((4, 4), ((0, 0), (0, 0)))]
    module.apply({"params": params}, IDS, method=module.project_text)
    assert len(masks) == VISION["num_hidden_layers"] + TEXT["num_hidden_layers"]


def test_bfloat16_is_near_float32():
    _, ours, params = make_pair(CLIP)
    rounded = CLIPModel.from_config(CLIP, dtype=jnp.bfloat16)
    for output, exact in zip(run_ours(rounded, params), run_ours(ours, params), strict=True):
        np.testing.assert_allclose(output.astype(jnp.float32), exact, atol=0.1 * np.abs(exact).max())
    dtypes = [output.dtype for output in run_ours(rounded, params)]
    assert dtypes == [jnp.float32, jnp.bfloat16, jnp.bfloat16]


def test_pictures_of_another_size_are_refused():
    module = CLIPModel.from_config(CLIP)
    with pytest.raises(ValueError, match=r"pictures of \(16, 20, 3\): expected \(16, 16, 3\)"):
        jax.eval_shape(lambda: module.init(jax.random.key(0), IDS, jnp.zeros((1, 16, 20, 3))))


def test_fields_are_those_of_the_config_class():
    sizes = {field.name for field in dataclasses.fields(CLIPVisionConfig)}
    assert sizes == set(VISION_FIELDS) - {"model_type", *PRETRAINED_FIELDS}
    assert isinstance(CLIPConfig.read(CLIP).text_config, CLIPTextConfig)
