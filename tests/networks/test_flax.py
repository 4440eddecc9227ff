"""Networks against the Flax classes of the last diffusers and transformers with any: trees, draws, bits."""

import copy
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from flax.traverse_util import flatten_dict

from rats_jax.networks.autoencoder_kl import AutoencoderKL
from rats_jax.networks.clip import CLIPModel, init_clip
from rats_jax.networks.clip_text import CLIPTextModel, CLIPTextModelWithProjection
from rats_jax.networks.kernels import Kernels
from rats_jax.networks.layers import ACTIVATIONS
from rats_jax.networks.unet_2d import UNet2DConditionModel
from rats_jax.pipelines.published import PUBLISHED
from rats_jax.weights.naming import unstack
from tests import tiny
from tests.clip_originals import (
    CLIP,
    IDS,
    PIXELS,
    TEXT,
    VISION,
    assert_trees_close,
    attend_as_flax,
    describe_weights,
    draw_weights,
    shapes_of,
)

_REASON = "the Flax classes are gone from this version; the pinned one has them"
_WITH_UNET = [name for name in PUBLISHED if "unet/config.json" in PUBLISHED[name]]


def make_of_diffusers(module, name, config):
    """Build a Flax class of diffusers from those fields of a config that it knows."""
    network = getattr(pytest.importorskip(f"diffusers.models.{module}", reason=_REASON), name)
    known = inspect.signature(network).parameters
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items() if k in known}
    return network(**{k: v for k, v in fields.items() if v is not None})


def make_unet(config):
    return make_of_diffusers("unets.unet_2d_condition_flax", "FlaxUNet2DConditionModel", config)


def make_vae(config):
    return make_of_diffusers("vae_flax", "FlaxAutoencoderKL", config)


def init_unet(network, key):
    sample = jnp.zeros((1, network.in_channels, network.sample_size, network.sample_size))
    added = None
    if network.addition_embed_type == "text_time":
        pooled = network.projection_class_embeddings_input_dim - 6 * network.addition_time_embed_dim
        added = {"text_embeds": jnp.zeros((1, pooled)), "time_ids": jnp.zeros((1, 6))}
    embeds = jnp.zeros((1, 1, network.cross_attention_dim))
    return network.init(key, sample, jnp.zeros((1,), jnp.int32), embeds, added)["params"]


def init_vae(network, key):
    size = network.sample_size
    return network.init(key, jnp.zeros((1, network.in_channels, size, size)))["params"]


def make_of_transformers(name, config):
    module = pytest.importorskip("transformers.models.clip.modeling_flax_clip", reason=_REASON)
    return getattr(module, name)(config)


def make_flax_clip(config):
    return make_of_transformers("FlaxCLIPModule", transformers.CLIPConfig(**copy.deepcopy(config)))


def init_flax_clip(module, key):
    ids = jnp.asarray(IDS)
    return module.init(key, ids, PIXELS, jnp.ones_like(ids), jnp.zeros_like(ids))["params"]


def make_flax_text(config, *, projects):
    name = "FlaxCLIPTextModelWithProjectionModule" if projects else "FlaxCLIPTextModule"
    return make_of_transformers(name, transformers.CLIPTextConfig(**config))


def init_flax_text(module, key):
    ids = jnp.asarray(IDS)
    return module.init(key, ids, jnp.ones_like(ids), jnp.zeros_like(ids))["params"]


def make_text(config, *, projects, **options):
    network = CLIPTextModelWithProjection if projects else CLIPTextModel
    return network.from_config(config, **options)


def assert_same_shapes(network, wanted):
    """Hold paths and shapes of a network's weights, which are float32, against those of a tree."""
    found = flatten_dict(network.abstract_params())
    shapes = {}
    for path, leaf in found.items():
        layers = unstack(path)
        shapes |= {path: leaf.shape} if layers is None else dict.fromkeys(layers, leaf.shape[1:])
    assert shapes == {p: v.shape for p, v in flatten_dict(wanted).items()}
    assert {leaf.dtype for leaf in found.values()} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("name", _WITH_UNET)
def test_the_tree_of_a_published_unet_is_that_of_flax(name):
    config = PUBLISHED[name]["unet/config.json"]
    network = UNet2DConditionModel.from_config(config, dtype=jnp.bfloat16)
    assert_same_shapes(network, shapes_of(init_unet, make_unet(config)))
    assert (network.sample_size, network.in_channels, network.out_channels) == (config["sample_size"], 4, 4)
    assert network.cross_attention_dim == config["cross_attention_dim"]
    assert network.addition_embed_type == config.get("addition_embed_type")
    assert network.pooled_dim == (1280 if network.addition_embed_type else 0)


