"""The launch scripts against a stand-in for gcloud that records its arguments."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
SCRIPTS = sorted(path.name for path in LAUNCH.iterdir() if path.name != "lib.sh")
ARGUMENTS = ["my-tpu", "us-central1-a", "configs/emoji_cpu.py"]
NASTY = ["--config.prompts=a b.txt", "--config.lora.targets=to_q$|'x'; echo \"gone\" & `id`"]

# Answers from a folder: `fail_on` is a word whose call fails, `states` the answers to describe, one per line.
GCLOUD = """#!{python}
import json, pathlib, sys
here = pathlib.Path({state!r})
with (here / "calls.jsonl").open("a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
if "describe" in sys.argv:
    states = (here / "states").read_text().split()
    (here / "states").write_text("\\n".join(states[1:] or states))
    if states[0] == "NONE":
        sys.exit(1)
    print(states[0])
    sys.exit(0)
fails = (here / "fail_on").read_text().split("\\n")
if fails and fails[0] and fails[0] in sys.argv:
    (here / "fail_on").write_text("\\n".join(fails[1:]))
    sys.exit(7)
"""


@pytest.fixture
def checkout(tmp_path):
    """A checkout under a path with a space, with a commit, and a gcloud first on PATH."""
    root = tmp_path / "check out"
    shutil.copytree(LAUNCH, root / "launch")
    (root / "configs").mkdir()
    (root / "configs" / "emoji_cpu.py").write_text("")
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *identity, *command], cwd=root, check=True)
    state = tmp_path / "state"
    state.mkdir()
    (state / "fail_on").write_text("")
    (state / "states").write_text("NONE\nACTIVE")
    (state / "bin").mkdir()
    program = state / "bin" / "gcloud"
    program.write_text(GCLOUD.format(python=sys.executable, state=str(state)))
    program.chmod(0o755)
    return root, state


def launch(checkout, script, *arguments, **environment):
    root, state = checkout
    path = f"{state / 'bin'}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        [str(root / "launch" / script), *arguments],
        env=os.environ | {"PATH": path, "RATS_POLL_SECONDS": "0", "HF_TOKEN": ""} | environment,
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    file = state / "calls.jsonl"
    calls = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return result, [[word for word in call if word not in ("compute", "tpus")] for call in calls]


def verbs(calls):
    return [call[1] for call in calls]


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_says_how_and_shows_an_example(checkout, script):
    result, calls = launch(checkout, script, "--help")
    assert result.returncode == 0 and "usage:" in result.stdout and "example:" in result.stdout
    assert not calls and os.access(LAUNCH / script, os.X_OK)


def test_shellcheck_finds_nothing():
    program = Path(sys.executable).with_name("shellcheck")
    files = [str(LAUNCH / name) for name in [*SCRIPTS, "lib.sh"]]
    result = subprocess.run(
        [str(program), "-x", *files], cwd=LAUNCH.parent, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("script", "workdir"), [("tpu_vm.sh", "runs/a b"), ("tpu_pod.sh", "gs://bucket/run")]
)
def test_a_machine_is_created_used_and_emptied(checkout, script, workdir):
    result, calls = launch(checkout, script, "--spot", *ARGUMENTS, workdir)
    assert result.returncode == 0, result.stderr
    collected = [] if workdir.startswith("gs://") else ["scp"]
    assert verbs(calls) == ["describe", "create", "scp", "ssh", *collected]
    assert {"--spot", "--zone=us-central1-a", "--version=v2-alpha-tpuv5-lite"} <= set(calls[1])
    assert calls[2][3] == "my-tpu:rats_jax.tar.gz" and "--worker=all" in calls[2]
    if collected:
        assert calls[-1][2:5] == ["--recurse", "my-tpu:rats_jax_run/*", "runs/a b"]


def test_a_machine_that_is_there_is_used(checkout):
    _, state = checkout
    (state / "states").write_text("READY")
    result, calls = launch(checkout, "tpu_vm.sh", "--delete-after", *ARGUMENTS, "runs/a")
    assert result.returncode == 0 and verbs(calls) == ["describe", "scp", "ssh", "scp", "delete"]


def test_the_first_command_that_fails_ends_it_and_results_come_back_after_a_failed_job(checkout):
    _, state = checkout
    (state / "fail_on").write_text("create")
    result, calls = launch(checkout, "tpu_vm.sh", *ARGUMENTS, "runs/a")
    assert result.returncode == 7 and verbs(calls) == ["describe", "create"]
    (state / "calls.jsonl").unlink()
    (state / "states").write_text("READY")
    (state / "fail_on").write_text("ssh")
    result, calls = launch(checkout, "tpu_vm.sh", *ARGUMENTS, "runs/a")
    assert result.returncode == 7 and verbs(calls) == ["describe", "scp", "ssh", "scp"]


def test_what_the_machine_runs_gets_every_argument_as_it_was(checkout, tmp_path):
    _, calls = launch(checkout, "tpu_vm.sh", *ARGUMENTS, "runs/a", *NASTY, HF_TOKEN="secret'$x")
    (command,) = [w.removeprefix("--command=") for call in calls for w in call if w.startswith("--command=")]
    assert "secret" not in str(calls)
    machine = tmp_path / "machine"
    (machine / "bin").mkdir(parents=True)
    program = machine / "bin" / "python3"  # makes an environment whose programs are itself
    program.write_text(
        '#!/usr/bin/env bash\nif [ "$1" = -m ] && [ "$2" = venv ]; then mkdir -p "$3/bin"; '
        'cp "$0" "$3/bin/python"; cp "$0" "$3/bin/pip"; exit; fi\n'
        f'printf "%s\\0" "$@" >> "{machine}/arguments"; printf "\\n" >> "{machine}/arguments"\n'
    )
    program.chmod(0o755)
    subprocess.run(["tar", "-czf", "rats_jax.tar.gz", "-T", "/dev/null"], cwd=machine, check=True)
    environment = os.environ | {"PATH": f"{machine / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", command], cwd=machine, env=environment, check=True)
    arguments = [argument.strip("\n") for argument in (machine / "arguments").read_text().split("\0")]
    assert [argument for argument in arguments if argument][-4:] == [
        "--config=configs/emoji_cpu.py",
        "--workdir=../rats_jax_run",
        *NASTY,
    ]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_dry_run_prints_what_can_be_pasted_and_does_nothing(checkout, script):
    tpu = script.startswith("tpu_")
    arguments = [*ARGUMENTS, "gs://bucket/run"] if tpu else ["configs/emoji_cpu.py", "runs/a"]
    result, calls = launch(checkout, script, "--dry-run", *arguments, *NASTY)
    assert result.returncode == 0 and not calls, result.stderr
    assert "rats_jax.main" in result.stdout
    if script != "slurm.sbatch":
        for line in result.stdout.splitlines():
            parsed = subprocess.run(["bash", "-n", "-c", line], capture_output=True, check=False)
            assert parsed.returncode == 0, line
    root, _ = checkout
    assert not (root / "runs").exists()


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("tpu_vm.sh", ARGUMENTS, "expected NAME ZONE CONFIG WORKDIR"),
        (
            "tpu_vm.sh",
            ["a", "b", "nowhere.py", "runs/a"],
            "CONFIG=nowhere.py: expected a file of",
        ),
        ("tpu_vm.sh", ["--sopt", *ARGUMENTS, "runs/a"], "--sopt: no such option"),
        ("tpu_pod.sh", [*ARGUMENTS, "runs/a"], "WORKDIR=runs/a: expected gs://BUCKET"),
        ("tpu_queued.sh", [*ARGUMENTS, "runs/a"], "WORKDIR=runs/a: expected gs://BUCKET"),
        (
            "tpu_queued.sh",
            ["--max-restarts=x", *ARGUMENTS, "gs://b/r"],
            "--max-restarts=x: expected a num",
        ),
        ("local_processes.sh", ["--processes=0", "a", "b"], "--processes=0: expected a number >= 1"),
        ("local_processes.sh", ["nowhere.py", "b"], "CONFIG=nowhere.py: expected a file"),
        ("slurm.sbatch", ["nowhere.py", "b"], "CONFIG=nowhere.py: expected a file"),
        ("slurm.sbatch", ["b"], "expected CONFIG WORKDIR"),
    ],
)
def test_bad_arguments_are_one_line(checkout, script, arguments, message):
    result, calls = launch(checkout, script, *arguments)
    assert result.returncode == 2 and not calls
    assert message in result.stderr and len(result.stderr.splitlines()) == 1


QUEUED = [*ARGUMENTS, "gs://bucket/run"]


def test_a_slice_that_is_taken_away_is_queued_for_again(checkout):
    _, state = checkout
    # Not there; waiting; there; gone while the job ran; deleted; there.
    (state / "states").write_text("NONE WAITING_FOR_RESOURCES ACTIVE SUSPENDED NONE ACTIVE ACTIVE")
    (state / "fail_on").write_text("ssh")
    result, calls = launch(checkout, "tpu_queued.sh", "--spot", *QUEUED)
    assert result.returncode == 0, result.stderr
    done = [verb for verb in verbs(calls) if verb != "describe"]
    assert done == ["create", "scp", "ssh", "delete", "create", "scp", "ssh"]
    deleted = next(call for call in calls if call[1] == "delete")
    assert {"--force", "--quiet"} <= set(deleted)
    assert "--runtime-version=v2-alpha-tpuv5-lite" in next(call for call in calls if call[1] == "create")


def test_a_job_that_fails_on_a_healthy_slice_is_not_repeated(checkout):
    _, state = checkout
    (state / "fail_on").write_text("ssh")
    result, calls = launch(checkout, "tpu_queued.sh", *QUEUED)
    assert result.returncode == 7 and "the job failed on a slice that is there" in result.stderr
    assert verbs(calls).count("ssh") == 1 and "delete" not in verbs(calls)


def test_restarts_come_to_an_end(checkout):
    _, state = checkout
    (state / "states").write_text("NONE FAILED NONE FAILED NONE FAILED")
    result, calls = launch(checkout, "tpu_queued.sh", "--max-restarts=2", *QUEUED)
    assert result.returncode == 1
    assert verbs(calls).count("create") == 3 and verbs(calls).count("delete") == 2


def stand_in(folder, body):
    program = folder / "python"
    program.write_text(f"#!/usr/bin/env bash\n{body}\n")
    program.chmod(0o755)
    return str(program)


def test_local_processes_know_each_other(checkout, tmp_path):
    record = 'printf "%s|" "$RATS_COORDINATOR" "$RATS_NUM_PROCESSES" "$JAX_PLATFORMS" "$XLA_FLAGS" "$@"'
    python = stand_in(tmp_path, f'({record}) > "{tmp_path}/process_$RATS_PROCESS_ID"')
    arguments = ["--processes=3", "--devices=4", "configs/emoji_cpu.py", "runs/a", *NASTY]
    result, _ = launch(checkout, "local_processes.sh", *arguments, PYTHON=python)
    assert result.returncode == 0, result.stderr
    records = [(tmp_path / f"process_{i}").read_text().split("|", 4) for i in range(3)]
    assert records[0] == records[1] == records[2]
    assert records[0][0].startswith("127.0.0.1:")
    assert records[0][1:4] == ["3", "cpu", "--xla_force_host_platform_device_count=4"]
    assert all(argument in records[0][4] for argument in NASTY)


def test_one_process_that_fails_ends_all(checkout, tmp_path):
    python = stand_in(tmp_path, 'if [ "$RATS_PROCESS_ID" = 1 ]; then exit 5; fi; exec sleep 50')
    result, _ = launch(checkout, "local_processes.sh", "configs/emoji_cpu.py", "runs/a", PYTHON=python)
    assert result.returncode == 5
