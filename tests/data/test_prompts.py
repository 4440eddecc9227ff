"""Prompt files, and the stream of batches."""

import json
from itertools import islice

import numpy as np
import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from rats_jax import paths
from rats_jax.data.prompts import find_prompts, make_prompt_iterator, read_prompts
from rats_jax.errors import ConfigError
from rats_jax.paths import expect_prompts

PROMPTS = [f"prompt {i}" for i in range(11)]


def stream(prompts=PROMPTS, *, batch_size=4, seed=0):
    return make_prompt_iterator(prompts, batch_size=batch_size, seed=seed)


def indices(iterator, batches):
    return np.stack(list(islice(iterator, batches)))


def test_read_text(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("red heart\n\n  grüner Apfel \nred heart", encoding="utf-8")
    assert read_prompts(file) == ["red heart", "grüner Apfel", "red heart"]


def test_read_jsonl(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a cat "}\n\n{"text": "a dog", "id": 3}\n')
    assert read_prompts(str(file)) == ["a cat", "a dog"]


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"prompt": 3}', '{"prompt": " "}'])
def test_a_bad_line_of_jsonl_is_named(tmp_path, line):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a cat"}\n' + line)
    with pytest.raises(ConfigError, match=r"prompts.jsonl:2'.*JSON object"):
        read_prompts(file)


def test_prompts_in_a_bucket_are_those_of_a_file(tmp_path, monkeypatch):
    """A folder in place of the bucket, opened as an address is."""
    (tmp_path / "prompts.csv").write_text("prompt,n\na cat,1\n")
    monkeypatch.setattr(paths, "any_path", lambda path, field: epath.Path(tmp_path) / path.rpartition("/")[2])
    assert find_prompts("gs://bucket/prompts.csv") == ["a cat"]
    expect_prompts("gs://bucket/prompts.csv", "prompts")
    with pytest.raises(ConfigError, match="^prompts='gs://bucket/no.csv': expected an existing file"):
        expect_prompts("gs://bucket/no.csv", "prompts")


def test_missing_and_empty_files_are_named(tmp_path):
    with pytest.raises(
        ConfigError, match=r"^prompts='.*none.txt': expected a readable text file \(No such file"
    ):
        read_prompts(tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(ConfigError, match="^prompts='.*empty.txt': expected at least one prompt"):
        read_prompts(tmp_path / "empty.txt")
    for content, encoding in ((b"\x89PNG", "UTF-8"), (b"\xff\xfe\x00", "UTF-16-LE")):
        (tmp_path / "binary.txt").write_bytes(content)
        with pytest.raises(ConfigError, match=f"text file .line 1 is not {encoding}"):
            read_prompts(tmp_path / "binary.txt")


def test_a_batch_is_indices():
    batch = next(stream())
    assert batch.shape == (4,) and batch.dtype == np.int64
    assert set(batch) <= set(range(len(PROMPTS)))


def test_every_epoch_holds_every_prompt_once_in_a_new_order():
    epochs = indices(stream(batch_size=4), 33).reshape(12, 11)
    assert (np.sort(epochs, axis=1) == np.arange(11)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 12


def test_the_order_depends_on_the_seed_alone():
    np.testing.assert_array_equal(indices(stream(seed=3), 9), indices(stream(seed=3), 9))
    assert (indices(stream(seed=3), 9) != indices(stream(seed=4), 9)).any()


@given(st.integers(1, 30), st.integers(1, 9), st.integers(0, 20), st.integers(0, 2**32 - 1))
def test_resuming_at_any_position_goes_on_exactly(num_prompts, batch_size, position, seed):
    prompts = [str(i) for i in range(num_prompts)]
    straight = stream(prompts, batch_size=batch_size, seed=seed)
    indices(straight, position + 1)
    state = json.loads(json.dumps(straight.get_state()))
    resumed = stream(prompts, batch_size=batch_size, seed=seed)
    resumed.set_state(state)
    np.testing.assert_array_equal(indices(resumed, 5), indices(straight, 5))


def test_a_state_does_not_move_with_the_iterator():
    iterator = stream()
    state = iterator.get_state()
    first = indices(iterator, 3)
    iterator.set_state(state)
    np.testing.assert_array_equal(indices(iterator, 3), first)


def test_other_prompts_are_refused():
    with pytest.raises(ConfigError, match="^prompts: expected those with which the run began"):
        stream(PROMPTS[:-1]).set_state(stream().get_state())
