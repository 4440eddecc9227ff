"""A repository of the hub: made, filled and refused, by the hub's own client against a stand-in."""

import huggingface_hub
import pytest
from huggingface_hub import constants

from rats_jax.errors import ConfigError
from rats_jax.student import share
from tests import hub as stand_in


@pytest.fixture
def hub(monkeypatch):
    with stand_in.serving() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setenv("HF_TOKEN", stand_in.TOKEN)
        yield hub


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "student" / "unet").mkdir(parents=True)
    (tmp_path / "student" / "README.md").write_text("---\ntags: [rats]\n---\n# A student\n")
    (tmp_path / "student" / "unet" / "weights.safetensors").write_bytes(bytes(range(256)) * 9)
    return tmp_path / "student"


@pytest.mark.parametrize("private", [True, False])
def test_a_folder_arrives_as_it_is(hub, folder, private):
    address = share.open_repository("me/student", private=private)
    share.push("me/student", folder, message="a test")
    assert address == f"{hub.address}/me/student"
    (name,) = hub.repositories
    assert name == "me/student" and hub.repositories[name]["private"] is private
    wanted = {
        str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()
    }
    assert hub.repositories[name]["files"] == wanted
    share.open_repository("me/student", private=True)  # one that is there is no mistake, and stays as it is
    assert hub.repositories[name]["private"] is private


@pytest.mark.parametrize(
    "name", ["", "student", "me/you/student", "me/student@main", "me/a b", "me/-x", "/x"]
)
def test_what_can_be_no_repository_is_refused_before_it_is_asked_for(hub, name):
    with pytest.raises(ConfigError, match=r"^push='.*': expected a repository as 'owner/name'"):
        share.open_repository(name, private=True)
    assert hub.asked == []


def test_without_a_token_nothing_is_asked(hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(
        ConfigError, match=r"expected a token that may write, from `hf auth login` or in HF_TOKEN"
    ):
        share.open_repository("me/student", private=True)
    assert hub.asked == []


REFUSED = [
    (401, "a token that the hub accepts, from `hf auth login` or in HF_TOKEN"),
    (403, "a token that may write to 'me', from"),
    (404, "an owner that is known and a token that may write to it"),
    (500, "what the hub accepts"),
]


@pytest.mark.parametrize(("status", "expected"), REFUSED)
def test_what_the_hub_refuses_is_one_line(hub, folder, status, expected):
    hub.refuses = {"/api/repos/create": status}
    with pytest.raises(ConfigError) as caught:
        share.open_repository("me/student", private=True)
    assert str(caught.value).startswith(f"push='me/student': expected {expected}")
    assert "\n" not in str(caught.value) and str(status) in str(caught.value)

    hub.refuses = {}
    share.open_repository("me/student", private=True)
    hub.refuses = {"/api/repos/create": 403, "/preupload/": status}  # one that is there, of somebody else
    with pytest.raises(ConfigError, match=rf"^push='me/student': expected {expected}"):
        share.open_repository("me/student", private=True)
    hub.refuses = {"/commit/": status}
    with pytest.raises(ConfigError) as caught:
        share.push("me/student", folder, message="a test")
    assert str(caught.value).startswith(f"push='me/student': expected {expected}")
    kept = f"; the student is in {str(folder)!r}, and `hf upload me/student {folder}` sends it"
    assert str(caught.value).endswith(kept) and "\n" not in str(caught.value)
    assert (folder / "README.md").exists()


def test_no_network_is_one_line(monkeypatch):
    with stand_in.serving() as hub:
        address = hub.address
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setenv("HF_TOKEN", stand_in.TOKEN)
    with pytest.raises(ConfigError, match=f"expected a hub that can be reached at {address} ") as caught:
        share.open_repository("me/student", private=True)
    assert "\n" not in str(caught.value)
