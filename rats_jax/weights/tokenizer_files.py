"""Files of a tokenizer as people have them: refused where something else would be read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rats_jax.errors import WeightsError, reason_of
from rats_jax.paths import kind_of
from rats_jax.texts import read_text, split_lines
from rats_jax.weights.folder import read_json

WHOLE_TOKENIZER = "tokenizer.json"
_OPTIONS = ("tokenizer_config.json", "special_tokens_map.json")
_ADDED = "added_tokens.json"
TOKENIZER_FILES = ("vocab.json", "merges.txt", WHOLE_TOKENIZER, *_OPTIONS, _ADDED)
"""Files of a CLIP tokenizer: the first two, or the third, which transformers 5 writes; options; words
that were learned."""
T5_TOKENIZER_FILES = (WHOLE_TOKENIZER, *_OPTIONS, "spiece.model")
"""Files of a T5 tokenizer: the first is read, and the second for its limit."""
NO_LIMIT = 10**9
"""Of a length or a vocabulary, where nothing names one."""
MARKS = ("bos_token", "eos_token", "unk_token", "pad_token")
"""That begin, end and fill a prompt, and stand for what is in no vocabulary."""


def check_options(folder: Path) -> None:
    """Refuse options of a tokenizer that transformers takes for something else, or for nothing.

    Raises:
        WeightsError: names file, field and value.
    """
    for file in (folder / name for name in _OPTIONS if kind_of(folder / name) == "file"):
        options = read_json(file)
        for mark in MARKS:
            value = options.get(mark)
            text = value.get("content") if isinstance(value, Mapping) else value
            named = isinstance(text, str) and bool(text)
            _expect(value is None or named, file, mark, value, "a text, or an object with one as content")
        read_length(file, options)


def read_length(file: Path, options: Mapping[str, Any]) -> int:
    """Read the length that a tokenizer_config.json names; where it names none, transformers writes 1e30."""
    name = "model_max_length"
    length: Any = options.get(name)
    if length is None:
        return NO_LIMIT
    number = isinstance(length, int | float) and not isinstance(length, bool)
    whole = number and length >= 1 and (length >= NO_LIMIT or length == int(length))
    _expect(whole, file, name, length, "a whole number >= 1, or null")
    return int(min(length, NO_LIMIT))


def check_bpe(folder: Path) -> None:
    """Refuse a vocabulary and merges that do not belong together, or of which a part is missing.

    Every word of more than one letter is made by a merge, of two words. Where merges are missing, as in a
    file that was cut, words are spelt in smaller pieces, and the prompt means something else.

    Raises:
        WeightsError: names the file and the word.
    """
    vocabulary, file = _read_words(folder / "vocab.json"), folder / "merges.txt"
    try:
        first, *lines = split_lines(read_text(file))
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{str(file)!r}: expected the merges of a tokenizer ({reason_of(error)})"
        ) from None
    _expect(
        first.startswith("#version"),
        file,
        "line 1",
        first[:80],
        "'#version: 0.2', the first line is not read",
    )
    made = set()
    for number, line in enumerate(lines, start=2):
        pair = line.split()
        word = "".join(pair)
        known = len(pair) == 2 and word in vocabulary and pair[0] in vocabulary and pair[1] in vocabulary
        if not known and pair:  # no message is made for the 50,000 lines that are right
            raise _wrong(file, f"line {number}", line[:80], "two words that make one of vocab.json")
        made.add(word)
    special = _special_words(folder)
    lost = [w for w in vocabulary if w not in made and len(w.removesuffix("</w>")) > 1 and w not in special]
    if lost:
        raise WeightsError(
            f"{str(file)!r} has no merge that makes {lost[0]!r} of vocab.json ({len(lost)} words of "
            f"{len(vocabulary)}): expected the whole file"
        )


def _read_words(file: Path) -> dict[str, int]:
    """Read words and their ids; a file that is not there has none."""
    words = read_json(file) if kind_of(file) == "file" else {}
    for word, number in words.items():
        if type(number) is not int:
            raise _wrong(file, repr(word), number, "an integer")
    return words


def _special_words(folder: Path) -> set[str]:
    """List the words that need no merge: marks, and those that were added."""
    special = {"<|startoftext|>", "<|endoftext|>"}
    for name in _OPTIONS:
        options = read_json(folder / name) if kind_of(folder / name) == "file" else {}
        values = [value for field, value in options.items() if field.endswith("_token")]
        decoder, more = options.get("added_tokens_decoder"), options.get("additional_special_tokens")
        values += decoder.values() if isinstance(decoder, Mapping) else ()
        values += more if isinstance(more, list) else ()
        for value in values:
            text = value.get("content") if isinstance(value, Mapping) else value
            special |= {text} if isinstance(text, str) else set()
    return special | set(_read_words(folder / _ADDED))


def check_ids(folder: Path, vocabulary: Mapping[str, Any], size: int) -> None:
    """Refuse ids that are no rows of the text encoder, or of two words.

    Raises:
        WeightsError: names the tokenizer's folder and the word.
    """
    words: dict[int, str] = {}
    for word, number in vocabulary.items():
        if not isinstance(number, int) or not 0 <= number < size:
            raise WeightsError(
                f"{str(folder)!r} gives {word!r} the id {number!r}: expected one from 0 to {size - 1}, below "
                f"vocab_size={size} of the text encoder"
            )
        if words.setdefault(number, word) != word:
            raise WeightsError(f"{str(folder)!r} gives {word!r} and {words[number]!r} the same id {number}")


def _expect(holds: bool, file: Path, field: str, value: Any, expected: str) -> None:
    if not holds:
        raise _wrong(file, field, value, expected)


def _wrong(file: Path, field: str, value: Any, expected: str) -> WeightsError:
    return WeightsError(f"{str(file)!r}: {field}={value!r:.120}: expected {expected}")
