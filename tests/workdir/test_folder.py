"""The folder of a run, and the copy of its logs where it is no local one."""

import json

import pytest

from rats_jax.errors import ConfigError
from rats_jax.workdir import folder as workdir
from rats_jax.workdir.folder import claim, keep_config, open_logs


def test_a_local_run_writes_where_it_is_asked_to(tmp_path):
    with open_logs(str(tmp_path / "run"), writes=True) as logs:
        assert logs.folder == tmp_path / "run"
        logs.push()
    assert not (tmp_path / "run").exists()


def test_a_process_that_does_not_write_leaves_nothing(tmp_path):
    with open_logs(str(tmp_path / "run"), writes=False) as logs:
        (logs.folder / "metrics.jsonl").write_text("1")
        logs.push()
    assert not logs.folder.exists() and not (tmp_path / "run").exists()


def test_logs_of_a_bucket_are_fetched_and_pushed(tmp_path, monkeypatch):
    """A folder in place of a bucket: everything but the checkpoints comes and goes."""
    monkeypatch.setattr(workdir, "is_remote", lambda path: True)
    remote = tmp_path / "bucket"
    (remote / "checkpoints").mkdir(parents=True)
    (remote / "checkpoints" / "big").write_text("x")
    (remote / "checkpoints_damaged").mkdir()
    (remote / "metrics.jsonl").write_text("1\n")
    keep_config(str(remote), {"seed": 1})
    with pytest.raises(KeyboardInterrupt), open_logs(str(remote), writes=True) as logs:
        assert (logs.folder / "metrics.jsonl").read_text() == "1\n"
        assert [entry.name for entry in logs.folder.iterdir()] == ["metrics.jsonl"]
        keep_config(str(remote), {"seed": 1, "num_updates": 9})  # there, not here: no older one replaces it
        (logs.folder / "metrics.jsonl").write_text("1\n2\n")
        (logs.folder / "samples").mkdir()
        (logs.folder / "samples" / "a.png").write_bytes(b"\x00\x01")
        logs.push()
        assert (remote / "metrics.jsonl").read_text() == "1\n2\n"
        (logs.folder / "summary.json").write_text("{}")
        raise KeyboardInterrupt
    assert json.loads((remote / "config.json").read_text()) == {"seed": 1, "num_updates": 9}
    assert (remote / "samples" / "a.png").read_bytes() == b"\x00\x01"
    assert (remote / "summary.json").read_text() == "{}", "what an interrupted run wrote last is lost"


def test_only_the_process_that_writes_claims_a_folder(tmp_path):
    claim(str(tmp_path / "run"), {"seed": 1}, writes=False)
    assert not (tmp_path / "run").exists()
    claim(str(tmp_path / "run"), {"seed": 1}, writes=True)
    assert list((tmp_path / "run").iterdir()) == []  # until nothing refuses the start
    keep_config(str(tmp_path / "run"), {"seed": 1})
    with pytest.raises(ConfigError, match="another config .seed: 1 -> 2"):
        claim(str(tmp_path / "run"), {"seed": 2}, writes=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="expected a folder, it is a file"):
        claim(str(tmp_path / "file"), {}, writes=True)


@pytest.mark.parametrize("content", ["{", "", "[1]", "[]", "\0" * 9, "3", "[" * 100_000])
def test_a_damaged_config_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError) as caught:
        claim(str(tmp_path), {"num_updates": 4}, writes=True)
    message = str(caught.value)
    assert message.startswith(f"'{tmp_path}/config.json': expected the config of a run as JSON (")
    assert "\n" not in message and (tmp_path / "config.json").read_text() == content


def test_a_folder_in_place_of_the_config_is_named(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ConfigError, match=r"config.json': expected the config of a run .*\(Is a directory\)"):
        claim(str(tmp_path), {"num_updates": 4}, writes=True)


def test_a_config_with_a_path_that_is_not_utf_8_is_read_back(tmp_path):
    for updates in (4, 5):
        config = {"num_updates": updates, "prompts": "caf\udce9.txt"}
        claim(str(tmp_path), config, writes=True)
        keep_config(str(tmp_path), config)


def test_a_config_that_an_editor_saved_with_a_mark_is_read(tmp_path):
    keep_config(str(tmp_path), {"num_updates": 4})
    file = tmp_path / "config.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    claim(str(tmp_path), {"num_updates": 5}, writes=False)
    with pytest.raises(ConfigError, match="another config .seed: .none. -> 2"):
        claim(str(tmp_path), {"num_updates": 4, "seed": 2}, writes=False)
