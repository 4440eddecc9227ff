"""The files of a small CLIP tokenizer, read by transformers' CLIPTokenizer."""

import json

import ftfy
import pytest
from transformers import CLIPTokenizer

from rats_jax.pretraining.tokenizer import END, START, write_tokenizer

CAPTIONS = ["red apple", "green apple", "cat face", "grinning cat", "man’s shoe", "piñata", "1st place medal"]
SIZE = 640


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer") / "new"
    write_tokenizer(CAPTIONS, folder, vocab_size=SIZE, max_length=10)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return CLIPTokenizer.from_pretrained(str(folder))


def test_the_vocabulary_is_closed_and_ends_with_the_marks(folder):
    vocab = json.loads((folder / "vocab.json").read_text("utf-8"))
    assert sorted(vocab.values()) == list(range(len(vocab)))
    assert 514 < len(vocab) <= SIZE
    assert (vocab[START], vocab[END]) == (len(vocab) - 2, len(vocab) - 1)
    header, *merges = (folder / "merges.txt").read_text("utf-8").splitlines()
    assert header.startswith("#version") and merges
    for merge in merges:
        left, right = merge.split(" ")
        assert {left, right, left + right} <= set(vocab)


def test_clip_tokenizer_reads_it(tokenizer):
    assert tokenizer.model_max_length == 10
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (START, END, END)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (len(tokenizer) - 2, len(tokenizer) - 1)


@pytest.mark.parametrize("caption", [*CAPTIONS, "zebra", "ünknown 漢字"])
def test_every_text_comes_back_whole(tokenizer, caption):
    ids = tokenizer(caption).input_ids
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert END not in tokenizer.convert_ids_to_tokens(ids[1:-1])  # which is also the unknown token
    text = tokenizer.decode(ids, skip_special_tokens=True)
    assert text.replace(" ", "") == ftfy.fix_text(caption).replace(" ", "")  # curly quotes become straight


def test_frequent_words_are_one_token(tokenizer):
    assert tokenizer.tokenize("Apple CAT") == ["apple</w>", "cat</w>"]
    assert len(tokenizer.tokenize("zebra")) == 5


def test_no_merges_at_the_smallest_size(tmp_path):
    write_tokenizer(CAPTIONS, tmp_path, vocab_size=514, max_length=10)
    tokenizer = CLIPTokenizer.from_pretrained(str(tmp_path))
    assert len(tokenizer) == 514 and tokenizer.tokenize("cat") == ["c", "a", "t</w>"]
