"""JSON files of a model folder as any program wrote them."""

import json

import pytest

from rats_jax.errors import WeightsError
from rats_jax.pipelines.write import copy_tokenizers
from rats_jax.weights.folder import describe, read_json


@pytest.mark.parametrize(("mark", "encoding"), [("", "utf-8"), ("\ufeff", "utf-8"), ("\ufeff", "utf-16-le")])
def test_a_byte_order_mark_is_dropped(tmp_path, mark, encoding):
    text = mark + '{\r\n "a": "grün",\r\n "b": [null, "\\ud83c\\udf4f"]}\r\n'
    (tmp_path / "config.json").write_bytes(text.encode(encoding))
    assert read_json(tmp_path / "config.json") == {"a": "grün", "b": [None, "🍏"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "config.json' is no JSON file: Expecting value"),
        (b'{"a": caf\xe9}', "config.json' is no JSON file: line 1 is not UTF-8"),
        (b"{}\0\0", "config.json' is no JSON file: line 1 has a NUL"),
        (b'{"a": ' + b"[" * 100_000, "config.json' is no JSON file: too many brackets"),
        (b'{"a": ' + b"1" * 5000 + b"}", "config.json' is no JSON file: an integer of thousands of digits"),
        (b'{"a": "\\ud83d"}', "config.json' is no JSON file: half a character"),
        (b"[]", "config.json' holds a list, expected a JSON object"),
        (b"null", "config.json' holds a NoneType, expected a JSON object"),
    ],
)
def test_what_is_no_json_object_is_refused_in_a_line(tmp_path, content, message):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(WeightsError, match=message) as error:
        read_json(tmp_path / "config.json")
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_sizes_that_do_not_fit_each_other_are_one_line():
    def init(module, key):
        raise TypeError(f"{module} of\n3 features")

    message = "^'config.json' describes no network known here: TypeError: a layer of 3 features$"
    with pytest.raises(WeightsError, match=message):
        describe("config.json", lambda: "a layer", init)


def test_a_file_that_is_not_there_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(WeightsError, match="lacks .*none.json': expected a diffusers folder"):
        read_json(tmp_path / "none.json")
    with pytest.raises(WeightsError, match=r"expected a readable file \(Is a directory"):
        read_json(tmp_path)


def test_copied_tokenizers_have_no_mark(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "tokenizer").mkdir(parents=True)
    target.mkdir()
    (source / "model_index.json").write_text(json.dumps({"tokenizer": ["transformers", "CLIPTokenizer"]}))
    files = {
        "vocab.json": b'\xef\xbb\xbf{"a": 0}\r\n',
        "merges.txt": b"#version: 0.2\r\n",
        "spiece.model": b"\n\xff\0",
    }
    for name, content in files.items():
        (source / "tokenizer" / name).write_bytes(content)
    copy_tokenizers(str(source), target)
    found = {file.name: file.read_bytes() for file in (target / "tokenizer").iterdir()}
    assert found == files | {"vocab.json": b'{"a": 0}\r\n'}
