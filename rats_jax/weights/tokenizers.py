"""Prompts as token ids, and the cache of what is computed once per prompt."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ftfy
import jax
import numpy as np
from absl import logging
from transformers import BertTokenizer, CLIPTokenizer, CLIPTokenizerFast

from rats_jax.errors import WeightsError
from rats_jax.types import PromptInputs

WHOLE_TOKENIZER = "tokenizer.json"
TOKENIZER_FILES = ("vocab.json", "merges.txt", WHOLE_TOKENIZER, "tokenizer_config.json") + (
    "special_tokens_map.json",
)
"""Files of a CLIP tokenizer: the first two, or the third, which transformers 5 writes; then options."""
CLIP_VOCABULARY = Path(__file__).parent.parent / "assets" / "clip_tokenizer"
"""The vocabulary of OpenAI's CLIP, which every published CLIP and Stable Diffusion shares."""


def tokenize(tokenizer: Any, prompts: list[str], *, max_length: int | None = None) -> np.ndarray:
    """Turn prompts into padded ids; one warning counts those that are cut.

    Args:
        tokenizer: from `load_tokenizer` or `load_bert_tokenizer`.
        prompts: B texts.
        max_length: L; None is the tokenizer's own.

    Returns:
        [B, L] int32. A prompt that is too long loses its end, but not the mark that ends it.
    """
    length = max_length or tokenizer.model_max_length
    clean = _clean_for_bert if isinstance(tokenizer, BertTokenizer) else _clean_for_clip
    ids = tokenizer([clean(prompt) for prompt in prompts], verbose=False).input_ids
    cut = sum(len(row) > length for row in ids)
    if cut:
        logging.warning(
            "%d of %d prompts are longer than the %d tokens that %r reads, and are cut",
            cut,
            len(prompts),
            length,
            tokenizer.name_or_path,
        )
    padded = np.full((len(prompts), length), tokenizer.pad_token_id, np.int32)
    for row, tokens in zip(padded, ids, strict=True):
        kept = tokens if len(tokens) <= length else [*tokens[: length - 1], tokens[-1]]
        row[: len(kept)] = kept
    return padded


def _clean_for_clip(prompt: str) -> str:
    """Mend a text as OpenAI's tokenizer does; that of transformers 4 does too, that of 5 does not."""
    return re.sub(r"\s+", " ", ftfy.fix_text(prompt)).strip().lower()


def _clean_for_bert(prompt: str) -> str:
    """Leave out what is no character, and set punctuation off; transformers 4 and 5 have different lists."""
    kinds = ((x, unicodedata.category(x)[0]) for x in prompt)
    # Punctuation in ASCII is the same in both, and part of the marks.
    spaced = (
        f" {x} " if kind == "P" and not x.isascii() else x for x, kind in kinds if kind != "C" or x.isspace()
    )
    return "".join(spaced)


def once_per_prompt(prepare: Callable[[list[str]], PromptInputs]) -> Callable[[list[str]], PromptInputs]:
    """Remember the inputs of every prompt; those of a batch that are not known yet are computed together.

    Args:
        prepare: B prompts -> pytree of NumPy arrays [B, ...]; each row depends on its own prompt alone.

    Returns:
        The same function, which calls `prepare` at most once for a prompt.
    """
    rows: dict[str, PromptInputs] = {}

    def prepare_once(prompts: list[str]) -> PromptInputs:
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in rows]
        if missing:
            inputs = prepare(missing)
            rows.update((p, jax.tree.map(lambda x, i=i: x[i], inputs)) for i, p in enumerate(missing))
        return jax.tree.map(lambda *x: np.stack(x), *(rows[prompt] for prompt in prompts))

    return prepare_once


def load_tokenizer(folder: Path, text_config: Any = None) -> Any:
    """Load the CLIP tokenizer whose vocab.json and merges.txt, or tokenizer.json, lie in `folder`.

    Args:
        folder: of the tokenizer.
        text_config: of the encoder that will read its tokens, to check that they fit; None checks nothing.

    Returns:
        The tokenizer.

    Raises:
        WeightsError: files are missing or damaged, or it gives more tokens than the text encoder has.
    """
    missing = [file for file in TOKENIZER_FILES[:2] if not (folder / file).is_file()]
    whole = bool(missing) and (folder / WHOLE_TOKENIZER).is_file()
    if missing and not whole:
        raise WeightsError(f"model folder lacks {str(folder / missing[0])!r}: expected a CLIP tokenizer")
    try:
        kind: Any = CLIPTokenizerFast if whole else CLIPTokenizer
        tokenizer = kind.from_pretrained(str(folder))
    except Exception as error:  # a damaged file fails in as many ways as it has lines
        reason = " ".join(str(error).split())
        raise WeightsError(f"{str(folder)!r} is no CLIP tokenizer: {reason}") from None
    for name, value, limit in (
        ("length", tokenizer.model_max_length, "max_position_embeddings"),
        ("vocabulary", len(tokenizer), "vocab_size"),
    ):
        if text_config is not None and value > getattr(text_config, limit):
            raise WeightsError(
                f"{str(folder)!r} has a {name} of {value}, expected at most "
                f"{limit}={getattr(text_config, limit)} of the text encoder"
            )
    return tokenizer


def load_bert_tokenizer(vocabulary: Path, *, marks: tuple[str, str]) -> BertTokenizer:
    """Load BERT's tokenizer with BLIP's two marks, which no prompt contains.

    Args:
        vocabulary: vocab.txt, a token per line.
        marks: begin of text, and one more; they follow the vocabulary.

    Returns:
        The tokenizer; padding is token 0.
    """
    tokenizer = BertTokenizer(str(vocabulary))
    tokenizer.add_special_tokens({"bos_token": marks[0], "additional_special_tokens": [marks[1]]})
    tokenizer.name_or_path = str(vocabulary)
    return tokenizer
