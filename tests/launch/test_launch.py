"""What all launch scripts do, and those that use a TPU VM or slice directly."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
SCRIPTS = sorted(
    path.name for path in LAUNCH.glob("*.s*") if path.suffix in (".sh", ".sbatch") and path.stem != "lib"
)
ARGUMENTS = ["my-tpu", "us-central1-a", "configs/emoji_cpu.py"]
TPU = [*ARGUMENTS, "gs://b/r"]
NASTY = ["--config.prompts=a  b.txt", "--config.lora.targets=to_q$|'x'; echo \"gone\" & `id`"]


def commands(checkout):
    """What the machines are told to run."""
    words = [word for call in checkout.calls() for word in call]
    return [word.removeprefix("--command=") for word in words if word.startswith("--command=")]


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_says_how_and_shows_an_example(checkout, script):
    result = checkout.launch(script, "--help")
    assert result.returncode == 0 and "usage:" in result.stdout and "example:" in result.stdout
    assert not checkout.calls() and os.access(LAUNCH / script, os.X_OK)


def test_shellcheck_finds_nothing():
    program = Path(sys.executable).with_name("shellcheck")
    files = [str(LAUNCH / name) for name in [*SCRIPTS, "lib.sh"]]
    result = subprocess.run(
        [str(program), "-x", *files], cwd=LAUNCH.parent, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("script", "workdir"), [("tpu_vm.sh", "runs/a/"), ("tpu_pod.sh", "gs://bucket/a run")]
)
def test_a_machine_is_created_used_and_emptied(checkout, script, workdir):
    result = checkout.launch(script, "--spot", "--project", "mine", *ARGUMENTS, workdir)
    assert result.returncode == 0, result.stderr
    collected = [] if workdir.startswith("gs://") else ["scp"]
    assert checkout.verbs() == ["describe", "create", "scp", "ssh", "ssh", *collected]
    calls = checkout.calls()
    assert {"--spot", "--version=v2-alpha-tpuv5-lite"} <= set(calls[1])
    assert all({"--zone=us-central1-a", "--project=mine"} <= set(call) for call in calls)
    assert all("--worker=all" in call for call in calls[2:5]) and "my-tpu:" in calls[2]
    if collected:
        assert calls[5][2:6] == ["--recurse", "my-tpu:rats_jax_runs/runs/a", "runs", "--worker=0"]
        assert (checkout.root / "runs").is_dir()


def test_a_machine_that_is_ready_is_used_and_any_other_refused(checkout):
    checkout.set(machines="READY")
    result = checkout.launch("tpu_vm.sh", "--delete-after", *ARGUMENTS, "runs/a")
    assert result.returncode == 0
    assert checkout.verbs() == ["describe", "scp", "ssh", "ssh", "scp", "delete"]
    checkout.set(machines="PREEMPTED")
    result = checkout.launch("tpu_vm.sh", *ARGUMENTS, "runs/a")
    assert result.returncode == 1 and "my-tpu is PREEMPTED: expected READY" in result.stderr
    assert checkout.verbs() == ["describe"]


@pytest.mark.parametrize("script", ["tpu_vm.sh", "tpu_pod.sh", "tpu_queued.sh"])
@pytest.mark.parametrize(
    ("options", "version"),
    [
        (["--accelerator-type=v6e-16"], "v2-alpha-tpuv6e"),
        (["--accelerator-type=v5p-8"], "v2-alpha-tpuv5"),
        (["--accelerator-type=v5litepod-8"], "v2-alpha-tpuv5-lite"),
        (["--accelerator-type=v4-8"], "tpu-ubuntu2204-base"),
        (["--version=mine", "--accelerator-type=v9-8"], "mine"),
        ([], "v2-alpha-tpuv5-lite"),
    ],
)
def test_the_image_is_that_of_the_accelerator_type_unless_one_is_named(checkout, script, options, version):
    result = checkout.launch(script, *options, *TPU)
    assert result.returncode == 0, result.stderr
    created = next(call for call in checkout.calls() if call[1] == "create")
    flag = "--runtime-version" if script == "tpu_queued.sh" else "--version"
    assert {f"{flag}={version}", *options[-1:]} <= set(created)


@pytest.mark.parametrize(
    ("fails", "verbs"),
    [
        ("create", ["describe", "create"]),
        ("scp", ["describe", "create", "scp"]),
        ("ssh pip", ["describe", "create", "scp", "ssh"]),
    ],
)
def test_the_first_command_that_fails_ends_it_with_its_status(checkout, fails, verbs):
    checkout.set(fail_on=fails)
    assert checkout.launch("tpu_vm.sh", *ARGUMENTS, "runs/a").returncode == 7
    assert checkout.verbs() == verbs


def test_results_come_back_after_a_job_that_failed(checkout):
    checkout.set(fail_on="ssh rats_jax.main")
    assert checkout.launch("tpu_vm.sh", "--delete-after", *ARGUMENTS, "runs/a").returncode == 7
    assert checkout.verbs()[-3:] == ["ssh", "scp", "delete"]


def test_a_machine_whose_results_do_not_come_back_is_not_deleted(checkout):
    checkout.set(fail_on="--recurse")
    result = checkout.launch("tpu_vm.sh", "--delete-after", *ARGUMENTS, "runs/a")
    assert result.returncode == 1 and "still on my-tpu" in result.stderr
    assert "delete" not in checkout.verbs()


def test_every_run_has_its_own_folder_on_the_machine(checkout):
    checkout.launch("tpu_vm.sh", *ARGUMENTS, "runs/a")
    first = commands(checkout)[1]
    checkout.launch("tpu_vm.sh", *ARGUMENTS, "runs/b")
    assert first.replace("runs/a", "runs/b") == commands(checkout)[1] != first


PYTHON = """#!{python}
# Makes an environment whose programs are itself; records all other calls.
import json, os, pathlib, shutil, sys
here, arguments = pathlib.Path({machine!r}), sys.argv[1:]
record = {{"arguments": arguments, "token": os.environ.get("HF_TOKEN"), "here": sorted(os.listdir())}}
with (here / "calls.jsonl").open("a") as file:
    file.write(json.dumps(record) + "\\n")
