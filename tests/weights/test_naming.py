"""Names and layouts of PyTorch, written out by hand from the files on the Hub; round trips; bad files."""

import stat

import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file, save_file

from rats_jax.errors import WeightsError
from rats_jax.weights.folder import save_safetensors
from rats_jax.weights.naming import to_torch_names, torch_name
from rats_jax.weights.state_dict import load_safetensors
from tests.tiny import write_tiny_pipeline, write_tiny_reward

# Flax path: name in the files of stable-diffusion-v1-5, clip-vit-large-patch14, PickScore_v1, FLUX.1-dev and
# stable-diffusion-3.5-medium.
NAMES = {
    "conv_in.kernel": "conv_in.weight",
    "conv_norm_out.scale": "conv_norm_out.weight",
    "time_embedding.linear_1.kernel": "time_embedding.linear_1.weight",
    "down_blocks_0.resnets_1.time_emb_proj.bias": "down_blocks.0.resnets.1.time_emb_proj.bias",
    "down_blocks_2.downsamplers_0.conv.kernel": "down_blocks.2.downsamplers.0.conv.weight",
    "up_blocks_10.upsamplers_0.conv.bias": "up_blocks.10.upsamplers.0.conv.bias",
    "up_blocks_1.resnets_2.conv_shortcut.kernel": "up_blocks.1.resnets.2.conv_shortcut.weight",
    "mid_block.attentions_0.proj_in.kernel": "mid_block.attentions.0.proj_in.weight",
    "mid_block.attentions_0.transformer_blocks_0.attn1.to_q.kernel": (
        "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    ),
    "down_blocks_0.attentions_1.transformer_blocks_0.attn2.to_out_0.kernel": (
        "down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_out.0.weight"
    ),
    "down_blocks_0.attentions_0.transformer_blocks_0.ff.net_0.proj.kernel": (
        "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj.weight"
    ),
    "down_blocks_0.attentions_0.transformer_blocks_0.ff.net_2.bias": (
        "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.2.bias"
    ),
    "down_blocks_0.attentions_0.transformer_blocks_0.norm3.scale": (
        "down_blocks.0.attentions.0.transformer_blocks.0.norm3.weight"
    ),
    "post_quant_conv.kernel": "post_quant_conv.weight",
    "encoder.down_blocks_1.downsamplers_0.conv.kernel": "encoder.down_blocks.1.downsamplers.0.conv.weight",
    "decoder.up_blocks_0.resnets_0.norm1.scale": "decoder.up_blocks.0.resnets.0.norm1.weight",
    "decoder.mid_block.attentions_0.group_norm.scale": "decoder.mid_block.attentions.0.group_norm.weight",
    "decoder.mid_block.attentions_0.query.kernel": "decoder.mid_block.attentions.0.to_q.weight",
    "decoder.mid_block.attentions_0.key.kernel": "decoder.mid_block.attentions.0.to_k.weight",
    "decoder.mid_block.attentions_0.value.bias": "decoder.mid_block.attentions.0.to_v.bias",
    "encoder.mid_block.attentions_0.proj_attn.kernel": "encoder.mid_block.attentions.0.to_out.0.weight",
    "text_model.embeddings.token_embedding.embedding": "text_model.embeddings.token_embedding.weight",
    "text_model.embeddings.position_embedding.embedding": "text_model.embeddings.position_embedding.weight",
    "text_model.encoder.layers.0.self_attn.q_proj.kernel": (
        "text_model.encoder.layers.0.self_attn.q_proj.weight"
    ),
    "text_model.encoder.layers.11.mlp.fc2.bias": "text_model.encoder.layers.11.mlp.fc2.bias",
    "text_model.final_layer_norm.scale": "text_model.final_layer_norm.weight",
    "vision_model.embeddings.class_embedding": "vision_model.embeddings.class_embedding",
    "vision_model.embeddings.patch_embedding.kernel": "vision_model.embeddings.patch_embedding.weight",
    "vision_model.pre_layrnorm.scale": "vision_model.pre_layrnorm.weight",
    "vision_model.post_layernorm.bias": "vision_model.post_layernorm.bias",
    "visual_projection.kernel": "visual_projection.weight",
    "text_projection.kernel": "text_projection.weight",
    "logit_scale": "logit_scale",
    "x_embedder.kernel": "x_embedder.weight",
    "time_text_embed.guidance_embedder.linear_1.kernel": "time_text_embed.guidance_embedder.linear_1.weight",
    "transformer_blocks_18.norm1_context.linear.kernel": "transformer_blocks.18.norm1_context.linear.weight",
    "transformer_blocks_0.attn.norm_added_q.scale": "transformer_blocks.0.attn.norm_added_q.weight",
    "transformer_blocks_0.attn.to_out_0.bias": "transformer_blocks.0.attn.to_out.0.bias",
    "transformer_blocks_3.attn.to_add_out.kernel": "transformer_blocks.3.attn.to_add_out.weight",
    "transformer_blocks_3.ff_context.net_0.proj.kernel": "transformer_blocks.3.ff_context.net.0.proj.weight",
    "transformer_blocks_12.attn2.to_out_0.kernel": "transformer_blocks.12.attn2.to_out.0.weight",
    "single_transformer_blocks_37.proj_mlp.bias": "single_transformer_blocks.37.proj_mlp.bias",
    "single_transformer_blocks_37.attn.to_q.kernel": "single_transformer_blocks.37.attn.to_q.weight",
    "pos_embed.pos_embed": "pos_embed.pos_embed",
}


def flax_path(dotted):
    return tuple(dotted.split("."))


@pytest.mark.parametrize("dotted", NAMES)
def test_torch_name(dotted):
    assert torch_name(flax_path(dotted)) == NAMES[dotted]


def test_written_folders_have_the_names_and_layouts_of_pytorch(tmp_path):
    pipeline, reward = write_tiny_pipeline(tmp_path / "pipeline"), write_tiny_reward(tmp_path / "reward")
    weights = "diffusion_pytorch_model.safetensors"
    unet, vae = load_file(pipeline / "unet" / weights), load_file(pipeline / "vae" / weights)
    text = load_file(pipeline / "text_encoder" / "model.safetensors")
    clip = load_file(reward / "model.safetensors")
    block = "mid_block.attentions.0"
    assert unet["conv_in.weight"].shape == (32, 4, 3, 3)
    assert unet["time_embedding.linear_1.weight"].shape == (128, 32)
    assert unet[f"{block}.proj_in.weight"].shape == (32, 32, 1, 1)
    assert unet[f"{block}.transformer_blocks.0.ff.net.0.proj.weight"].shape == (256, 32)
    assert unet[f"{block}.transformer_blocks.0.attn1.to_out.0.bias"].shape == (32,)
    assert vae["decoder.mid_block.attentions.0.to_q.weight"].shape == (16, 16)
    assert vae["encoder.down_blocks.0.downsamplers.0.conv.weight"].shape == (16, 16, 3, 3)
    assert vae["quant_conv.weight"].shape == (8, 8, 1, 1)
    assert text["text_model.embeddings.position_embedding.weight"].shape == (8, 32)
    assert text["text_model.encoder.layers.0.mlp.fc1.weight"].shape == (64, 32)
    assert clip["vision_model.embeddings.patch_embedding.weight"].shape == (32, 3, 8, 8)
    assert clip["visual_projection.weight"].shape == (16, 32)
    assert clip["logit_scale"].shape == ()
    assert {value.dtype for value in clip.values()} == {np.dtype(np.float16)}


SHAPES = {
    "mid_block.resnets_0.conv1.kernel": (3, 3, 4, 6),
    "mid_block.resnets_0.norm1.scale": (4,),
    "mid_block.attentions_0.proj_in.kernel": (1, 1, 4, 6),
    "mid_block.attentions_0.query.kernel": (6, 4),
    "mid_block.attentions_0.proj_attn.bias": (4,),
    "text_model.embeddings.token_embedding.embedding": (5, 4),
    "logit_scale": (),
}


def make_params(seed=0):
    rng = np.random.default_rng(seed)
    return unflatten_dict({flax_path(d): rng.normal(size=s).astype(np.float32) for d, s in SHAPES.items()})


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 0.0), (np.float16, 2.0**-11)])
def test_round_trip(tmp_path, dtype, rtol):
    """float16 has a significand of 11 bits: rounding is off by at most 2**-11 of the value."""
    params = make_params()
    file = tmp_path / "new" / "model.safetensors"
    save_safetensors(file, params, dtype=dtype)
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    loaded = load_safetensors(file, params)
    for path, value in flatten_dict(params).items():
        actual = flatten_dict(loaded)[path]
        assert actual.dtype == np.float32 and actual.shape == value.shape
        np.testing.assert_allclose(actual, value, rtol=rtol, atol=1e-7 if rtol else 0)
    assert load_file(file)["mid_block.attentions.0.to_q.weight"].dtype == dtype


