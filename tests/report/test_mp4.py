"""MP4 files of videos, and names that VBench reads."""

import io
import json

import numpy as np
import pytest

from rats_jax.errors import ConfigError
from rats_jax.report import mp4

PROMPT = 'a cat: \u732b, 100 % "wild"'


def moving(num_frames=7, height=32, width=48):
    """A bright square that moves to the right on blue."""
    video = np.zeros((num_frames, height, width, 3), np.uint8)
    video[..., 2] = 200
    for t in range(num_frames):
        video[t, 8:24, 4 * t : 4 * t + 16] = 240
    return video


def test_a_video_comes_back_with_its_frames_rate_and_texts():
    av = pytest.importorskip("av")
    video = moving()
    file = mp4.to_mp4(video, {"prompt": PROMPT}, rate=16)
    with av.open(io.BytesIO(file)) as container:
        said, stream = json.loads(container.metadata["comment"]), container.streams.video[0]
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
        assert (stream.average_rate, stream.codec_context.pix_fmt) == (16, "yuv420p")
    assert said == {"prompt": PROMPT}
    assert frames.shape == video.shape
    errors = [np.abs(frames[t].astype(float) - video[t]).mean() for t in range(len(video))]
    others = [np.abs(frames[t].astype(float) - video[t - 1]).mean() for t in range(len(video))]
    assert max(errors) < 6 < min(others)


def test_an_odd_size_is_one_line():
    with pytest.raises(ConfigError, match="^size='32x47': expected even height and width, for MP4$"):
        mp4.to_mp4(moving(width=47), {}, rate=16)


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(mp4, "find_spec", lambda name: None)
    message = r"^video-format='mp4': expected the package av, .*: pip install 'rats_jax\[mp4\]'$"
    with pytest.raises(ConfigError, match=message):
        mp4.expect_mp4("video-format", "mp4")


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (["a cat/dog"], "^prompt='a cat/dog': expected a name of a file for VBench: without / or controls, "),
        (["a\ncat"], "^prompt='a.ncat': expected a name of a file"),
        (["\u00e9" * 124 + "abc"], "at most 255 bytes with '-9.mp4'$"),
        (["a", "b", "a"], "^prompt='a': expected each prompt once, "),
    ],
)
def test_prompts_that_name_no_file_are_one_line(prompts, message):
    with pytest.raises(ConfigError, match=message):
        mp4.expect_vbench_names(prompts, 10)


def test_the_longest_prompt_names_a_file(tmp_path):
    prompt = "\u00e9" * 124 + "a"
    mp4.expect_vbench_names([prompt, PROMPT], 10)
    for text in (prompt, PROMPT):
        (tmp_path / mp4.vbench_name(text, 9)).write_bytes(b"")
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([f"{prompt}-9.mp4", f"{PROMPT}-9.mp4"])
