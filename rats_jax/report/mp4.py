"""MP4 files of videos, and the names that VBench gives them."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from rats_jax.errors import expect

VBENCH = "vbench"
"""The folder of videos with VBench's names; there is nothing else in it, or VBench takes that for videos."""
_LONGEST = 255  # bytes of a file's name, on every system that is used
_QUALITY = "18"  # x264's: below what the eye sees


def expect_mp4(field: str, value: Any) -> None:
    """Refuse what needs MP4 files where they cannot be written.

    Args:
        field, value: what asks for them, for the message.

    Raises:
        ConfigError: the package av is not installed.
    """
    installed = find_spec("av") is not None
    expect(installed, field, value, "the package av, which writes MP4: pip install 'rats_jax[mp4]'")


def expect_format(video_format: str, prompts: Sequence[str], count: int) -> None:
    """Refuse what cannot be written in a format of videos: 'webp', 'mp4' or VBENCH.

    Raises:
        ConfigError: as `expect_mp4` and `expect_vbench_names`.
    """
    if video_format != "webp":
        expect_mp4("video-format", video_format)
    if video_format == VBENCH:
        expect_vbench_names(prompts, count)


def to_mp4(video: np.ndarray, texts: Mapping[str, str], *, rate: int) -> bytes:
    """Encode a video as MP4, H.264 with colours at half the size, which every player reads.

    Args:
        video: [T, H, W, 3] uint8, H and W even.
        texts: what its metadata says, as one JSON object in its comment.
        rate: frames a second.

    Returns:
        The file.

    Raises:
        ConfigError: H or W is odd.
    """
    height, width = video.shape[1:3]
    expect(height % 2 == width % 2 == 0, "size", f"{height}x{width}", "even height and width, for MP4")
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        container.metadata["comment"] = json.dumps(dict(texts))
        stream: Any = container.add_stream("libx264", rate=rate, options={"crf": _QUALITY})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in video:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def vbench_name(prompt: str, index: int) -> str:
    """Give the name of the file of a prompt's video, counted from 0; source: VBench, prompts/README.md."""
    return f"{prompt}-{index}.mp4"


def expect_vbench_names(prompts: Sequence[str], count: int) -> None:
    """Refuse prompts that cannot name files as they stand: under other names VBench would not find them.

    Args:
        prompts: each of which has `count` videos.
        count: at least 1.

    Raises:
        ConfigError: a prompt with a slash or a character that cannot be printed, one that is too long, or
            one that stands there twice.
    """
    for prompt in prompts:
        suffix = vbench_name("", count - 1)
        good = "/" not in prompt and prompt.isprintable() and len((prompt + suffix).encode()) <= _LONGEST
        expected = (
            f"a name of a file for VBench: without / or controls, at most {_LONGEST} bytes with {suffix!r}"
        )
        expect(good, "prompt", prompt, expected)
    twice = next((prompt for prompt, times in Counter(prompts).items() if times > 1), None)
    expect(twice is None, "prompt", twice, "each prompt once, since files are named after it for VBench")
