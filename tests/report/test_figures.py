"""What stands above and below the pictures of a sheet."""

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from rats_jax.report import page
from rats_jax.report.figures import (
    _fit,
    draw_grid,
    draw_sheet,
    save_result,
    save_sheet,
    suffix_of,
    to_picture,
)

FONT = ImageFont.load_default(size=11)


def longest(text, width):
    """The longest beginning that fits, found from the front."""
    fits = [cut for end in range(1, len(text)) if FONT.getlength(cut := text[:end].rstrip() + "…") <= width]
    return fits[-1]


@pytest.mark.parametrize("text", ["a cat", "", "a cat\n on a \u2028mat", "i" * 10])
def test_a_short_text_stays_in_one_line(text):
    assert _fit(text, FONT, 128) == " ".join(text.split())


@pytest.mark.parametrize("text", ["black cat " * 8, "W" * 60, "i" * 70, "i" * 300, "grüner Apfel " * 9])
@pytest.mark.parametrize("width", [20, 72, 128])
def test_a_long_text_is_cut_where_the_width_ends(text, width):
    assert _fit(text, FONT, width) == longest(text.strip(), width)


def test_what_fits_nowhere_is_dots():
    assert _fit("WW", FONT, 3) == "…"


@pytest.mark.parametrize(
    "text", ["black cat " * 200_000, "x" * 2_000_000, "e" + "\u0301" * 2_000_000, " " * 2_000_000]
)
def test_a_sheet_of_very_long_texts_takes_no_time(text):
    start = time.perf_counter()
    draw_grid(np.zeros((4, 8, 8, 3)), [text] * 4, columns=4)
    assert time.perf_counter() - start < 5


def test_a_video_is_a_strip_of_four_frames_in_its_own_proportions():
    video = np.zeros((7, 8, 16, 3))
    video[:, ..., 0] = np.linspace(0.0, 1.0, 7)[:, None, None]
    strip = np.asarray(to_picture(video, 16))
    assert strip.shape == (16, 4 * 32, 3)
    np.testing.assert_array_equal(strip[0, 16::32, 0], [0, 85, 170, 255])
    assert to_picture(video[:2], 16).size == (64, 16)
    assert to_picture(video[0], 16).size == (32, 16)


def test_a_sheet_of_videos_plays_all_of_them():
    videos = np.random.default_rng(0).random((3, 5, 8, 8, 3))
    captions = {name: ["1.0"] * 3 for name in ("teacher", "student")}
    sheet = draw_sheet(dict.fromkeys(captions, videos), captions, ["a", "b", "c"])
    assert len(sheet.frames) == 5 and len({frame.tobytes() for frame in sheet.frames}) == 5
    still = draw_sheet({name: videos[:, 0] for name in captions}, captions, ["a", "b", "c"])
    assert still.frames == [] and still.picture.tobytes() == sheet.frames[0].tobytes()


def test_a_video_of_one_frame_is_a_picture(tmp_path):
    videos = np.random.default_rng(0).random((2, 1, 8, 8, 3))
    sheet = draw_sheet({"a": videos}, {"a": ["1", "2"]}, ["a", "b"])
    assert sheet.frames == []
    assert (
        sheet.picture.tobytes() == draw_sheet({"a": videos[:, 0]}, {"a": ["1", "2"]}, ["a", "b"])[0].tobytes()
    )
    assert suffix_of(videos[0]) == suffix_of(videos[0, 0]) == ".png" and suffix_of(videos[:, 0]) == ".webp"
    for i, result in enumerate((videos[0], videos[0, 0])):
        save_result(result, tmp_path / f"{i}.png", {"prompt": "cat"})
    assert (tmp_path / "0.png").read_bytes() == (tmp_path / "1.png").read_bytes()


def test_a_video_that_stands_still_is_a_file_and_a_sheet(tmp_path):
    video = np.repeat(np.random.default_rng(0).random((1, 8, 8, 3)), 5, axis=0)
    save_result(video, tmp_path / "still.webp", {"prompt": "grün"})
    with Image.open(tmp_path / "still.webp") as opened:
        assert opened.size == (8, 8)
    sheet = draw_sheet({"a": video[None]}, {"a": [""]}, ["a"])
    files = save_sheet(sheet, tmp_path / "sheet")
    assert [file.name for file in files] == ["sheet.png", "sheet.webp"] and all(map(Path.exists, files))
    page._image(files[1].read_bytes(), "still")