def test_layouts_are_transposed_as_pytorch_stores_them():
    """Linear [out, in] and Conv2d [out, in, height, width]: the element-wise definition of both layouts."""
    params = flatten_dict(make_params())
    tensors = to_torch_names(make_params())
    convolution = params[flax_path("mid_block.resnets_0.conv1.kernel")]
    linear = params[flax_path("mid_block.attentions_0.query.kernel")]
    for h, w, i, o in np.ndindex(convolution.shape):
        assert tensors["mid_block.resnets.0.conv1.weight"][o, i, h, w] == convolution[h, w, i, o]
    for i, o in np.ndindex(linear.shape):
        assert tensors["mid_block.attentions.0.to_q.weight"][o, i] == linear[i, o]
    embedding = tensors["text_model.embeddings.token_embedding.weight"]
    np.testing.assert_array_equal(
        embedding, params[flax_path("text_model.embeddings.token_embedding.embedding")]
    )
    assert all(value.flags["C_CONTIGUOUS"] for value in tensors.values())


@pytest.fixture
def stored(tmp_path):
    """A file, its tensors, and a function that overwrites the file with other tensors."""
    file = tmp_path / "weights.safetensors"
    tensors = to_torch_names(make_params())

    def store(changed):
        save_file(changed, str(file))
        return file

    store(tensors)
    return file, tensors, store


