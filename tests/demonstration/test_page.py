"""The page, asked through its API: in `make test-newest`, whose packages gradio agrees with."""

import json
import re
import socket
import sys
import urllib.request

import numpy as np
import pytest
from PIL import Image

from rats_jax.demonstration.page import expect_gradio, launch, make_page
from rats_jax.errors import ConfigError
from tests.commands import free_port
from tests.demonstration.fakes import fake_stage


@pytest.fixture
def serve(tmp_path):
    """Serve a stage; gives its address and client."""
    pytest.importorskip("gradio")
    from gradio_client import Client

    pages = []

    def start(stage, **settings):
        page = make_page(stage, path=str(tmp_path), folder=tmp_path)
        address = launch(page, host="127.0.0.1", port=free_port(), files=[str(tmp_path)])
        pages.append(page)
        return address, Client(address, verbose=False, analytics_enabled=False)

    yield start
    for page in pages:
        page.close(verbose=False)


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(
        ConfigError, match=r"^demo: expected the package gradio: pip install 'rats_jax\[demo\]'$"
    ):
        expect_gradio()


def test_pictures_and_what_is_said_of_them_come_in_the_order_of_the_models(serve):
    stage = fake_stage()
    _, client = serve(stage)
    *shown, notes = client.predict("cat", 7, 2, 1.5, api_name="/draw")
    pictures, texts = shown[::2], shown[1::2]
    expected = np.round(stage.entries[0].model.make_noise([7])[0] * 255)
    for file in pictures:
        with Image.open(file) as picture:
            np.testing.assert_array_equal(np.asarray(picture), expected)
    assert texts[0].startswith("9 steps, guidance 3") and texts[1].startswith("2 steps, guidance 1.5")
    assert all(" ms** on cpu" in text for text in texts) and notes == ""
    assert stage.entries[1].model.calls[-1] == ("cat", 2, 1.5)


def test_a_video_plays(serve):
    _, client = serve(fake_stage(shape=(5, 16, 16, 3)))
    *shown, _ = client.predict("cat", 0, 2, 1.0, api_name="/draw")
    with Image.open(shown[0]) as clip:
        assert (clip.format, clip.n_frames, clip.size) == ("WEBP", 5, (16, 16))


def test_wrong_input_is_the_line_of_the_package(serve):
    from gradio_client.exceptions import AppError

    _, client = serve(fake_stage())
    for arguments, line in (
        ((" ", 0, 4, 1.0), "prompts[0]: expected a prompt, found a blank text"),
        (("cat", 0, 2.5, 1.0), "num_steps=2.5: expected an integer >= 1"),
    ):
        with pytest.raises(AppError) as error:
            client.predict(*arguments, api_name="/draw")
        assert str(error.value).startswith(line)


def test_it_asks_no_other_machine(serve):
    address, _ = serve(fake_stage())
    read = {
        page: urllib.request.urlopen(address + page).read().decode() for page in ("", "theme.css", "config")
    }
    assert '"analytics_enabled":false' in read["config"].replace(" ", "")
    assert "font-family" in read["theme.css"] or "--font" in read["theme.css"]
    html = read[""] + (json.loads(read["config"]).get("head") or "")  # which a script puts in its place
    loaded = re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", html)
    assert any("src=" in tag for tag in loaded) and any("href=" in tag for tag in loaded)
    assert not [tag for tag in loaded if re.search(r"""\b(src|href)\s*=\s*["']?(https?:)?//""", tag)]
    assert "@import" not in read["theme.css"] and "fonts.googleapis" not in read["theme.css"]


def test_a_port_that_is_taken_is_one_line(serve, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        pytest.importorskip("gradio")
        page = make_page(fake_stage(), path=str(tmp_path), folder=tmp_path)
        with pytest.raises(ConfigError, match=rf"^port={port}: expected one on which '127.0.0.1' can listen"):
            launch(page, host="127.0.0.1", port=port, files=[])
