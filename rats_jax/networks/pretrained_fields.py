"""Fields that every config.json of transformers carries, whatever its network, and that choose no number.

Source: transformers, configuration_utils.py, PretrainedConfig of versions 4 and 5.
"""

from __future__ import annotations

from collections.abc import Mapping

from rats_jax.fields import Field, only

PRETRAINED_FIELDS: Mapping[str, Field] = {"pruned_heads": only({}), "tie_encoder_decoder": only(False)}
"""Those that would change what is computed, or that an encoder cannot be built with."""

_ABOUT_THE_FILE = "architectures dtype torch_dtype transformers_version name_or_path"
_ABOUT_OUTPUTS = "output_attentions output_hidden_states return_dict torchscript use_cache"
_ABOUT_TASKS = "finetuning_task id2label label2id num_labels problem_type task_specific_params"
_ABOUT_TOKENS = (
    "bos_token_id decoder_start_token_id eos_token_id pad_token_id prefix sep_token_id tokenizer_class"
)
_ABOUT_EXECUTION = (
    "attn_implementation chunk_size_feed_forward gradient_checkpointing tf_legacy_loss use_bfloat16"
)
_ABOUT_DECODERS = "add_cross_attention cross_attention_hidden_size is_encoder_decoder tie_word_embeddings"
_ABOUT_GENERATION = (
    "bad_words_ids begin_suppress_tokens diversity_penalty do_sample early_stopping "
    "encoder_no_repeat_ngram_size exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id "
    "length_penalty max_length min_length no_repeat_ngram_size num_beam_groups num_beams "
    "num_return_sequences output_scores remove_invalid_values repetition_penalty return_dict_in_generate "
    "suppress_tokens temperature top_k top_p typical_p"
)

PRETRAINED_IGNORED: frozenset[str] = frozenset(
    " ".join(
        (
            _ABOUT_THE_FILE,
            _ABOUT_OUTPUTS,
            _ABOUT_TASKS,
            _ABOUT_TOKENS,
            _ABOUT_EXECUTION,
            _ABOUT_DECODERS,
            _ABOUT_GENERATION,
        )
    ).split()
)
"""Those that change nothing in any encoder that is run as it is; the precision is for the caller to choose.

`is_decoder` is for each network to read: T5 as a decoder sees no later token, CLIP does not look at it.
"""
