"""What a path means: the same in every flag and field, or one line before the work."""

import os
import re
from pathlib import Path

import pytest

import rats_jax
from rats_jax import paths
from rats_jax.__main__ import COMMANDS
from rats_jax.errors import ConfigError
from rats_jax.pipelines.open import open_pipeline
from rats_jax.training.loop import train_and_evaluate
from rats_jax.workdir import folder as run_folder
from rats_jax.workdir.lock import locked
from tests.commands import assert_one_line, call
from tests.tiny import tiny_config


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A working directory with a file and a folder, and a home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    return tmp_path


def refused(call, *arguments):
    """The one line of an error, and nothing is written."""
    before = sorted(Path().rglob("*"))
    with pytest.raises(ConfigError) as caught:
        call(*arguments)
    assert sorted(Path().rglob("*")) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Everything that reads or writes a path.
READS_LOCAL = (paths.resolve_path, paths.expect_model)
WRITES_LOCAL = (paths.local_path, paths.output_file, paths.output_folder)
OPENS_BUCKETS = (
    paths.any_path,
    paths.find_model,
    paths.find_path,
    paths.expect_prompts,
    paths.expect_workdir,
)


@pytest.mark.parametrize("find", [*READS_LOCAL, *WRITES_LOCAL, *OPENS_BUCKETS])
def test_what_is_no_path_is_one_line(find):
    for path in ("", " ", "a\0b"):
        assert refused(find, path, "out") == f"out={path!r}: expected a path, it names none"
    expected = "out='~nobodyhere/x': expected the home of a user, there is none"
    assert refused(find, "~nobodyhere/x", "out") == expected
    for path in ("foo://x", "gs:/bucket/run", "a/foo://x"):
        assert re.match(f"out='{path}': expected .*(address|folder)", refused(find, path, "out"))


@pytest.mark.parametrize("find", [*READS_LOCAL, *WRITES_LOCAL])
def test_an_address_is_no_local_path(find):
    expected = "out='gs://b/run': expected a path of this machine, it is an address"
    assert refused(find, "gs://b/run", "out") == expected


@pytest.mark.parametrize("find", OPENS_BUCKETS)
def test_an_address_whose_package_is_missing_is_one_line(find, monkeypatch):
    def exists(self):
        raise ImportError("Please install gcsfs\nto access Google Storage")

    monkeypatch.setattr("etils.epath.gpath._GPath.exists", exists)
    expected = "expected an address that can be reached (Please install gcsfs to access Google Storage)"
    assert refused(find, "gs://b/run", "out") == f"out='gs://b/run': {expected}"


@pytest.mark.parametrize("root", ["gs", "s3", "hf"])
def test_a_folder_that_epath_takes_for_an_address_is_refused(root):
    expected = f"out='/{root}/x': expected a folder, that one stands for an address"
    assert refused(paths.any_path, f"/{root}/x", "out") == expected
    assert paths.local_path(f"/{root}/x", "out") == Path(f"/{root}/x")


def test_a_home_is_found_everywhere(here):
    home = here / "home"
    home.mkdir()
    (home / "model").mkdir()
    (home / "prompts.txt").write_text("a cat")
    assert paths.resolve_path("~/x", "f") == paths.local_path("~/x", "f") == home / "x"
    assert str(paths.any_path("~/x", "f")) == str(home / "x")
    assert paths.output_file("~/x", "f") == paths.output_folder("~/x", "f") == home / "x"
    assert paths.find_model("~/model", "f") == home / "model"
    paths.expect_prompts("~/prompts.txt", "f")
    paths.expect_model("~/model", "f")
    paths.expect_workdir("~/x", "f")