@pytest.mark.parametrize("name", _WITH_UNET)
def test_the_tree_of_a_published_autoencoder_is_that_of_flax(name):
    config = PUBLISHED[name]["vae/config.json"]
    network = AutoencoderKL.from_config(config, dtype=jnp.bfloat16)
    assert_same_shapes(network, shapes_of(init_vae, make_vae(config)))
    assert (network.sample_size, network.downscale) == (config["sample_size"], 8)
    assert (network.in_channels, network.latent_channels) == (3, 4)
    assert (network.scaling_factor, network.shift_factor) == (config["scaling_factor"], None)


def test_the_tree_of_clip_is_that_of_flax():
    assert describe_weights(init_clip, CLIPModel.from_config(CLIP)) == describe_weights(
        init_flax_clip, make_flax_clip(CLIP)
    )


@pytest.mark.parametrize("projects", [True, False])
def test_the_tree_of_a_text_encoder_is_that_of_flax(projects):
    ours = describe_weights(CLIPTextModel.init_params, make_text(TEXT, projects=projects))
    assert ours == describe_weights(init_flax_text, make_flax_text(TEXT, projects=projects))


@pytest.mark.slow
def test_initial_weights_of_a_unet_are_those_of_flax():
    found = draw_weights(UNet2DConditionModel.init_params, UNet2DConditionModel.from_config(tiny.UNET))
    assert_trees_close(found, draw_weights(init_unet, make_unet(tiny.UNET)), atol=0)


@pytest.mark.slow
def test_initial_weights_of_clip_are_those_of_flax():
    layers = {"num_hidden_layers": 1}  # a program of many draws takes long to compile
    config = CLIP | {"text_config": TEXT | layers, "vision_config": VISION | layers}
    wanted = draw_weights(init_flax_clip, make_flax_clip(config))
    assert_trees_close(draw_weights(init_clip, CLIPModel.from_config(config)), wanted, atol=0)


@pytest.mark.slow
def test_initial_weights_of_a_text_encoder_are_those_of_flax():
    wanted = draw_weights(init_flax_text, make_flax_text(TEXT, projects=True))
    found = draw_weights(CLIPTextModel.init_params, make_text(TEXT, projects=True))
    assert_trees_close(found, wanted, atol=0)


@pytest.mark.slow
def test_bits_of_clip_are_those_of_flax_with_its_order_of_attention_and_its_slopes(monkeypatch):
    monkeypatch.setitem(ACTIVATIONS, "quick_gelu", ACTIVATIONS["quick_gelu"].__wrapped__)
    theirs = make_flax_clip(CLIP)
    ours = CLIPModel.from_config(CLIP, kernels=Kernels(attend=attend_as_flax))
    params = tiny.random_params(shapes_of(init_clip, ours), seed=0)

    def project(module, pixels):
        return module.visual_projection(module.vision_model(pixels)[1])

    def run(module, method):
        def loss(pixels):
            features = module.apply({"params": params}, pixels, method=method)
            return jnp.sum(jnp.sin(features)), features

        return jax.jit(jax.grad(loss, has_aux=True))(PIXELS)

    for actual, wanted in zip(run(ours, ours.project_images), run(theirs, project), strict=True):
        np.testing.assert_array_equal(actual, wanted)
        assert np.abs(actual).max() > 0.01


def test_bits_of_a_text_encoder_are_those_of_flax_with_its_order_of_attention():
    theirs = make_flax_text(TEXT, projects=True)
    ours = make_text(TEXT, projects=True, kernels=Kernels(attend=attend_as_flax))
    params = tiny.random_params(shapes_of(CLIPTextModel.init_params, ours), seed=0)
    positions = jnp.broadcast_to(jnp.arange(IDS.shape[1]), IDS.shape)

    @jax.jit
    def run_theirs(params):
        outputs = theirs.apply(
            {"params": params}, IDS, jnp.ones_like(IDS), positions, output_hidden_states=True
        )
        return outputs.last_hidden_state, outputs.hidden_states[-2], outputs.text_embeds

    last, penultimate, _, projected = jax.jit(lambda params: ours.apply({"params": params}, IDS))(params)
    for actual, wanted in zip((last, penultimate, projected), run_theirs(params), strict=True):
        np.testing.assert_array_equal(actual, wanted)
        assert np.abs(actual).max() > 0.01