def test_projections_are_read_from_linear_and_from_convolution_files(stored):
    file, tensors, store = stored
    linear, convolution = "mid_block.attentions.0.to_q.weight", "mid_block.attentions.0.proj_in.weight"
    swapped = {
        linear: np.ascontiguousarray(tensors[linear][:, :, None, None]),
        convolution: np.ascontiguousarray(tensors[convolution][:, :, 0, 0]),
    }
    loaded = load_safetensors(store(tensors | swapped), make_params())
    expected = flatten_dict(make_params())
    for path, value in flatten_dict(loaded).items():
        np.testing.assert_array_equal(value, expected[path])


def test_old_attention_names_a_prefix_and_old_buffers_are_read(stored):
    file, tensors, store = stored
    old = {"to_q": "query", "to_out.0": "proj_attn"}
    renamed = {}
    for name, value in tensors.items():
        for new_part, old_part in old.items():
            name = name.replace(f"attentions.0.{new_part}", f"attentions.0.{old_part}")
        renamed[f"model.{name}"] = value
    renamed["model.text_model.embeddings.position_ids"] = np.arange(5)
    assert "model.mid_block.attentions.0.proj_attn.bias" in renamed
    loaded = load_safetensors(store(renamed), make_params(), prefix="model.")
    expected = flatten_dict(make_params())
    for path, value in flatten_dict(loaded).items():
        np.testing.assert_array_equal(value, expected[path])


CONVOLUTION = "mid_block.resnets.0.conv1.weight"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: t.pop(CONVOLUTION), f"missing {CONVOLUTION}"),
        (lambda t: t.update({"lora.down.weight": np.zeros(3)}), "unexpected lora.down.weight"),
        (
            lambda t: t.update({CONVOLUTION: np.zeros((6, 5, 3, 3), np.float32)}),
            rf"{CONVOLUTION} has shape \(3, 3, 5, 6\) \(Flax layout\), expected \(3, 3, 4, 6\)",
        ),
        (lambda t: t.update({"logit_scale": np.zeros(1, np.float32)}), r"logit_scale has shape \(1,\)"),
        (lambda t: [t.pop(name) for name in list(t)] and t.update(x=np.zeros(1)), "missing .*; missing"),
    ],
)
def test_weights_that_do_not_fit_are_named_with_their_file(stored, change, expected):
    file, tensors, store = stored
    change(tensors)
    with pytest.raises(WeightsError, match=rf"^weights file '.*weights.safetensors' .*{expected}") as caught:
        load_safetensors(store(tensors), make_params())
    assert "\n" not in str(caught.value)


def test_a_long_list_of_problems_is_cut(tmp_path):
    params = {f"layer{i}": {"kernel": np.zeros((2, 2))} for i in range(20)}
    save_safetensors(tmp_path / "other.safetensors", {"x": np.zeros(1)})
    with pytest.raises(WeightsError, match="; and 13 more$"):
        load_safetensors(tmp_path / "other.safetensors", params)


def test_absent_files_are_named(stored):
    file, _, _ = stored
    file.unlink()
    with pytest.raises(WeightsError, match="^weights file '.*weights.safetensors' does not exist$"):
        load_safetensors(file, make_params())
