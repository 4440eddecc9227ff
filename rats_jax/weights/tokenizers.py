"""Prompts as token ids, and the cache of what is computed once per prompt."""

from __future__ import annotations

import contextlib
import re
import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ftfy
import jax
import numpy as np
from absl import logging
from tokenizers import Tokenizer
from transformers import BertTokenizer, CLIPTokenizer, CLIPTokenizerFast

from rats_jax.errors import WeightsError, reason_of
from rats_jax.paths import kind_of
from rats_jax.texts import has_mark, read_text, split_lines
from rats_jax.types import PromptInputs
from rats_jax.weights.folder import read_json
from rats_jax.weights.tokenizer_files import (
    MARKS,
    NO_LIMIT,
    TOKENIZER_FILES,
    WHOLE_TOKENIZER,
    check_bpe,
    check_ids,
    check_options,
    read_length,
)

CLIP_VOCABULARY = Path(__file__).parent.parent / "assets" / "clip_tokenizer"
"""The vocabulary of OpenAI's CLIP, which every published CLIP and Stable Diffusion shares."""
_BERT_MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def tokenize(tokenizer: Any, prompts: list[str], *, max_length: int | None = None) -> np.ndarray:
    """Turn prompts into padded ids; one warning counts those that are cut.

    Args:
        tokenizer: from `load_tokenizer`, `load_t5_tokenizer` or `load_bert_tokenizer`.
        prompts: B texts.
        max_length: L; None is the tokenizer's own.

    Returns:
        [B, L] int32. A prompt that is too long loses its end, but not the mark that ends it.
    """
    length = max_length or tokenizer.model_max_length
    if isinstance(tokenizer, T5Tokenizer):
        ids = tokenizer.encode(prompts)
    else:
        clean = _clean_for_bert if isinstance(tokenizer, BertTokenizer) else _make_clean_for_clip(tokenizer)
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


def _make_clean_for_clip(tokenizer: Any) -> Callable[[str], str]:
    """Make what mends a prompt, but for words of the vocabulary that it would change: a learned <My-Cat>."""
    lost = [word for word in tokenizer.get_added_vocab() if _clean_for_clip(word) != word]
    if not lost:
        return _clean_for_clip
    words = re.compile("|".join(map(re.escape, sorted(lost, key=len, reverse=True))))

    def clean(prompt: str) -> str:
        between, found = words.split(prompt), [*words.findall(prompt), ""]
        parts = (part for pair in zip(map(_clean_for_clip, between), found, strict=True) for part in pair)
        return " ".join(filter(None, parts))

    return clean


def learned_words(tokenizer: Any) -> list[str]:
    """List the words that were added to a vocabulary and mean something, as those of textual inversion."""
    if isinstance(tokenizer, T5Tokenizer):
        added = tokenizer.pieces.get_added_tokens_decoder().values()
        return [token.content for token in added if not token.special]
    return [word for word in tokenizer.get_added_vocab() if word not in tokenizer.all_special_tokens]


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
    missing = [file for file in TOKENIZER_FILES[:2] if kind_of(folder / file) != "file"]
    whole = bool(missing) and kind_of(folder / WHOLE_TOKENIZER) == "file"
    if missing and not whole:
        raise WeightsError(f"model folder lacks {str(folder / missing[0])!r}: expected a CLIP tokenizer")
    check_options(folder)
    if not whole:
        check_bpe(folder)
    try:
        kind: Any = CLIPTokenizerFast if whole else CLIPTokenizer
        with _without_marks(folder, TOKENIZER_FILES) as readable:
            tokenizer = kind.from_pretrained(str(readable))
        tokenizer.name_or_path = str(folder)
    except Exception as error:  # a damaged file fails in as many ways as it has lines
        reason = " ".join(str(error).split())
        raise WeightsError(f"{str(folder)!r} is no CLIP tokenizer: {reason}") from None
    for mark in MARKS:
        if getattr(tokenizer, f"{mark}_id") is None:
            found = getattr(tokenizer, mark)
            raise WeightsError(f"{str(folder)!r}: {mark}={found!r}: expected a word of the vocabulary")
    limits = [getattr(text_config, name, NO_LIMIT) for name in ("max_position_embeddings", "vocab_size")]
    length = int(min(tokenizer.model_max_length, NO_LIMIT))
    tokenizer.model_max_length = limits[0] if length >= NO_LIMIT else length  # it may name none
    if tokenizer.model_max_length > limits[0]:
        raise WeightsError(
            f"{str(folder)!r} has a length of {tokenizer.model_max_length}, expected at most "
            f"max_position_embeddings={limits[0]} of the text encoder"
        )
    check_ids(folder, tokenizer.get_vocab(), limits[1])
    return tokenizer


