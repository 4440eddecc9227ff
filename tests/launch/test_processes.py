"""The launch scripts for several processes: on this machine, and under SLURM."""

import json
import shlex
import signal
import subprocess
import sys
import time

import pytest

NASTY = ["--config.prompts=a  b.txt", "--config.lora.targets=to_q$|'x'; echo \"gone\" & `id`"]
JOB = ["configs/emoji_cpu.py", "runs/a"]
RECORD = """#!{python}
import json, os, pathlib, sys
names = ("RATS_COORDINATOR", "RATS_NUM_PROCESSES", "JAX_PLATFORMS", "XLA_FLAGS")
record = [*(os.environ.get(name) for name in names), *sys.argv[1:]]
pathlib.Path({folder!r}, "process_" + os.environ["RATS_PROCESS_ID"]).write_text(json.dumps(record))
print("process", os.environ["RATS_PROCESS_ID"])
"""


def stand_in(folder, text):
    program = folder / "python"
    program.write_text(text)
    program.chmod(0o755)
    return str(program)


def shell(folder, body):
    return stand_in(folder, f"#!/usr/bin/env bash\n{body}\n")


def test_local_processes_know_each_other(checkout, tmp_path):
    python = stand_in(tmp_path, RECORD.format(python=sys.executable, folder=str(tmp_path)))
    options = ["--processes=3", "--devices=4", f"--logs={tmp_path}/the logs"]
    result = checkout.launch("local_processes.sh", *options, *JOB, *NASTY, PYTHON=python)
    assert result.returncode == 0, result.stderr
    records = [json.loads((tmp_path / f"process_{i}").read_text()) for i in range(3)]
    assert records[0] == records[1] == records[2]
    assert records[0][0].startswith("127.0.0.1:")
    assert records[0][1:4] == ["3", "cpu", "--xla_force_host_platform_device_count=4"]
    program = ["-m", "rats_jax.main", "--config=configs/emoji_cpu.py", "--workdir=runs/a"]
    assert records[0][4:] == [*program, *NASTY]
    assert result.stdout == "process 0\n"
    assert (tmp_path / "the logs" / "process_2.log").read_text() == "process 2\n"


def test_the_python_is_the_one_that_is_named_else_that_of_the_checkout_if_it_has_one(checkout):
    def find_python(**changes):
        result = checkout.launch("local_processes.sh", "--dry-run", *JOB, **{"PYTHON": ""} | changes)
        words = shlex.split(result.stdout.splitlines()[0])
        return words[words.index("-m") - 1]

    assert find_python() == "python3"
    folder = checkout.root / ".venv" / "bin"
    folder.mkdir(parents=True)
    program = shell(folder, "true")
    assert find_python() == program and find_python(PYTHON="my python") == "my python"
    assert "PYTHON=" in checkout.launch("local_processes.sh", "--help").stdout


def test_one_process_that_fails_ends_even_those_that_ignore_it(checkout, tmp_path):
    python = shell(
        tmp_path,
        'if [ "$RATS_PROCESS_ID" = 1 ]; then sleep 0.5; echo why; exit 5; fi\n'
        f'trap "" TERM; echo $$ >"{tmp_path}/pid"; for ((i = 0; i < 200; i++)); do sleep 0.2; done',
    )
    begin = time.monotonic()
    result = checkout.launch("local_processes.sh", *JOB, PYTHON=python)
    assert result.returncode == 5 and time.monotonic() - begin < 15
    assert result.stderr.splitlines()[-2:] == ["why", "error: process 1 ended with status 5"]
    pid = (tmp_path / "pid").read_text().strip()
    assert subprocess.run(["kill", "-0", pid], capture_output=True, check=False).returncode != 0


def test_a_process_that_ends_early_leaves_the_others_be(checkout, tmp_path):
    python = shell(tmp_path, f'[ "$RATS_PROCESS_ID" = 0 ] || {{ sleep 1; touch "{tmp_path}/done"; exit 3; }}')
    result = checkout.launch("local_processes.sh", *JOB, PYTHON=python)
    assert result.returncode == 3 and (tmp_path / "done").exists()
    assert "no such job" not in result.stderr


def test_an_interrupt_ends_all(checkout, tmp_path):
    python = shell(tmp_path, f'echo $$ >"{tmp_path}/pid_$RATS_PROCESS_ID"; exec sleep 50')
    script = str(checkout.root / "launch" / "local_processes.sh")
    with subprocess.Popen(
        [script, *JOB],
        cwd=checkout.root,
        env=checkout.environment(PYTHON=python),
        stderr=subprocess.PIPE,
        # A job that a shell starts with & ignores interrupts, and so does all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as running:
        files = [tmp_path / f"pid_{i}" for i in range(2)]
        while not all(file.exists() and file.read_text().strip() for file in files):
            time.sleep(0.05)
        subprocess.run(["kill", "-INT", str(running.pid)], check=True)
        assert running.wait(timeout=30) == 130
    for file in files:
        pid = file.read_text().strip()
        assert subprocess.run(["kill", "-0", pid], capture_output=True, check=False).returncode != 0


@pytest.mark.parametrize(("given", "devices"), [("4", "0,1,2,3"), ("1", "0")])
def test_a_slurm_task_uses_every_gpu_of_its_node(checkout, given, devices):
    changes = {"SLURM_GPUS_ON_NODE": given, "SLURM_CPUS_PER_TASK": "12", "PYTHON": "my python"}
    result = checkout.launch("slurm.sbatch", *JOB, *NASTY, **changes)
    assert result.returncode == 0, result.stderr
    record = json.loads((checkout.state / "srun.json").read_text())
    program = ["-m", "rats_jax.main", "--config=configs/emoji_cpu.py", "--workdir=runs/a"]
    options = ["--kill-on-bad-exit=1", "--cpus-per-task=12"]
    assert record == {"arguments": [*options, "my python", *program, *NASTY], "devices": devices}


@pytest.mark.parametrize(("status", "requeued"), [("75", "requeue 41"), ("1", None)])
def test_a_slurm_job_that_was_asked_to_end_is_queued_again(checkout, status, requeued):
    checkout.set(fail_on="srun", status=status)
    result = checkout.launch("slurm.sbatch", *JOB, SLURM_JOB_ID="41")
    assert result.returncode == int(status), result.stderr
    file = checkout.state / "scontrol"
    assert (file.read_text() if file.exists() else None) == requeued


def test_a_dry_run_starts_nothing_and_can_be_pasted(checkout, tmp_path):
    result = checkout.launch("slurm.sbatch", "--dry-run", *JOB, *NASTY)
    assert result.returncode == 0 and not (checkout.state / "srun.json").exists()
    subprocess.run(["bash", "-c", result.stdout], env=checkout.environment(), check=True)
    assert json.loads((checkout.state / "srun.json").read_text())["arguments"][-2:] == NASTY
    python = stand_in(tmp_path, RECORD.format(python=sys.executable, folder=str(tmp_path)))
    result = checkout.launch("local_processes.sh", "--dry-run", *JOB, *NASTY, PYTHON=python)
    assert result.returncode == 0 and not (tmp_path / "process_0").exists()
    subprocess.run(["bash", "-c", result.stdout], env=checkout.environment(), check=True)
    records = [json.loads((tmp_path / f"process_{i}").read_text()) for i in range(2)]
    assert records[0] == records[1] and records[0][-2:] == NASTY