if arguments[:3] == ["-m", "uv", "venv"]:
    folder = pathlib.Path(arguments[-1], "bin")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("python", "pip"):
        shutil.copy(__file__, folder / name)
"""


def test_what_the_machine_runs_gets_every_argument_as_it_was(checkout, tmp_path):
    token = "secret'$x \\"
    result = checkout.launch("tpu_vm.sh", *ARGUMENTS, "runs/a", *NASTY, HF_TOKEN=token)
    assert "secret" not in str(checkout.calls()) + result.stdout + result.stderr
    machine = tmp_path / "machine"
    (machine / "bin").mkdir(parents=True)
    program = machine / "bin" / "python3"
    program.write_text(PYTHON.format(python=sys.executable, machine=str(machine)))
    program.chmod(0o755)
    for file in (checkout.state / "sent").iterdir():
        file.rename(machine / file.name)
    assert (machine / "rats_jax_token").stat().st_mode & 0o077 == 0
    path = f"{machine / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "HF_TOKEN": ""}
    for command in commands(checkout):
        subprocess.run(["bash", "-c", command], cwd=machine, env=environment, check=True)
    calls = [json.loads(line) for line in (machine / "calls.jsonl").read_text().splitlines()]
    assert calls[-2]["arguments"] == ["install", "-q", "-e", ".[tpu,datasets]"]
    assert calls[-1] == {
        "arguments": [
            *("-m", "rats_jax.main", "--config=configs/emoji_cpu.py", "--workdir=../rats_jax_runs/runs/a"),
            *NASTY,
        ],
        "token": token,
        "here": ["a  b.txt", "configs", "launch"],
    }
    assert (machine / "rats_jax_runs" / "runs" / "a").is_dir()


@pytest.mark.parametrize("script", ["tpu_vm.sh", "tpu_pod.sh"])
def test_a_dry_run_does_nothing_and_pasted_does_it_all(checkout, script, tmp_path):
    arguments = ["--delete-after", *ARGUMENTS, "gs://bucket/run", *NASTY]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    environment = {"HF_TOKEN": "secret'$x", "TMPDIR": str(scratch)}

    def outcome():
        """The calls without the names of files that are sent, and these files."""
        kept = [[word for word in call if not word.startswith(str(scratch))] for call in checkout.calls()]
        sent = sorted((checkout.state / "sent").iterdir())
        files = {file.name: file.read_bytes() for file in sent}
        for file in [*sent, checkout.state / "calls.jsonl"]:
            file.unlink()
        return kept, files

    result = checkout.launch(script, "--dry-run", *arguments, **environment)
    assert result.returncode == 0 and not checkout.calls() and "secret" not in result.stdout
    assert not list(scratch.iterdir())
    checkout.launch(script, *arguments, **environment)
    assert not list(scratch.iterdir())
    expected = outcome()
    assert set(expected[1]) == {"rats_jax.tar.gz", "rats_jax_token"}
    subprocess.run(["bash", "-c", result.stdout], env=checkout.environment(**environment), check=True)
    assert outcome() == expected


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("tpu_vm.sh", ARGUMENTS, "expected NAME ZONE CONFIG WORKDIR"),
        ("tpu_vm.sh", ["a", "b", "nowhere.py", "runs/a"], "CONFIG=nowhere.py: expected a file of"),
        ("tpu_vm.sh", ["a", "b", "configs", "runs/a"], "CONFIG=configs: expected a file of"),
        ("tpu_vm.sh", ["--sopt", *ARGUMENTS, "runs/a"], "--sopt: no such option"),
        ("tpu_vm.sh", ["--version"], "--version: expected a value"),
        ("tpu_vm.sh", [*ARGUMENTS, "runs/../a"], "WORKDIR=runs/../a: expected gs://BUCKET"),
        ("tpu_vm.sh", [*ARGUMENTS, "a run"], "WORKDIR=a run: expected gs://BUCKET"),
        ("tpu_vm.sh", [*TPU, "--dry-run"], "OVERRIDE=--dry-run: expected --config.FIELD"),
        ("tpu_vm.sh", ["--accelerator-type=v9-8", *TPU], "--accelerator-type=v9-8: expected v4-N, v"),
        ("tpu_vm.sh", [*TPU, "--config.prompts=/configs/emoji_cpu.py"], "OVERRIDE=--config.prompts=/configs"),
        ("tpu_pod.sh", [*TPU, "--config.prompts=configs"], "OVERRIDE=--config.prompts=configs: expected a"),
        ("tpu_pod.sh", [*ARGUMENTS, "runs/a"], "WORKDIR=runs/a: expected gs://BUCKET"),
        ("tpu_queued.sh", [*ARGUMENTS, "runs/a"], "WORKDIR=runs/a: expected gs://BUCKET"),
        ("tpu_queued.sh", ["--max-restarts=x", *TPU], "--max-restarts=x: expected a num"),
        ("local_processes.sh", ["--processes=0", "a", "b"], "--processes=0: expected a number >= 1"),
        ("local_processes.sh", ["nowhere.py", "b"], "CONFIG=nowhere.py: expected a file"),
        ("local_processes.sh", [ARGUMENTS[2], "b", "--dry-run"], "OVERRIDE=--dry-run: expected"),
        ("slurm.sbatch", ["nowhere.py", "b"], "CONFIG=nowhere.py: expected a file"),
        ("slurm.sbatch", ["b"], "expected CONFIG WORKDIR"),
        ("slurm.sbatch", [ARGUMENTS[2], "b", "--dry-run"], "OVERRIDE=--dry-run: expected"),
    ],
)
def test_bad_arguments_are_one_line(checkout, script, arguments, message):
    result = checkout.launch(script, *arguments)
    assert result.returncode == 2 and not checkout.calls()
    assert message in result.stderr and len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("script", ["tpu_vm.sh", "tpu_pod.sh", "tpu_queued.sh"])
@pytest.mark.parametrize("field", ["prompts", "heldout_prompts"])
def test_a_file_of_prompts_is_sent_or_refused(checkout, script, field):
    (checkout.root / "x.txt").write_text("a prompt")
    result = checkout.launch(script, *TPU, f"--config.{field}=x.txt")
    assert result.returncode == 2 and not checkout.calls()
    assert result.stderr == (
        f"error: OVERRIDE=--config.{field}=x.txt: expected a file of the last commit of this checkout, "
        "gs://..., hf:... or tfds:...\n"
    )
    for value in ("a  b.txt", "./a  b.txt", "gs://b/x.txt", "hf:a/b", "tfds:a", "assets/x.txt", ""):
        result = checkout.launch(script, "--dry-run", *TPU, f"--config.{field}={value}")
        assert result.returncode == 0, result.stderr


def test_what_is_not_committed_is_said_to_stay(checkout):
    assert "committed" not in checkout.launch("tpu_vm.sh", "--dry-run", *TPU).stderr
    (checkout.root / "configs" / "new.py").write_text("")
    assert "only what is committed is sent" in checkout.launch("tpu_vm.sh", "--dry-run", *TPU).stderr
    for command in (["rm", "-rf", ".git"], ["git", "init", "-q"]):
        subprocess.run(command, cwd=checkout.root, check=True)
    result = checkout.launch("tpu_vm.sh", *TPU)
    assert result.returncode == 2 and "expected a git checkout with a commit" in result.stderr
