"""ImageReward: its original of transformers' BLIP parts under its own names, and its size."""

import json

import jax.numpy as jnp
import torch

from rats_jax.rewards.imagereward import describe_imagereward
from tests.originals import PROMPTS, SIDE, crop_torchvision, make_head, normalise, randomise
from tests.rewards.sizes import count, layer

# Patches with bias, class token, positions, a norm at the end.
BLIP = 3 * 16 * 16 * 1024 + 1024 + 1024 + 197 * 1024 + 2 * 1024 + 24 * layer(1024, 4096)
BERT = (30524 + 512) * 768 + 2 * 768 + 12 * layer(768, 3072, context=1024)

# transformers' name of a part of BLIP, and the name in the checkpoint of ImageReward.
_IMAGE_NAMES = {
    "embeddings.class_embedding": "cls_token",
    "embeddings.position_embedding": "pos_embed",
    "embeddings.patch_embedding": "patch_embed.proj",
    "encoder.layers": "blocks",
    "layer_norm": "norm",
    "self_attn.qkv": "attn.qkv",
    "self_attn.projection": "attn.proj",
    "post_layernorm": "norm",
}
WORDPIECES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "photo",
    "of",
    "cat",
    "dog",
    "two",
    "red",
    "apple",
]
WORDPIECES += ["##s", "&", "pear", "very", "long", "prompt"]


def make_imagereward(folder):
    from transformers import BertTokenizer
    from transformers.models.blip.configuration_blip import BlipTextConfig, BlipVisionConfig
    from transformers.models.blip.modeling_blip import BlipVisionModel
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    sizes = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 2}
    text_sizes = {**sizes, "hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 3}
    med = {
        "vocab_size": len(WORDPIECES) + 2,
        "max_position_embeddings": 64,
        "layer_norm_eps": 1e-12,
    } | text_sizes
    vision = BlipVisionConfig(**sizes, image_size=SIDE, patch_size=16, layer_norm_eps=1e-6, hidden_act="gelu")
    text = BlipTextConfig(**med, encoder_hidden_size=128, hidden_act="gelu", is_decoder=True)
    image_tower = randomise(BlipVisionModel(vision), seed=7)
    text_tower = randomise(BlipTextModel(text, add_pooling_layer=False), seed=8, scale=1.0)
    head = make_head(48, seed=9, scale=0.4)

    state = {"blip.vision_proj.weight": torch.zeros(256, 128), "blip.text_proj.bias": torch.zeros(256)}
    for name, value in image_tower.state_dict().items():
        for theirs, ours in _IMAGE_NAMES.items():
            name = name.replace(theirs, ours)
        state[f"blip.visual_encoder.{name}"] = value
    state |= {f"blip.text_encoder.{name}": value for name, value in text_tower.state_dict().items()}
    state |= {f"mlp.{name}": value for name, value in head.state_dict().items()}
    torch.save(state, folder / "ImageReward.pt")
    (folder / "med_config.json").write_text(json.dumps(med | {"encoder_width": 768}))
    (folder / "vocab.txt").write_text("\n".join(WORDPIECES))
    tokens = BertTokenizer(str(folder / "vocab.txt"))(
        PROMPTS, padding="max_length", truncation=True, max_length=35, return_tensors="pt"
    )

    def score(images):
        hidden = text_tower(
            tokens.input_ids,
            attention_mask=tokens.attention_mask,
            encoder_hidden_states=image_tower(normalise(crop_torchvision(images))).last_hidden_state,
            is_decoder=False,
        ).last_hidden_state
        return (head.layers(hidden[:, 0])[:, 0] - 0.16717362830052426) / 1.0333394966054072

    return score


ORIGINALS = {"imagereward": ("imagereward", make_imagereward)}


def test_it_has_the_published_number_of_weights():
    assert count(describe_imagereward(dtype=jnp.bfloat16).params) == BLIP + BERT + 768 + 1
