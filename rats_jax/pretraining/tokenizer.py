"""Small tokenizers in the files of published ones: CLIP's byte pairs with few merges, T5's with few words."""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

START, END = "<|startoftext|>", "<|endoftext|>"
START_OF_WORD = "▁"


def write_tokenizer(captions: Sequence[str], folder: Path, *, vocab_size: int, max_length: int) -> None:
    """Learn merges from captions and write vocab.json, merges.txt and tokenizer_config.json.

    Args:
        captions: lower-case texts to learn from.
        folder: where to; made.
        vocab_size: at most this many tokens, at least 514 (bytes, bytes that end a word, two marks).
        max_length: tokens a prompt is padded and cut to.
    """
    # CLIP's alphabet: every byte, and every byte at the end of a word; its two marks close the vocabulary.
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    base = alphabet + [a + "</w>" for a in alphabet]
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(base) - 2,
        end_of_word_suffix="</w>",
        show_progress=False,
        special_tokens=[],
    )
    tokenizer.train_from_iterator(captions, trainer)
    learned = json.loads(tokenizer.to_str())["model"]["merges"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in learned]
    # Every piece of a merge is a base symbol or an earlier merge, so the list is closed.
    tokens = [*base, *dict.fromkeys("".join(m) for m in merges), START, END]
    vocab = {token: i for i, token in enumerate(tokens)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    lines = "".join(f"{a} {b}\n" for a, b in merges)
    (folder / "merges.txt").write_text("#version: 0.2\n" + lines, encoding="utf-8")
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": max_length,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
        "add_prefix_space": False,
        "do_lower_case": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(
        json.dumps({k: v for k, v in settings.items() if k.endswith("_token")}, indent=2) + "\n"
    )


def write_t5_tokenizer(captions: Sequence[str], folder: Path, *, max_length: int) -> None:
    """Write a T5 tokenizer whose pieces are the words of some captions, and single letters for all others.

    Args:
        captions: lower-case texts.
        folder: where to; made.
        max_length: tokens a prompt is padded and cut to, the mark that ends it among them.
    """
    words = sorted({word for caption in captions for word in caption.split()})
    letters = sorted({*string.ascii_lowercase, *string.digits, *string.punctuation} - set(words))
    # A piece of a word costs as much as five words, so that a known word is one token.
    pieces = [(START_OF_WORD + word, -5.0) for word in words] + [(letter, -25.0) for letter in letters]
    marks = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    tokenizer = Tokenizer(models.Unigram([*marks, (START_OF_WORD, -25.0), *pieces], unk_id=2))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(START_OF_WORD)
    tokenizer.decoder = decoders.Metaspace(START_OF_WORD)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "T5TokenizerFast",
        "model_max_length": max_length,
        "extra_ids": 0,
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
