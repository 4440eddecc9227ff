"""Tokenizers against open_clip's and against ids of transformers 4, prompts that are cut, and the cache."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from absl import logging

from rats_jax.errors import WeightsError
from rats_jax.weights.tokenizers import (
    CLIP_VOCABULARY,
    load_bert_tokenizer,
    load_t5_tokenizer,
    load_tokenizer,
    once_per_prompt,
    tokenize,
)

PROMPTS = [
    "",
    "a photo of a cat",
    "It's 12:30 -- don't   panic!",
    "naïve café, Straße & 東京 🙂",
    "A RED ball; (blue) [box] <3 #art @home 50%",
    "mended â€™quotesâ€\x9d &amp; entities",
    "very long " * 60,
]


# As transformers 4.57.6 reads them: mended by ftfy, in lower case as Python has it, special tokens known.
IDS = {
    "mended â€™quotesâ€\x9d &amp; entities": [76, 2622, 262, 5808, 257, 261, 38134],
    "ﬁne ligature ①②③ ﬀ": [3797, 19915, 4490, 158, 239, 510, 158, 239, 350, 158, 239, 351, 1304],
    "\u200bzero width\ufeff": [9844, 5848, 23571],
    "İstanbul ǅ ẞ": [328, 16384, 11231, 67, 129, 378, 127, 509],
    "a<|endoftext|> b": [320, 49407, 321],
    "HELLO WE'LL 100,000.50 $ €": [
        *(3306, 649, 1342, 272, 271, 271, 267, 271, 271, 271, 269, 276, 271, 259, 6309),
    ],
}


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(CLIP_VOCABULARY)


def test_well_known_ids(tokenizer):
    ids = tokenize(tokenizer, ["a photo of a cat"])
    assert ids.shape == (1, 77) and ids.dtype == np.int32
    assert ids[0, :8].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407, 49407]


def test_prompts_are_read_as_open_clip_reads_them(tokenizer):
    """But for HTML entities, which it resolves and transformers' tokenizer does not."""
    from tests.originals import import_open_clip

    expected = import_open_clip().tokenize(PROMPTS).numpy()
    actual = tokenize(tokenizer, [p.replace("&amp;", "&") for p in PROMPTS])
    for ours, theirs in zip(actual, expected, strict=True):
        end = int(np.argmax(theirs))  # beyond the end open_clip pads with 0
        assert ours[: end + 1].tolist() == theirs[: end + 1].tolist()
        assert np.all(ours[end:] == 49407)


def test_ids_do_not_depend_on_the_version_of_transformers(tokenizer):
    for row, expected in zip(tokenize(tokenizer, list(IDS)), IDS.values(), strict=True):
        assert row[: len(expected) + 2].tolist() == [49406, *expected, 49407]


def test_the_second_tokenizer_of_sdxl_pads_with_its_first_token(tmp_path):
    """Its exclamation mark is then a special token, not the word with a mark of its end."""
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).symlink_to(CLIP_VOCABULARY / name)
    settings = {"tokenizer_class": "CLIPTokenizer", "pad_token": "!", "model_max_length": 77}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    second = load_tokenizer(tmp_path)
    ids = tokenize(second, ["a cat!", "cat"])
    assert ids[0, :6].tolist() == [49406, 320, 2368, 0, 49407, 0]
    assert ids[1, :4].tolist() == [49406, 2368, 49407, 0] and not ids[:, 6:].any()
    assert (second.pad_token_id, second.model_max_length, len(second)) == (0, 77, 49408)


@pytest.mark.parametrize("marked", ["vocab.json", "merges.txt", "tokenizer_config.json", "all"])
def test_byte_order_marks_of_its_files_are_dropped(tokenizer, tmp_path, marked):
    settings = {"tokenizer_class": "CLIPTokenizer", "pad_token": "!", "model_max_length": 77}
    files = {name: (CLIP_VOCABULARY / name).read_text("utf-8") for name in ("vocab.json", "merges.txt")}
    for name, text in (files | {"tokenizer_config.json": json.dumps(settings)}).items():
        mark = "\ufeff" if marked in (name, "all") else ""
        (tmp_path / name).write_bytes((mark + text.replace("\n", "\r\n")).encode())
    found = load_tokenizer(tmp_path)
    assert (found.pad_token_id, found.model_max_length, found.name_or_path) == (0, 77, str(tmp_path))
    expected = tokenize(tokenizer, PROMPTS[1:])
    np.testing.assert_array_equal(tokenize(found, PROMPTS[1:])[:, :7], expected[:, :7])


