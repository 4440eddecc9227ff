"""Files of tokenizers as people have them: read right, or refused by file, field and value."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from transformers import CLIPTokenizerFast

from rats_jax.errors import WeightsError
from rats_jax.paths import resolve_path
from rats_jax.pipelines.write import copy_tokenizers
from rats_jax.weights.tokenizers import learned_words, load_t5_tokenizer, load_tokenizer, tokenize

EMOJI = resolve_path("assets/emoji/pipeline/tokenizer")
SCENES = resolve_path("assets/scenes/pipeline/tokenizer_2")
ENCODER = SimpleNamespace(max_position_embeddings=12, vocab_size=1432)
LARGER = SimpleNamespace(max_position_embeddings=12, vocab_size=1433)
CAT = [1430, 660, 651, 1431]
"""black cat"""


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(EMOJI, tmp_path / "tokenizer")


@pytest.fixture
def t5(tmp_path):
    return shutil.copytree(SCENES, tmp_path / "tokenizer_2")


def change(file, **fields):
    content = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**content, **fields}))


def ids(folder, prompt, encoder=ENCODER):
    return tokenize(load_tokenizer(folder, encoder), [prompt])[0].tolist()


NO_LENGTH = {
    "no file": lambda folder: (folder / "tokenizer_config.json").unlink(),
    "null": lambda folder: change(folder / "tokenizer_config.json", model_max_length=None),
    "1e30": lambda folder: change(folder / "tokenizer_config.json", model_max_length=int(1e30)),
    "a float": lambda folder: change(folder / "tokenizer_config.json", model_max_length=1e30),
    "12.0": lambda folder: change(folder / "tokenizer_config.json", model_max_length=12.0),
}


@pytest.mark.parametrize("what", NO_LENGTH)
def test_a_tokenizer_without_a_length_takes_the_encoders(folder, what):
    NO_LENGTH[what](folder)
    assert ids(folder, "black cat") == CAT + [1431] * 8


def test_one_file_is_enough(folder):
    CLIPTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    for file in folder.iterdir():
        if file.name != "tokenizer.json":
            file.unlink()
    assert ids(folder, "black cat") == CAT + [1431] * 8


@pytest.mark.parametrize("fast", [False, True])
def test_learned_words_are_read_and_listed(folder, fast):
    (folder / "added_tokens.json").write_text('{"<Cat-Toy>": 1432}')
    assert learned_words(load_tokenizer(EMOJI)) == []
    if fast:
        words = CLIPTokenizerFast.from_pretrained(folder)
        words.save_pretrained(folder)
        (folder / "merges.txt").unlink()
    tokenizer = load_tokenizer(folder, LARGER)
    assert learned_words(tokenizer) == ["<Cat-Toy>"]
    for prompt in ("black <Cat-Toy> cat", "Black<Cat-Toy>  CAT"):
        row = tokenize(tokenizer, [prompt])[0].tolist()
        assert row[:5] == [1430, 660, 1432, 651, 1431]


def test_learned_words_are_copied(folder, tmp_path):
    (folder / "added_tokens.json").write_text('{"<cat-toy>": 1432}')
    (tmp_path / "model_index.json").write_text('{"tokenizer": ["transformers", "CLIPTokenizer"]}')
    target = tmp_path / "export"
    target.mkdir()
    copy_tokenizers(str(tmp_path), target)
    assert ids(target / "tokenizer", "<cat-toy>", LARGER)[:3] == [1430, 1432, 1431]


def lines(folder):
    return (folder / "merges.txt").read_text().splitlines()


def whole(folder, content):
    (folder / "tokenizer.json").write_text(content)
    (folder / "vocab.json").unlink()


def merges(folder, content):
    (folder / "merges.txt").write_text("\n".join(content) + "\n")


def vocabulary(folder, **words):
    change(folder / "vocab.json", **words)


BAD = {
    "no merges": (
        lambda f: merges(f, lines(f)[:1]),
        r"merges.txt' has no merge that makes 'ea' of vocab.json \(918",
    ),
    "half of them": (
        lambda f: merges(f, lines(f)[:460]),
        "merges.txt' has no merge that makes .*: expected the whole",
    ),
    "one cut": (lambda f: merges(f, [*lines(f)[:-1], lines(f)[-1].split()[0]]), "merges.txt': line 919="),
    "a merge too many": (
        lambda f: merges(f, [*lines(f), "qq zz"]),
        "line 920='qq zz': expected two words that make",
    ),
    "no version": (lambda f: merges(f, lines(f)[1:]), "merges.txt': line 1='e a': expected '#version: 0.2'"),
    "no text": (
        lambda f: (f / "merges.txt").write_bytes(b"\xff\xfe\xff"),
        "merges.txt': expected the merges of a",
    ),
    "no words": (
        lambda f: (f / "vocab.json").write_text("{}"),
        "merges.txt': line 2='e a': expected two words",
    ),
    "a list": (lambda f: (f / "vocab.json").write_text("[1]"), "vocab.json' holds a list"),
    "a text for an id": (lambda f: vocabulary(f, a="x"), "vocab.json': 'a'='x': expected an integer"),
    "null for an id": (lambda f: vocabulary(f, a=None), "vocab.json': 'a'=None: expected an integer"),
    "true for an id": (lambda f: vocabulary(f, a=True), "vocab.json': 'a'=True: expected an integer"),
    "1.5 for an id": (lambda f: vocabulary(f, a=1.5), "vocab.json': 'a'=1.5: expected an integer"),
    "an id below 0": (lambda f: vocabulary(f, a=-1), "gives 'a' the id -1: expected one from 0 to 1431"),
    "an id of no row": (
        lambda f: vocabulary(f, a=1432),
        "gives 'a' the id 1432: .* vocab_size=1432 of the text enc",
    ),
    "an id of two words": (lambda f: vocabulary(f, a=5), "gives '.*' and '.*' the same id 5"),
    "a learned word without a row": (
        lambda f: change(f / "added_tokens.json", cat2=1432),
        "gives 'cat2' the id 1432: expected one from 0 to 1431",
    ),
    "a learned word of another": (lambda f: change(f / "added_tokens.json", cat2=3), "the same id 3"),
    "a learned word without an id": (
        lambda f: change(f / "added_tokens.json", cat2="x"),
        "added_tokens.json': 'cat2'='x': expected an integer",
    ),
    "a whole one without a model": (lambda f: whole(f, "{}"), "tokenizer' is no CLIP tokenizer: "),
    "a whole one that is no JSON": (lambda f: whole(f, "{"), "tokenizer' is no CLIP tokenizer: "),
    "learned words in a list": (
        lambda f: (f / "added_tokens.json").write_text('["x"]'),
        "added_tokens.json' holds a",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_vocabulary_that_does_not_fit_is_refused(folder, what):
    edit, message = BAD[what]
    edit(folder)
    with pytest.raises(WeightsError, match=message) as error:
        load_tokenizer(folder, ENCODER)
    assert "\n" not in str(error.value)


LENGTHS = ("x", [], {}, True, 0, -1, 1.5, float("nan"))


@pytest.mark.parametrize("value", LENGTHS)
@pytest.mark.parametrize("kind", ["clip", "t5"])
def test_a_length_that_is_none_is_refused(folder, t5, kind, value):
    place = folder if kind == "clip" else t5
    change(place / "tokenizer_config.json", model_max_length=value)
    with pytest.raises(
        WeightsError, match="tokenizer_config.json': model_max_length=.*: expected a whole number"
    ):
        (load_tokenizer if kind == "clip" else load_t5_tokenizer)(place)


@pytest.mark.parametrize("value", [5, True, [], {}, "", {"content": 5}, {"content": ""}])
@pytest.mark.parametrize("mark", ["bos_token", "eos_token", "unk_token", "pad_token"])
def test_a_mark_that_is_no_text_is_refused(folder, t5, mark, value):
    for place, load in ((folder, load_tokenizer), (t5, load_t5_tokenizer)):
        change(place / "tokenizer_config.json", **{mark: value})
        with pytest.raises(
            WeightsError, match=f"tokenizer_config.json': {mark}=.*: expected a text, or an object"
        ):
            load(place)


@pytest.mark.parametrize("mark", ["bos_token", "eos_token", "unk_token", "pad_token"])
def test_a_clip_tokenizer_needs_all_marks(folder, mark):
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        change(folder / file, **{mark: None})
    with pytest.raises(WeightsError, match=f"tokenizer': {mark}=None: expected a word of the vocabulary"):
        load_tokenizer(folder)
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        change(folder / file, **{mark: "zzz"})
    with pytest.raises(WeightsError, match="gives 'zzz' the id 1432"):
        load_tokenizer(folder, ENCODER)


def test_a_t5_tokenizer_without_a_length_has_none_of_its_own(t5):
    expected = tokenize(load_t5_tokenizer(t5), ["a cat"], max_length=10)
    change(t5 / "tokenizer_config.json", model_max_length=None, bos_token=None)
    found = load_t5_tokenizer(t5)
    assert found.model_max_length >= 10**9
    np.testing.assert_array_equal(tokenize(found, ["a cat"], max_length=10), expected)
    change(t5 / "tokenizer_config.json", pad_token=None)
    with pytest.raises(WeightsError, match="has no token None: expected the one that fills prompts up"):
        load_t5_tokenizer(t5)
