"""Files in a folder, beside a file, and in the local cache of the hub; nothing here needs a network."""

import functools
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest

from rats_jax.errors import WeightsError
from rats_jax.paths import is_hub_id
from rats_jax.weights.find import find_weights
from rats_jax.weights.hub import find_file, get_file


@pytest.fixture
def folder(tmp_path):
    for name in ("config.json", "model.safetensors", "weights.pt"):
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A hub cache in its real layout, and no connection: revision main holds config.json and weights.pt."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--someone--model" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for revision in ("main", "v2"):
        reference = tmp_path / "models--someone--model" / "refs" / revision
        reference.parent.mkdir(exist_ok=True)
        reference.write_text(commit)
    for name in ("config.json", "weights.pt"):
        (snapshot / name).write_text(name)
    return snapshot


def test_the_first_name_that_exists_is_found(folder):
    assert find_file(str(folder), "absent.json", "weights.pt", "config.json") == folder / "weights.pt"
    assert find_file(str(folder), "absent.json") is None


def test_a_file_is_itself_for_names_of_its_kind_and_a_folder_for_others(folder):
    file = folder / "weights.pt"
    assert find_file(str(file), "HPS_v2.1_compressed.pt") == file
    assert find_file(str(file), "config.json") == folder / "config.json"
    assert find_file(str(file), "vocab.json") is None


def test_a_named_index_of_weights_is_read(folder):
    index = folder / "model.safetensors.index.json"
    index.write_text("{}")
    assert find_file(str(index), "model.safetensors", index.name) == index
    assert (
        find_file(str(folder / "model.safetensors"), index.name, "model.safetensors").name
        == "model.safetensors"
    )


def test_what_the_environment_says_of_the_hub_is_named(cached, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match="; the environment sets HF_HUB_OFFLINE='1'"):
        find_file("nobody/model", "config.json")


def test_files_of_the_hub_come_from_its_cache(cached):
    assert find_file("someone/model", "config.json") == cached / "config.json"
    assert find_file("someone/model@v2", "weights.pt") == cached / "weights.pt"


def test_a_hub_that_cannot_be_reached_is_one_line_with_its_name(cached):
    for path, name in (("someone/model", "absent.json"), ("nobody/model", "config.json")):
        with pytest.raises(
            WeightsError, match=f"^model '{path}' is no folder here, and .* '{name}'"
        ) as error:
            find_file(path, name)
        assert "\n" not in str(error.value)


def test_without_a_connection_what_was_seen_to_be_absent_is_absent(cached):
    absent = cached.parents[1] / ".no_exist" / cached.name / "vocab.json"
    absent.parent.mkdir(parents=True)
    absent.touch()
    assert find_file("someone/model", "vocab.json") is None
    assert find_file("someone/model", "vocab.json", "config.json") == cached / "config.json"


class Gate(BaseHTTPRequestHandler):
    """A hub that asks for a licence to be accepted, as the real one does of who is not logged in."""

    def do_HEAD(self):
        self.send_response(401)
        self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("X-Error-Message", "Access to model someone/flux is restricted.")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD  # noqa: N815

    def log_message(self, format, *args):
        pass


def test_a_gated_repository_says_where_its_licence_is_accepted(tmp_path, monkeypatch):
    with ThreadingHTTPServer(("127.0.0.1", 0), Gate) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{hub.server_port}"
        download = functools.partial(huggingface_hub.hf_hub_download, endpoint=url, cache_dir=tmp_path)
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        # Of other tests there may be a session that is offline; versions differ in how to end it.
        end = "close_session" if hasattr(huggingface_hub, "close_session") else "configure_http_backend"
        getattr(huggingface_hub, end)()
        with pytest.raises(WeightsError) as error:
            find_file("someone/flux@main", "model_index.json")
        hub.shutdown()
    assert str(error.value) == (
        "model 'someone/flux@main' is gated: expected its licence to be accepted at "
        "https://huggingface.co/someone/flux, and a token that may read gated repositories, from "
        "`hf auth login` or in HF_TOKEN"
    )


@pytest.mark.parametrize("path", ["nowhere", "a/b/c", "assets/nothing", "/nowhere/model", "owner/na me"])
def test_what_is_neither_file_nor_hub_id_is_refused(path):
    with pytest.raises(WeightsError, match=f"^'{path}' is no file or folder, and no hub id"):
        find_file(path, "config.json")


def test_a_folder_that_may_not_be_read_is_said_to_be(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.iterdir", refuse)
    why = f"; the folder {str(folder)!r} cannot be read .Permission denied."
    with pytest.raises(WeightsError, match=f"^model '.*' lacks 'a.pt'{why}$"):
        get_file(str(folder), "a.pt")
    with pytest.raises(WeightsError, match=f"its index, or the same as .bin or .msgpack{why}$"):
        find_weights(str(folder), ".", transformers=False)


def test_a_missing_file_of_a_model_is_named(folder):
    seen = "there are 'config.json', 'model.safetensors', 'weights.pt'"
    with pytest.raises(WeightsError, match=f"^model '.*' lacks 'a.pt' or 'b.pt'; {seen}$"):
        get_file(str(folder), "a.pt", "b.pt")
    with pytest.raises(WeightsError, match="^model '.*' lacks 'unet/a.pt'$"):
        get_file(str(folder), "unet/a.pt")


@pytest.mark.parametrize(
    "name", ["x.ckpt", "x.pth", "x.bin", "x.safetensors", "model.safetensors.index.json"]
)
def test_a_named_file_of_weights_is_read_whatever_lies_beside_it(folder, name):
    (folder / name).write_text("weights")
    assert find_file(str(folder / name), "model.safetensors", "pytorch_model.bin") == folder / name
    assert find_file(str(folder / name), "config.json") == folder / "config.json"


def test_a_named_file_that_holds_no_weights_is_refused(folder):
    (folder / "x.gguf").write_text("weights")
    for name in ("x.gguf", "config.json"):
        with pytest.raises(WeightsError, match=f"{name}': expected a folder or a file of weights"):
            find_file(str(folder / name), "model.safetensors")


def test_hub_ids(tmp_path, monkeypatch):
    assert is_hub_id("yuvalkirstain/PickScore_v1") and is_hub_id("xswu/HPSv2@0f3a")
    assert not is_hub_id("model") and not is_hub_id("a/b/c") and not is_hub_id("assets/emoji")
    (tmp_path / "xswu" / "HPSv2").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert not is_hub_id("xswu/HPSv2"), "what lies here comes first"
