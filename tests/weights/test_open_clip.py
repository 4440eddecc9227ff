"""open_clip's configs: what they become, and what is refused. The weights are compared in tests/rewards."""

import copy

import pytest
from transformers import CLIPConfig

from rats_jax.errors import WeightsError
from rats_jax.weights.open_clip import VIT_H_14, VIT_L_14, to_transformers_config


def test_vit_h_14_is_the_architecture_of_pickscore():
    """The sizes in the config.json of yuvalkirstain/PickScore_v1."""
    config = CLIPConfig(**to_transformers_config(VIT_H_14, source=""))
    vision, text = config.vision_config, config.text_config
    assert (vision.num_hidden_layers, vision.hidden_size, vision.num_attention_heads) == (32, 1280, 16)
    assert (vision.intermediate_size, vision.patch_size, vision.image_size) == (5120, 14, 224)
    assert (text.num_hidden_layers, text.hidden_size, text.num_attention_heads) == (24, 1024, 16)
    assert (text.intermediate_size, text.max_position_embeddings, text.vocab_size) == (4096, 77, 49408)
    assert config.projection_dim == 1024 and vision.hidden_act == text.hidden_act == "gelu"


def test_openai_s_activation_is_the_quick_one():
    config = to_transformers_config(VIT_L_14, source="")
    assert config["vision_config"]["hidden_act"] == config["text_config"]["hidden_act"] == "quick_gelu"
    assert config["vision_config"]["num_attention_heads"] == 16


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (
            ("vision_cfg", "timm_model_name"),
            "vit",
            "'f.json' has the field 'vision_cfg.timm_model_name', expected",
        ),
        (("text_cfg", "hf_model_name"), "roberta", "has the field 'text_cfg.hf_model_name'"),
        (("custom_text",), True, "has the field 'custom_text'"),
        (
            ("embed_dim",),
            None,
            "'f.json' is no open_clip config: embed_dim: expected an integer >= 1, it is missing",
        ),
        (("text_cfg", "width"), None, "text_cfg.width: expected an integer >= 1, it is missing"),
        (("vision_cfg",), "large", "'f.json' is no open_clip config: vision_cfg='large': expected an object"),
        (("vision_cfg", "width"), float("nan"), "vision_cfg.width=nan: expected an integer >= 1"),
        (("vision_cfg", "head_width"), 0, "vision_cfg.head_width=0: expected an integer >= 1"),
        (
            ("text_cfg", "mlp_ratio"),
            float("inf"),
            "text_cfg.mlp_ratio=inf: expected a number > 0 and <= 1000",
        ),
        (("text_cfg", "layers"), 10**6, "text_cfg.layers=1000000: expected an integer from 1 to 200"),
        (("quick_gelu",), "yes", "quick_gelu='yes': expected true or false"),
    ],
)
def test_other_architectures_are_refused_by_field(place, value, message):
    config = copy.deepcopy(dict(VIT_L_14))
    section = config
    for key in place[:-1]:
        section = section[key]
    if value is None:
        del section[place[-1]]
    else:
        section[place[-1]] = value
    with pytest.raises(WeightsError, match=message):
        to_transformers_config(config, source="f.json")