def test_the_mark_of_a_whole_tokenizer_is_dropped(tmp_path):
    from tests.torch_flows import make_t5_tokenizer

    make_t5_tokenizer(24).save_pretrained(tmp_path)
    expected = tokenize(load_t5_tokenizer(tmp_path), PROMPTS)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + (tmp_path / name).read_bytes())
    np.testing.assert_array_equal(tokenize(load_t5_tokenizer(tmp_path), PROMPTS), expected)


def test_the_mark_of_berts_vocabulary_is_dropped(tmp_path):
    (tmp_path / "vocab.txt").write_text("\ufeff[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n", "utf-8")
    bert = load_bert_tokenizer(tmp_path / "vocab.txt", marks=("[DEC]", "[ENC]"))
    assert bert.name_or_path == str(tmp_path / "vocab.txt")
    assert tokenize(bert, ["a"], max_length=4).tolist() == [[2, 5, 3, 0]]


def test_berts_marks_follow_its_vocabulary_and_what_is_no_character_is_left_out(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "##s", "!", "e"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    bert = load_bert_tokenizer(tmp_path / "vocab.txt", marks=("[DEC]", "[ENC]"))
    assert (bert.pad_token_id, bert.convert_tokens_to_ids(["[DEC]", "[ENC]"])) == (0, [10, 11])
    prompts = ["A cats!", "[ENC] é [SEP]", "a\u0378\U0010ffff\u200b cat", "a\u061dcat", "\ta\ncat", ""]
    expected = [[5, 6, 7, 8], [11, 9, 3], [5, 6], [5, 1, 6], [5, 6], []]
    for row, ids in zip(tokenize(bert, prompts, max_length=8), expected, strict=True):
        assert row.tolist() == ([2, *ids, 3] + [0] * 8)[:8]


def test_what_is_cut_is_counted_in_one_warning(tokenizer, caplog, monkeypatch):
    monkeypatch.setattr(logging.get_absl_logger(), "propagate", True)
    ids = tokenize(tokenizer, [*PROMPTS, "other " * 76], max_length=20)
    assert ids.shape == (len(PROMPTS) + 1, 20)
    assert (ids[:, 0] == 49406).all() and ids[-1, -1] == ids[-2, -1] == 49407
    warnings = [record.getMessage() for record in caplog.records if "cut" in record.getMessage()]
    assert len(warnings) == 1
    assert warnings[0].startswith("3 of 8 prompts are longer than the 20 tokens that '")


def test_a_prompt_is_prepared_once_and_all_new_ones_together():
    calls = []

    def prepare(prompts):
        calls.append(list(prompts))
        return {
            "length": np.array([len(p) for p in prompts]),
            "twice": np.array([[len(p)] * 2 for p in prompts]),
        }

    cached = once_per_prompt(prepare)
    first = cached(["a", "bbb", "a"])
    assert first["length"].tolist() == [1, 3, 1] and first["twice"].shape == (3, 2)
    assert cached(["cc", "bbb", "dddd"])["length"].tolist() == [2, 3, 4]
    assert calls == [["a", "bbb"], ["cc", "dddd"]]


def test_t5_reads_prompts_as_they_are(tmp_path):
    from tests.torch_flows import make_t5_tokenizer

    original = make_t5_tokenizer(24)
    original.save_pretrained(tmp_path)
    tokenizer = load_t5_tokenizer(tmp_path)
    prompts = [
        "",
        " a cat ",
        "A Cat, twice",
        "é ünusual 猫",
        "many words " * 9,
        "tab\tand\nline",
        "<pad> </s>",
    ]
    for length in (5, 24):
        options = {"padding": "max_length", "truncation": True, "max_length": length}
        expected = original(prompts, **options).input_ids
        np.testing.assert_array_equal(tokenize(tokenizer, prompts, max_length=length), expected)
    assert (tokenizer.model_max_length, tokenizer.pad_token_id) == (24, 0)
    with pytest.raises(
        WeightsError, match="gives .* the id 4.: expected one from 0 to 39, below vocab_size=40"
    ):
        load_t5_tokenizer(tmp_path, SimpleNamespace(vocab_size=40))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(WeightsError, match="tokenizer.json' is no T5 tokenizer"):
        load_t5_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(WeightsError, match="lacks .*tokenizer.json': expected a T5 tokenizer; of a spiece"):
        load_t5_tokenizer(tmp_path)
