"""What lies in place of files that were not downloaded is named, whatever file it is."""

import pytest

from rats_jax.errors import WeightsError
from rats_jax.weights.download import check_download
from rats_jax.weights.hub import find_file

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 492265874\n"
FOUND = {
    "a pointer": (POINTER, "is a pointer of Git LFS in place of the file: `git lfs pull` fetches it"),
    "a page": (b"\n<!DOCTYPE html>\n<html>", "is a web page in place of the file"),
    "a page without a type": (b"<HTML><head>", "is a web page in place of the file"),
    "an answer": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code>', "is the answer of a server"),
    "nothing": (b"", "is empty"),
    "blanks": (b"\n\n", "is empty"),
}
NAMES = (
    "model.safetensors",
    "pytorch_model.bin",
    "flax_model.msgpack",
    "config.json",
    "merges.txt",
    "vocab.json",
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("what", FOUND)
def test_it_is_named(tmp_path, name, what):
    content, message = FOUND[what]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=f"^'.*{name}' {message}"):
        find_file(str(tmp_path), name)
    if name.startswith(("model", "pytorch")):
        with pytest.raises(WeightsError, match=f"^'.*{name}' {message}"):
            find_file(str(tmp_path / name), "model.safetensors")


def test_what_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(WeightsError, match=r"^'.*folder': expected a readable file \(Is a directory\)$"):
        check_download(tmp_path / "folder")


@pytest.mark.parametrize("content", [b"", b"<html>"])
def test_a_model_card_may_be_anything(tmp_path, content):
    (tmp_path / "README.md").write_bytes(content)
    assert find_file(str(tmp_path), "README.md") == tmp_path / "README.md"


def test_a_file_that_may_begin_with_blanks_is_found(tmp_path):
    (tmp_path / "config.json").write_bytes(b" " * 300 + b"{}")
    assert find_file(str(tmp_path), "config.json") == tmp_path / "config.json"
