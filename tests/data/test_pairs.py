"""Pictures beside their prompts."""

import json

import numpy as np
import pytest
from PIL import Image

from rats_jax.data.pairs import picture_size, read_pairs, read_picture
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
    ("name", "text", "message"),
    [
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


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA"])
def test_every_kind_of_picture_becomes_rgb_on_white(tmp_path, mode):
    rng = np.random.default_rng(0)
    bands = len(Image.new(mode, (1, 1)).getbands())
    if mode == "P":
        picture = Image.fromarray(rng.integers(0, 255, (5, 7, 3), np.uint8)).quantize(8)
    else:
        values = rng.integers(0, 255, (5, 7, bands), np.uint8)
        picture = Image.fromarray(values.squeeze() if bands == 1 else values, mode)
    picture.save(tmp_path / "a.png")
    actual = read_picture(tmp_path / "a.png")
    assert actual.shape == (5, 7, 3) and actual.dtype == np.float32
    assert picture_size(tmp_path / "a.png") == (5, 7)
    rgba = np.asarray(picture.convert("RGBA"), np.float64) / 255
    expected = rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]
    np.testing.assert_allclose(actual, expected, atol=1.01 / 255)


def test_a_damaged_picture_is_named(tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=r"a.png': expected a readable picture"):
        read_picture(tmp_path / "a.png")
    (tmp_path / "a.png").write_text("text")
    with pytest.raises(ConfigError, match=r"a.png': expected a readable picture"):
        picture_size(tmp_path / "a.png")