def test_no_home_at_all_is_one_line(monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # a user without an entry in passwd
    for find in (paths.resolve_path, paths.output_folder, paths.any_path):
        assert refused(find, "~/x", "f") == "f='~/x': expected the home of a user, there is none"


LONG = "x" * 300


@pytest.mark.parametrize(
    ("find", "path", "expected"),
    [
        (paths.output_file, "folder", "a file, it is a folder"),
        (paths.output_file, "nowhere/x", "a file in an existing folder"),
        (paths.output_file, "file/x", "a file in an existing folder"),
        (paths.output_file, LONG, "names of at most 230 bytes"),
        (paths.output_folder, "folder", "a folder that is not there yet"),
        (paths.output_folder, "file", "a folder that is not there yet"),
        (paths.output_folder, "link", "a folder that is not there yet"),
        (paths.output_folder, ".", "a folder that is not there yet"),
        (paths.output_folder, "file/x/y", "a path that can be written, '.*/file' is no folder"),
        (paths.output_folder, "link/x", "a path that can be written, '.*/link' is no folder"),
        (paths.output_folder, f"a/{LONG}", "names of at most 230 bytes"),
        (paths.expect_workdir, "file", "a folder, it is a file"),
        (paths.expect_workdir, "file/x", "a path that can be written, '.*/file' is no folder"),
        (paths.expect_workdir, LONG, "names of at most 230 bytes"),
        (paths.find_model, "file", "an existing folder, or a hub id"),
        (paths.find_model, "nowhere", "an existing folder, or a hub id"),
        (paths.find_model, "file/x", "an existing folder, or a hub id"),
        (paths.find_model, LONG, "an existing folder, or a hub id"),
        (paths.expect_model, "nowhere", "an existing folder or file, or a hub id"),
        (paths.expect_model, "file/x", "an existing folder or file, or a hub id"),
        (paths.expect_prompts, "folder", "an existing file"),
        (paths.expect_prompts, "file/x", "an existing file"),
        (paths.expect_prompts, LONG, "an existing file"),
    ],
)
def test_another_kind_than_is_wanted_is_refused_before_the_work(find, path, expected):
    assert re.match(f"out='{path}': expected {expected}", refused(find, path, "out"))


@pytest.mark.parametrize(
    ("find", "path"),
    [
        (paths.output_file, "new"),
        (paths.output_file, "file"),
        (paths.output_folder, "new/a/b"),
        (paths.expect_workdir, "new/a/b"),
        (paths.expect_workdir, "folder"),
        (paths.find_model, "folder"),
        (paths.find_model, "owner/name"),
        (paths.find_model, "assets/emoji/pipeline"),
        (paths.expect_model, "assets/emoji/reward"),
        (paths.expect_prompts, "file"),
        (paths.expect_prompts, "assets/emoji/prompts.txt"),
        (paths.expect_prompts, "tfds:coco_captions"),
    ],
)
def test_good_paths_pass_and_nothing_is_written(here, find, path):
    before = sorted(here.rglob("*"))
    find(path, "out")
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    ("find", "path"), [(paths.output_file, "x"), (paths.output_folder, "x/y"), (paths.expect_workdir, "")]
)
def test_a_folder_that_may_not_be_written_is_refused_before_the_work(monkeypatch, find, path):
    monkeypatch.setattr(os, "access", lambda folder, mode: Path(folder).name != "folder")
    expected = "expected a path that can be written, '.*folder' may not be written"
    assert re.search(expected, refused(find, f"folder/{path}", "out"))


EMOJI = str(Path(__file__).parents[1] / "configs" / "emoji_cpu.py")
LINES = {
    "demo": ["--model=folder"],
    "main": [f"--config={EMOJI}", "--workdir=w"],
    "evaluate": ["--workdir=folder"],
    "generate": ["--model=owner/name", "--prompt=cat", "--out=w"],
    "export": ["--workdir=folder", "--out=w"],
    "compile": [f"--config={EMOJI}", "--topology=v5e:2x2", "--hlo=w"],
    "embed": [f"--config={EMOJI}", "--out=w"],
    "score": ["--reward=colour_target", "--images=folder", "--prompts=file", "--out=w"],
    "verify": ["--dtype=float32", "--model=folder"],
    "ablate": [f"--config={EMOJI}", "--workdir=w"],
    "pretrain": [f"--config={EMOJI}", "--workdir=w"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("", "'': expected a path, it names none"),
        ("~nobodyhere/x", "'~nobodyhere/x': expected the home of a user"),
        ("file/x", "'file/x': expected "),
        (None, "expected once, it is given 2 times"),
    ],
)
def test_every_command_checks_its_paths_first_and_takes_a_flag_once(here, command, change, message):
    """Its last flag, which is what it writes, or else reads: `demo`, `evaluate`, `verify`."""
    *first, last = LINES[command]
    name = last.split("=")[0]
    given = [last, last] if change is None else [f"{name}={change}"]
    done = call(command, *first, *given, cwd=here)
    assert_one_line(done, name if change is None else name.removeprefix("--"))
    assert message in done.stderr
    assert not (here / "w").exists()


def test_two_commands_do_not_pretrain_in_one_folder(tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    arguments = ["--config=configs/emoji_pretrain.py", f"--workdir={workdir}"]
    with locked(str(workdir), writes=True):
        done = call("pretrain", *arguments)
    assert_one_line(done, f"workdir='{workdir}': expected a folder that no other run writes to, process ")
    assert [file.name for file in workdir.iterdir()] == [".lock"]


@pytest.mark.parametrize("path", ["", "file", "nowhere", "foo://x", "~nobodyhere/x"])
def test_the_api_refuses_what_the_commands_refuse(path):
    assert refused(rats_jax.load, path).startswith(f"path='{path}': expected ")


def test_a_file_beside_a_pipeline_is_not_the_pipeline(models):
    file = models / "pipeline" / "model_index.json"
    assert refused(open_pipeline, str(file)) == (
        f"pretrained={str(file)!r}: expected the folder of a pipeline, or a hub id; it is a file"
    )


def test_a_config_that_cannot_be_kept_is_one_line(monkeypatch):
    def write(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(run_folder, "write_whole", write)
    expected = "workdir='folder': expected a writable folder (Read-only file system)"
    assert refused(run_folder.keep_config, "folder", {"seed": 1}) == expected


@pytest.mark.parametrize("workdir", ["", "foo://x", "~nobodyhere/x", "/hf/x"])
def test_a_run_in_no_folder_is_refused(models, workdir):
    assert refused(train_and_evaluate, tiny_config(models), workdir).startswith(f"workdir='{workdir}': ")
