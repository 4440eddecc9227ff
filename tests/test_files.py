"""A folder of results appears whole or not at all."""

import pytest

from rats_jax.errors import ConfigError
from rats_jax.files import new_folder, saving, whole_file, write_whole


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


def test_results_that_cannot_be_saved_are_printed(tmp_path, capsys):
    with saving("mean 3.5", tmp_path / "scores", field="out"):
        write_whole(tmp_path / "scores", "3.5")
    assert capsys.readouterr().out == ""
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="^out='.*folder': expected a path that can be written [(]Is a dir"):
        with saving("mean 3.5", tmp_path / "folder", field="out"):
            write_whole(tmp_path / "folder", "3.5")
    assert capsys.readouterr().out == "mean 3.5\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "scores"]


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
