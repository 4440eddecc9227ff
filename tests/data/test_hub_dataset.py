"""Prompts of Hugging Face datasets that lie in a folder here: no test reaches the hub."""

import json
import sys

import pytest
from datasets import Dataset, Features, Image, Value

from rats_jax.data.prompts import find_prompts, make_prompt_iterator
from rats_jax.errors import ConfigError

TEXTS = ["a red kite", "grüne Äpfel ", "three dogs on a boat"]


@pytest.fixture(autouse=True)
def _offline(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def write(folder, rows, split="train"):
    folder.mkdir(exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return f"hf:{folder}"


@pytest.mark.parametrize("column", ["prompt", "Prompt", "text", "caption"])
def test_prompts_are_those_of_the_column_in_their_order(tmp_path, column):
    rows = [{"id": i, "captions": "not this one", column: text} for i, text in enumerate(TEXTS)]
    prompts = find_prompts(write(tmp_path / "data", rows))
    assert list(prompts) == ["a red kite", "grüne Äpfel", "three dogs on a boat"]
    assert prompts[-1] == TEXTS[-1] and prompts[:2] == list(prompts)[:2]


def test_the_split_is_the_one_that_is_named_or_a_part_of_it(tmp_path):
    write(tmp_path / "data", [{"text": "wrong"}])
    path = write(tmp_path / "data", [{"text": text} for text in TEXTS], split="test")
    assert list(find_prompts(path)) == ["wrong"]
    assert list(find_prompts(f"{path}:test"))[0] == TEXTS[0] and len(find_prompts(f"{path}:test[:2]")) == 2
    with pytest.raises(
        ConfigError, match=r"^prompts='hf:.*:other': expected a dataset that can be read \(.*other"
    ):
        find_prompts(f"{path}:other")


def test_several_captions_count_as_the_first_and_blank_ones_are_left_out(tmp_path, caplog):
    rows = [{"captions": ["", " a boat "]}, {"captions": []}, {"captions": ["two", "three"]}]
    assert list(find_prompts(write(tmp_path / "data", rows))) == ["a boat", "two"]
    assert "1 of 3 examples" in caplog.text


def test_pictures_are_not_read(tmp_path):
    features = Features({"image": Image(), "text": Value("string")})
    broken = {"image": [{"bytes": b"no picture", "path": None}], "text": ["a boat"]}
    (tmp_path / "data").mkdir()
    Dataset.from_dict(broken, features=features).to_parquet(tmp_path / "data" / "train.parquet")
    assert list(find_prompts(f"hf:{tmp_path / 'data'}")) == ["a boat"]


def test_a_run_goes_on_with_the_same_prompts_alone(tmp_path):
    def stream(path):
        return make_prompt_iterator(find_prompts(path), batch_size=2, seed=0)

    path = write(tmp_path / "data", [{"text": text} for text in TEXTS])
    state = stream(path).get_state()
    stream(path).set_state(state)
    write(tmp_path / "data", [{"text": text} for text in (*TEXTS[:2], "another")])
    with pytest.raises(ConfigError, match="^prompts: expected those with which the run began"):
        stream(path).set_state(state)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("hf:", r"^heldout_prompts='hf:': expected 'hf:OWNER/NAME\[/CONFIG\]\[:SPLIT\]' or 'hf:FOLDER"),
        (
            "hf:owner/nowhere",
            r"^heldout_prompts='hf:owner/nowhere': expected a dataset that can be read \(.*owner/nowhere",
        ),
        (
            "hf:none",
            r"^heldout_prompts='hf:none': expected one of the columns prompt, text, .*, found label$",
        ),
        ("hf:number", r"^heldout_prompts='hf:number:text': example 0: expected a caption, found 3"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, path, message):
    write(tmp_path / "none", [{"label": 3}])
    write(tmp_path / "number", [{"text": 3}])
    with pytest.raises(ConfigError, match=message) as caught:
        find_prompts(path, field="heldout_prompts")
    assert "\n" not in str(caught.value)


def test_a_split_without_a_row_is_one_line(monkeypatch):
    """The package itself refuses those that it is known to have."""
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: Dataset.from_dict({"text": []}))
    with pytest.raises(ConfigError, match="^prompts='hf:a/b': expected at least one prompt, the split is em"):
        find_prompts("hf:a/b")


def test_without_the_package_the_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"pip install 'rats_jax\[datasets\]'"):
        find_prompts("hf:owner/name")
