"""A folder of results appears whole or not at all."""

import errno
import os
import re
import shutil
from pathlib import Path

import pytest
from safetensors import SafetensorError

from rats_jax import files
from rats_jax.errors import ConfigError
from rats_jax.files import expect_room, free_bytes, naming_disk, new_folder, whole_file, write_whole


def test_it_has_its_name_only_once_all_is_there(tmp_path):
    out = tmp_path / "above" / "out"
    with new_folder(out, field="out") as folder:
        (folder / "file").write_text("content")
        assert not out.exists()
    assert (out / "file").read_text() == "content" and list(out.parent.iterdir()) == [out]


def test_nothing_is_left_after_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="broken"), new_folder(tmp_path / "out", field="out") as folder:
        (folder / "file").write_text("content")
        raise RuntimeError("broken")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_stays_as_it_is(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_text("old")
    with pytest.raises(ConfigError, match="out='.*': expected a folder that is not there yet"):
        with new_folder(tmp_path / "out", field="out"):
            raise AssertionError
    assert (tmp_path / "out" / "file").read_text() == "old"


def test_a_disk_that_fails_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ConfigError, match="out='.*': expected a folder that can be written [(]Not a directory"
    ):
        with new_folder(tmp_path / "file" / "out", field="out"):
            raise AssertionError
    with pytest.raises(ConfigError, match="can be written [(]No space left on device"):
        with new_folder(tmp_path / "out", field="out"):
            raise OSError(28, "No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_error_of_another_file_is_not_taken_for_one_of_the_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        with new_folder(tmp_path / "out", field="out"):
            (tmp_path / "elsewhere").read_text()


def of(number, file=None):
    return OSError(number, os.strerror(number), file)


TENSORSTORE = (
    'RESOURCE_EXHAUSTED: Error writing local file "{}/3/_sharding": Failed to write 138995 bytes to file 19: '
    "No space left on device [os_error_code='28'] [source locations='a.cc:1']"
)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (of(errno.ENOSPC), "No space left on device"),
        (of(errno.EDQUOT), "Disk quota exceeded"),
        (of(errno.EIO), "Input/output error"),
        (of(errno.EROFS, "/there/run/metrics.jsonl"), "Read-only file system"),
        (of(errno.EACCES, "/there/run"), "Permission denied"),
        (of(errno.EACCES, b"/there"), "Permission denied"),
        (SafetensorError("Error while serializing: I/O error"), "Error while serializing: I/O error"),
        (ValueError(TENSORSTORE.format("/there/run/checkpoints")), "No space left on device"),
        (of(errno.ENOENT, "/elsewhere/model.json"), None),
        (of(errno.ENOSPC, "/elsewhere/cache"), None),
        (of(errno.EACCES, "/there/runs"), None),
        (of(errno.EPIPE), None),  # of a terminal that is gone
        (ValueError(TENSORSTORE.format("/elsewhere")), None),
        (ValueError("/there/run has an odd shape"), None),
        (ConfigError(TENSORSTORE.format("/there/run")), None),
        (KeyError("os_error_code"), None),
    ],
)
def test_what_a_disk_does_is_one_line_and_other_errors_pass(error, reason):
    with pytest.raises(type(error) if reason is None else ConfigError) as raised:
        with naming_disk(Path("/there/run"), field="workdir", more=lambda: "; it goes on"):
            raise error
    if reason is None:
        assert raised.value is error
    else:
        expected = f"workdir='/there/run': expected a folder that can be written ({reason}); it goes on"
        assert str(raised.value) == expected


def test_a_disk_that_is_too_small_is_known_before(tmp_path, monkeypatch):
    there = tmp_path / "not" / "there" / "yet"
    assert free_bytes(there) == pytest.approx(free_bytes(tmp_path), rel=0.1) and free_bytes(tmp_path) > 0
    expect_room(there, 1, field="out", content="it")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(files, "free_bytes", lambda folder: 1.23e8)
    expect_room(there, 123_000_000, field="out", content="the weights")
    message = "^out='/a': expected a disk with 1.2 GB free for the weights, it has 0.1 GB$"
    with pytest.raises(ConfigError, match=message):
        expect_room(Path("/a"), 1_234_000_000, field="out", content="the weights")


def test_what_a_killed_command_left_is_never_part_of_the_results(tmp_path):
    stale = tmp_path / "out.partial"
    stale.mkdir()
    (stale / "cond_0.npy").write_text("of before")
    with new_folder(tmp_path / "out", field="out") as folder:
        (folder / "cond_1.npy").write_text("new")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["cond_1.npy"]
    assert not stale.exists()


def test_a_second_command_is_refused_until_the_first_ends(tmp_path):
    out = tmp_path / "out"
    with new_folder(out, field="out") as folder:
        (folder / "file").write_text("of the first")
        with pytest.raises(
            ConfigError, match="^out='.*': expected a folder that no other command is writing$"
        ):
            with new_folder(out, field="out"):
                raise AssertionError
        assert [file.name for file in folder.iterdir()] == ["file"]
    assert (out / "file").read_text() == "of the first" and list(tmp_path.iterdir()) == [out]


def test_a_folder_that_got_its_name_meanwhile_is_not_emptied(tmp_path, monkeypatch):
    out = tmp_path / "out"

    def lock_too_late(opened):
        (tmp_path / "out.partial" / "file").write_text("of the first")
        (tmp_path / "out.partial").rename(out)
        return True

    monkeypatch.setattr(files, "lock", lock_too_late)
    with pytest.raises(ConfigError, match="expected a folder that no other command is writing"):
        with new_folder(out, field="out"):
            raise AssertionError
    assert (out / "file").read_text() == "of the first"


@pytest.mark.parametrize("written", [2, 0])
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (of(28), "expected a folder that can be written (No space left on device)"),
        (ConfigError("prompt='a': expected another"), "prompt='a': expected another"),
    ],
)
def test_results_that_are_whole_are_kept_and_named(tmp_path, error, message, written):
    def kept(folder):
        count = len(list(folder.iterdir()))
        return f"{count} files are kept" if count else ""

    out, partial = tmp_path / "out", tmp_path / "out.partial"
    with pytest.raises(ConfigError) as caught, new_folder(out, field="out", kept=kept) as folder:
        for i in range(written):
            (folder / str(i)).write_text("content")
        raise error
    said = f"; 2 files are kept in {str(partial)!r}" if written else ""
    assert str(caught.value).endswith(message + said)
    assert partial.exists() == bool(written) and not out.exists()
    if written:
        left = f"without results of an earlier command beside it, 2 files are kept in {str(partial)!r}: move"
        with pytest.raises(ConfigError, match=re.escape(left)), new_folder(out, field="out", kept=kept):
            raise AssertionError
        assert len(list(partial.iterdir())) == 2
        shutil.rmtree(partial)
    with new_folder(out, field="out", kept=kept):
        pass
    assert list(tmp_path.iterdir()) == [out] and list(out.iterdir()) == []


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    file = tmp_path / "notes.txt"
    write_whole(file, "grün\n")
    with pytest.raises(RuntimeError, match="broken"), whole_file(file) as partial:
        assert partial.suffix == ".txt" and partial.parent == tmp_path
        partial.write_text("half")
        raise RuntimeError("broken")
    assert file.read_text("utf-8") == "grün\n" and list(tmp_path.iterdir()) == [file]
    write_whole(file, b"bytes")
    assert file.read_bytes() == b"bytes"
