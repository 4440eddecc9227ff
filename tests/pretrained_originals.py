"""What the config classes of transformers share: fields that change no encoder, and the arguments of each."""

import dataclasses
import inspect

WITHOUT_EFFECT = {
    **{"architectures": ["Any"], "transformers_version": "4.0.0", "name_or_path": "owner/name"},
    **{"output_attentions": True, "output_hidden_states": True, "return_dict": True, "torchscript": True},
    **{"use_cache": False, "finetuning_task": "any", "id2label": {"0": "a"}, "label2id": {"a": 0}},
    **{"num_labels": 1, "problem_type": "regression", "task_specific_params": {"any": 1}},
    **{"bos_token_id": 4, "decoder_start_token_id": 4, "eos_token_id": 4, "pad_token_id": 4, "prefix": "any"},
    **{"sep_token_id": 4, "tokenizer_class": "Any", "attn_implementation": "eager"},
    **{"chunk_size_feed_forward": 2, "gradient_checkpointing": True, "tf_legacy_loss": True},
    **{"use_bfloat16": True, "add_cross_attention": True, "cross_attention_hidden_size": 8},
    **{"is_encoder_decoder": True},
    **{"tie_word_embeddings": False, "bad_words_ids": [[1]], "begin_suppress_tokens": [1]},
    **{"diversity_penalty": 0.5, "do_sample": True, "early_stopping": True},
    **{"encoder_no_repeat_ngram_size": 2, "exponential_decay_length_penalty": [1, 2.0]},
    **{"forced_bos_token_id": 1, "forced_eos_token_id": 1, "length_penalty": 2.0, "max_length": 5},
    **{"min_length": 2, "no_repeat_ngram_size": 2, "num_beam_groups": 2, "num_beams": 2},
    **{"num_return_sequences": 2, "output_scores": True, "remove_invalid_values": True},
    **{"repetition_penalty": 2.0, "return_dict_in_generate": True, "suppress_tokens": [1]},
    **{"temperature": 0.5, "top_k": 5, "top_p": 0.5, "typical_p": 0.5},
}
"""Fields of every config that change nothing of an encoder, with values that are not the defaults.

But for return_dict, as CLIP of transformers 5 does not run without.
"""

PRECISION = {"dtype", "torch_dtype"}
"""Those of every config that are the caller's to choose, and so have no value above."""


def arguments(config_class):
    """Names of the arguments of a config class, without those that every config has.

    From transformers 5 on the classes are dataclasses, whose signatures name what they inherit too.
    """
    if dataclasses.is_dataclass(config_class):
        return [*inspect.get_annotations(config_class)]
    parameters = inspect.signature(config_class.__init__).parameters.values()
    return [p.name for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD]