@contextlib.contextmanager
def _without_marks(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """Give text files without byte order marks, which transformers cannot read: their folder, or a copy."""
    files = [folder / name for name in names if kind_of(folder / name) == "file"]
    if not any(map(has_mark, files)):
        yield folder
        return
    with tempfile.TemporaryDirectory() as copy:
        for file in files:
            (Path(copy) / file.name).write_bytes(read_text(file).encode())
        yield Path(copy)


@dataclass(frozen=True)
class T5Tokenizer:
    """T5's tokenizer: pieces of words as the text has them, then the token that ends it.

    Attributes:
        name_or_path: its folder.
        model_max_length: the most tokens that its encoder was made for.
        pad_token_id: what fills a prompt up.
        pieces: the tokenizer of the package tokenizers.
    """

    name_or_path: str
    model_max_length: int
    pad_token_id: int
    pieces: Tokenizer

    def encode(self, prompts: list[str]) -> list[list[int]]:
        """Give the ids of each prompt, neither cut nor filled up."""
        return [encoding.ids for encoding in self.pieces.encode_batch(prompts)]


def load_t5_tokenizer(folder: Path, t5_config: Any = None) -> T5Tokenizer:
    """Load the T5 tokenizer whose tokenizer.json lies in `folder`.

    Args:
        folder: of the tokenizer; model_max_length is that of its tokenizer_config.json.
        t5_config: of the encoder that will read its tokens, to check that they fit; None checks nothing.

    Returns:
        The tokenizer.

    Raises:
        WeightsError: files are missing or damaged, or it gives more tokens than the encoder has.
    """
    file, options = folder / WHOLE_TOKENIZER, folder / "tokenizer_config.json"
    if kind_of(file) != "file":
        raise WeightsError(
            f"model folder lacks {str(file)!r}: expected a T5 tokenizer; of a spiece.model transformers "
            "makes it with sentencepiece: T5TokenizerFast.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    try:
        pieces = Tokenizer.from_str(read_text(file))
    except Exception as error:  # the package raises its own error for damaged files
        reason = " ".join(str(error).split())
        raise WeightsError(f"{str(file)!r} is no T5 tokenizer: {reason}") from None
    pieces.no_truncation()
    pieces.no_padding()
    check_options(folder)
    named = read_json(options) if kind_of(options) else {}
    pad = named.get("pad_token", "<pad>")
    pad_token_id = pieces.token_to_id(pad["content"] if isinstance(pad, dict) else pad or "")
    if pad_token_id is None:
        raise WeightsError(f"{str(file)!r} has no token {pad!r}: expected the one that fills prompts up")
    check_ids(folder, pieces.get_vocab(), getattr(t5_config, "vocab_size", NO_LIMIT))
    return T5Tokenizer(str(folder), read_length(options, named), pad_token_id, pieces)


def load_bert_tokenizer(vocabulary: Path, *, marks: tuple[str, str]) -> BertTokenizer:
    """Load BERT's tokenizer with BLIP's two marks, which no prompt contains.

    Args:
        vocabulary: vocab.txt, a token per line.
        marks: begin of text, and one more; they follow the vocabulary.

    Returns:
        The tokenizer; padding is token 0.

    Raises:
        WeightsError: the file is missing, no text, or lacks the marks of BERT.
    """
    try:
        words = set(split_lines(read_text(vocabulary)))
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{str(vocabulary)!r}: expected the vocabulary of BERT ({reason_of(error)})"
        ) from None
    if lacking := [mark for mark in _BERT_MARKS if mark not in words]:
        raise WeightsError(
            f"{str(vocabulary)!r} has no token {lacking[0]!r}: expected the vocabulary of BERT"
        )
    with _without_marks(vocabulary.parent, [vocabulary.name]) as readable:
        tokenizer = BertTokenizer(str(readable / vocabulary.name))
    tokenizer.add_special_tokens({"bos_token": marks[0], "additional_special_tokens": [marks[1]]})
    tokenizer.name_or_path = str(vocabulary)
    return tokenizer
