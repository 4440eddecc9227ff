"""CLIP's own vocabulary against open_clip's tokenizer, prompts that are cut, and the cache of prompts."""

import numpy as np
import pytest
from absl import logging

from rats_jax.weights.tokenizers import CLIP_VOCABULARY, load_tokenizer, once_per_prompt, tokenize

PROMPTS = [
    "",
    "a photo of a cat",
    "It's 12:30 -- don't   panic!",
    "naïve café, Straße & 東京 🙂",
    "A RED ball; (blue) [box] <3 #art @home 50%",
    "mended â€™quotesâ€\x9d &amp; entities",
    "very long " * 60,
]


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
