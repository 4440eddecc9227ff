"""Train a small CLIP tokenizer: the same byte-pair files as Stable Diffusion's, with fewer merges."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

START, END = "<|startoftext|>", "<|endoftext|>"


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
