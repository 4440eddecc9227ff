"""Pictures beside their prompts."""

import json

import pytest
from absl import logging
from PIL import Image

from rats_jax.data.pairs import read_pairs
from rats_jax.errors import ConfigError


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("10.png", "2.jpg", "1.PNG"):
        Image.new("RGB", (4, 3), "red").save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    return folder


def write(folder, name, text):
    (folder / name).write_text(text)
    return folder / name


def test_lines_go_with_pictures_in_the_order_of_their_numbers(images, tmp_path):
    pairs = read_pairs(images, write(tmp_path, "prompts.txt", "one\n\n two \nten\n"))
    assert [(p.file.name, p.prompt) for p in pairs] == [("1.PNG", "one"), ("2.jpg", "two"), ("10.png", "ten")]


def test_one_prompt_is_for_all(images, tmp_path):
    pairs = read_pairs(images, write(tmp_path, "prompts.txt", "a cat"))
    assert [p.prompt for p in pairs] == ["a cat"] * 3


def test_a_jsonl_names_its_pictures(images, tmp_path):
    records = [{"file_name": "10.png", "text": "ten"}, {"file_name": "2.jpg", "prompt": "two"}]
    pairs = read_pairs(images, write(tmp_path, "p.jsonl", "\n".join(map(json.dumps, records))))
    assert [(p.file.name, p.prompt) for p in pairs] == [("10.png", "ten"), ("2.jpg", "two")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.JSONL", '{"file_name": "10.png", "text": "ten"}\n{"file_name": "2.jpg", "prompt": "two"}'),
        ("p.ndjson", '{"file_name": "10.png", "text": "ten"}\n{"file_name": "2.jpg", "prompt": "two"}'),
        ("p.json", '[{"file_name": "10.png", "text": "ten"}, {"file_name": "2.jpg", "prompt": "two"}]'),
        ("p.csv", "file_name,caption\n10.png,ten\n2.jpg,two\n"),
        ("p.tsv", "caption\tfile_name\nten\t10.png\ntwo\t2.jpg\n"),
    ],
)
def test_rows_of_every_format_name_their_pictures(images, tmp_path, name, text):
    pairs = read_pairs(images, write(tmp_path, name, text))
    assert [(p.file.name, p.prompt) for p in pairs] == [("10.png", "ten"), ("2.jpg", "two")]


def test_rows_in_another_order_than_the_pictures_are_not_matched_by_their_order(images, tmp_path):
    file = write(tmp_path, "p.csv", "file_name,prompt\n10.png,ten\n2.jpg,two\n1.PNG,one\n")
    assert {p.file.name: p.prompt for p in read_pairs(images, file)} == {
        "10.png": "ten",
        "2.jpg": "two",
        "1.PNG": "one",
    }


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.csv", "prompt\none\ntwo\nthree\n", r"p.csv:2': file_name=None, expected a picture in"),
        ("p.json", '["one", "two", "three"]', r"p.json, item 1': file_name=None, expected a picture in"),
        ("p.txt", "one\ntwo", r"p.txt': has 2 prompts, expected one for each of the 3 pictures"),
        ("p.txt", " \n", "p.txt': expected at least one prompt"),
        ("p.jsonl", '{"prompt": "a"}', r"p.jsonl:1': file_name=None, expected a picture in"),
        ("p.jsonl", '\n{"prompt": "a", "file_name": "3.png"}', r"p.jsonl:2': file_name='3.png', expected"),
        ("p.jsonl", '{"file_name": "2.jpg"}', "p.jsonl:1': expected a JSON object with a text in `prompt`"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(images, tmp_path, name, text, message):
    with pytest.raises(ConfigError, match=message):
        read_pairs(images, write(tmp_path, name, text))


def test_a_folder_without_pictures_is_refused(tmp_path):
    prompts = write(tmp_path, "prompts.txt", "a")
    with pytest.raises(ConfigError, match=r"images='.*': expected pictures"):
        read_pairs(tmp_path, prompts)
    with pytest.raises(ConfigError, match="nowhere': expected an existing folder"):
        read_pairs(tmp_path / "nowhere", prompts)


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(logging, "warning", lambda line, *values: lines.append(line % values))
    return lines


def test_what_is_passed_over_is_said_in_one_line(images, tmp_path, said):
    (images / "sub.png").mkdir()
    for name in (".DS_Store", "._1.PNG", "Thumbs.db", ".hidden.png", "contact_sheet.png", "photo.heic"):
        (images / name).write_bytes(b"?")
    prompts = write(images, "prompts.txt", "a cat")
    assert [p.file.name for p in read_pairs(images, prompts)] == ["1.PNG", "2.jpg", "10.png"]
    assert said == [
        f"images={str(images)!r}: has 3 pictures; passed over 4 that are none, e.g. 'contact_sheet.png', "
        "'notes.txt', 'photo.heic'"
    ]
    with pytest.raises(ConfigError, match=r"has 2 prompts, .* one for all \(passed over 5 that are none"):
        read_pairs(images, write(tmp_path, "p.txt", "one\ntwo"))


def test_nothing_is_said_where_nothing_is_passed_over(images, tmp_path, said):
    (images / "notes.txt").unlink()
    read_pairs(images, write(tmp_path, "prompts.txt", "a cat"))
    assert not said


def test_a_name_that_no_file_can_have_is_refused(images, tmp_path):
    record = json.dumps({"file_name": "x" * 300 + ".png", "prompt": "a"})
    with pytest.raises(ConfigError, match=r"p.jsonl:1': file_name='xxx.*expected a picture in"):
        read_pairs(images, write(tmp_path, "p.jsonl", record))


def test_a_jsonl_names_pictures_of_any_suffix(images, tmp_path):
    (images / "1.PNG").rename(images / "contact_sheet.png")
    (images / "2.jpg").rename(images / "no suffix")
    records = [{"file_name": name, "text": "t"} for name in ("no suffix", "contact_sheet.png")]
    pairs = read_pairs(images, write(tmp_path, "p.jsonl", "\n".join(map(json.dumps, records))))
    assert [p.file.name for p in pairs] == ["no suffix", "contact_sheet.png"]
