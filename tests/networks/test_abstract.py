"""Shapes of weights: traced once for equal networks, and nobody's change is another's."""

import jax
import jax.numpy as jnp
import pytest

from rats_jax.networks.abstract import abstract_params
from rats_jax.networks.autoencoder_kl import AutoencoderKL
from rats_jax.networks.autoencoder_kl_wan import AutoencoderKLWan
from rats_jax.networks.clip import CLIPModel, init_clip
from rats_jax.networks.clip_text import CLIPTextModel
from rats_jax.networks.detector import Detector
from rats_jax.networks.flux import FluxTransformer2DModel
from rats_jax.networks.sd3 import SD3Transformer2DModel
from rats_jax.networks.t5 import T5EncoderModel
from rats_jax.networks.unet_2d import UNet2DConditionModel
from rats_jax.networks.wan import WanTransformer3DModel

NETWORKS = [
    (AutoencoderKL, {"block_out_channels": [32], "norm_num_groups": 8}, "decoder"),
    (CLIPTextModel, {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}, "text_model"),
    (Detector, {"num_classes": 3, "channels": [8, 16]}, "hidden"),
    (FluxTransformer2DModel, {"num_layers": 1, "num_single_layers": 1}, "proj_out"),
    (SD3Transformer2DModel, {"num_layers": 1}, "proj_out"),
    (AutoencoderKLWan, {"base_dim": 4, "num_res_blocks": 1}, "encoder"),
    (WanTransformer3DModel, {"num_layers": 1}, "proj_out"),
    (T5EncoderModel, {"num_layers": 1, "d_model": 8, "d_ff": 16}, "shared"),
    (UNet2DConditionModel, {"block_out_channels": [32, 32, 32, 32]}, "conv_in"),
]


@pytest.mark.parametrize(("network", "config", "part"), NETWORKS, ids=lambda x: getattr(x, "__name__", ""))
def test_shapes_are_those_of_weights(network, config, part, monkeypatch):
    module = network.from_config(config)
    shapes = module.abstract_params()
    drawn = jax.eval_shape(module.init_params, jax.random.key(0))
    assert jax.tree.structure(shapes) == jax.tree.structure(drawn)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), shapes, drawn))

    # An equal network is not traced again; a tree that a caller changed is that caller's.
    del shapes[part]
    monkeypatch.setattr(jax, "eval_shape", lambda *_: pytest.fail("traced again"))
    assert part in network.from_config(config).abstract_params()


def test_another_network_has_its_own_shapes():
    wide = CLIPTextModel.from_config({"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2})
    narrow = CLIPTextModel.from_config({"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2})
    assert (
        jax.tree.leaves(wide.abstract_params())[0].shape != jax.tree.leaves(narrow.abstract_params())[0].shape
    )
    assert UNet2DConditionModel.from_config({}, dtype=jnp.bfloat16) != UNet2DConditionModel.from_config({})


def test_a_reward_s_towers_are_traced_once(monkeypatch):
    config = {"text_config": {"num_hidden_layers": 1}, "vision_config": {"num_hidden_layers": 1}}
    first = abstract_params(init_clip, CLIPModel.from_config(config))
    monkeypatch.setattr(jax, "eval_shape", lambda *_: pytest.fail("traced again"))
    assert jax.tree.structure(
        abstract_params(init_clip, CLIPModel.from_config(config))
    ) == jax.tree.structure(first)
