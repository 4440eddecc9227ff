"""Every field of every network's config with values that no config should have: refused at once, or read."""

import contextlib
import math
from pathlib import Path

import pytest

from rats_jax.networks.abstract import abstract_params
from rats_jax.networks.autoencoder_kl import FIELDS as VAE_FIELDS
from rats_jax.networks.autoencoder_kl import AutoencoderKL
from rats_jax.networks.autoencoder_kl_wan import FIELDS as WAN_VAE_FIELDS
from rats_jax.networks.autoencoder_kl_wan import AutoencoderKLWan
from rats_jax.networks.clip import CLIPModel, init_clip
from rats_jax.networks.clip_text import TEXT_FIELDS, CLIPTextModel
from rats_jax.networks.clip_vision import VISION_FIELDS
from rats_jax.networks.flux import FIELDS as FLUX_FIELDS
from rats_jax.networks.flux import FluxTransformer2DModel
from rats_jax.networks.sd3 import FIELDS as SD3_FIELDS
from rats_jax.networks.sd3 import SD3Transformer2DModel
from rats_jax.networks.t5 import T5EncoderModel, UMT5EncoderModel
from rats_jax.networks.unet_2d import UNet2DConditionModel
from rats_jax.networks.unet_2d_config import FIELDS as UNET_FIELDS
from rats_jax.networks.wan import FIELDS as WAN_FIELDS
from rats_jax.networks.wan import WanTransformer3DModel
from tests.tiny import UNET, VAE

VALUES = (None, "4", "", [], [1], [None], {}, True, False, -1, 0, 0.5, math.nan, math.inf, 1, 10**9, 10**400)
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT = TOWER | {"vocab_size": 50, "max_position_embeddings": 8}
VISION = TOWER | {"image_size": 16, "patch_size": 8}
FLUX = {"in_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 8} | {
    "num_attention_heads": 2,
    "axes_dims_rope": [2, 4, 2],
    "joint_attention_dim": 16,
    "pooled_projection_dim": 16,
}
SD3 = {"sample_size": 8, "num_layers": 1, "attention_head_dim": 8, "num_attention_heads": 2} | {
    "in_channels": 4,
    "out_channels": 4,
    "joint_attention_dim": 16,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 16,
    "pos_embed_max_size": 8,
}
T5 = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
WAN = {"num_attention_heads": 1, "attention_head_dim": 6, "in_channels": 4, "out_channels": 4} | {
    "text_dim": 8,
    "freq_dim": 4,
    "ffn_dim": 8,
    "num_layers": 1,
}
WAN_VAE = {"base_dim": 4, "z_dim": 1, "dim_mult": [1, 1], "num_res_blocks": 1} | {
    "temperal_downsample": [True],
    "latents_mean": [0.1],
    "latents_std": [1.5],
    "scale_factor_temporal": 2,
    "scale_factor_spatial": 2,
}
NETWORKS = {
    "UNet": (UNet2DConditionModel.from_config, UNET, UNET_FIELDS),
    "autoencoder": (AutoencoderKL.from_config, VAE, VAE_FIELDS),
    "CLIP's text encoder": (CLIPTextModel.from_config, TEXT, TEXT_FIELDS),
    "CLIP's picture tower": (
        lambda config: CLIPModel.from_config({"text_config": TEXT, "vision_config": config}),
        VISION,
        VISION_FIELDS,
    ),
    "FLUX": (FluxTransformer2DModel.from_config, FLUX, FLUX_FIELDS),
    "SD3": (SD3Transformer2DModel.from_config, SD3, SD3_FIELDS),
    "T5": (T5EncoderModel.from_config, T5, T5EncoderModel.fields),
    "UMT5": (UMT5EncoderModel.from_config, T5, UMT5EncoderModel.fields),
    "Wan": (WanTransformer3DModel.from_config, WAN, WAN_FIELDS),
    "autoencoder of videos": (AutoencoderKLWan.from_config, WAN_VAE, WAN_VAE_FIELDS),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_value_is_read_or_refused_in_a_line_with_a_field(name):
    make, good, fields = NETWORKS[name]
    make(good)
    refused = 0
    for field in fields:
        for value in VALUES:
            try:
                make({**good, field: value})
            except ValueError as error:
                refused += 1
                named = [
                    other for other in fields if str(error).removeprefix("vision_config.").startswith(other)
                ]
                assert named and "\n" not in str(error), (field, value, error)
    assert refused > 4 * len(fields)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("UNet", "sample_size", 10**9),
        ("UNet", "sample_size", [8, 10**9]),
        ("UNet", "layers_per_block", 10**6),
        ("UNet", "transformer_layers_per_block", [10**6]),
        ("autoencoder", "sample_size", 10**9),
        ("autoencoder", "layers_per_block", 10**6),
        ("CLIP's text encoder", "num_hidden_layers", 10**6),
        ("CLIP's picture tower", "image_size", 10**9),
        ("FLUX", "num_layers", 10**6),
        ("FLUX", "num_single_layers", 10**6),
        ("SD3", "num_layers", 10**6),
        ("SD3", "sample_size", 10**9),
        ("SD3", "pos_embed_max_size", 10**9),
        ("T5", "num_layers", 10**6),
        ("UMT5", "num_layers", 10**6),
        ("Wan", "num_layers", 10**6),
        ("Wan", "patch_size", [1, 1, 10**6]),
        ("autoencoder of videos", "num_res_blocks", 10**6),
    ],
)
def test_what_is_counted_out_or_drawn_has_a_limit(name, field, value):
    make, good, _ = NETWORKS[name]
    with pytest.raises(ValueError, match=rf"^(vision_config\.)?{field}="):
        make({**good, field: value})


def test_a_table_of_positions_is_not_computed_for_its_shape():
    sizes = {"attention_head_dim": 10**6, "caption_projection_dim": 2 * 10**6, "pos_embed_max_size": 2048}
    shapes = SD3Transformer2DModel.from_config({**SD3, **sizes}).abstract_params()  # 33 TB
    assert shapes["pos_embed"]["pos_embed"].shape == (1, 2048**2, 2 * 10**6)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_sizes_that_no_machine_has_take_no_memory(name):
    """Their weights are shapes until they are found not to be those of the file."""
    resource = pytest.importorskip("resource")
    make, good, fields = NETWORKS[name]

    def shapes(config):
        module = make(config)
        return (
            abstract_params(init_clip, module) if isinstance(module, CLIPModel) else module.abstract_params()
        )

    shapes(good)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**30, limits[1]))
    try:
        for field in fields:
            with contextlib.suppress(ValueError):  # refused
                shapes({**good, field: 10**9})
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
