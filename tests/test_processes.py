"""Several real processes on this machine: the same run as one process with the same devices, or with one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rats_jax.errors import ConfigError, StoppedError
from rats_jax.parallel.processes import parse_processes
from rats_jax.training.loop import train_and_evaluate
from rats_jax.workdir.checkpoint import list_steps
from rats_jax.workdir.lock import locked
from rats_jax.workdir.metrics import read_metrics
from tests.commands import free_port
from tests.tiny import tiny_config, xla_flags

ROOT = Path(__file__).parent.parent
# `tests` is no package of its own: any installed one of that name would come first.
PROGRAM = """
import json, sys, types
from pathlib import Path
models, workdir, overrides, root = sys.argv[1:]
sys.modules["tests"] = tests = types.ModuleType("tests")
tests.__path__ = [root + "/tests"]
from rats_jax.parallel import processes as distributed
distributed.initialize()
from rats_jax.config.flags import fail
from rats_jax.errors import ConfigError, StoppedError
from rats_jax.training.loop import train_and_evaluate
from tests.tiny import tiny_config
try:
    with distributed.ending_alone():
        train_and_evaluate(tiny_config(Path(models), **json.loads(overrides)), workdir)
except (ConfigError, StoppedError) as error:
    fail(error)
"""
# Both axes reach over both processes, and the last batch of the table is filled up.
SETTINGS = {"mesh__data": 2, "mesh__fsdp": 4, "samples__every": 2}
CURVES = {"samples__every": 0, "evaluation__num_prompts": 0}


def start(models, workdir, *, processes, devices, **overrides):
    """Start the job in so many processes with so many devices each; lists hold what is of each."""
    port, running = free_port(), []
    workdirs = workdir if isinstance(workdir, list) else [workdir] * processes
    folders = models if isinstance(models, list) else [models] * processes
    for process in range(processes):
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "USE_TORCH": "0",  # as every command sets it
            "XLA_FLAGS": xla_flags(devices=devices),
            "PYTHONPATH": str(ROOT),
        }
        if processes > 1:
            environment |= {
                "RATS_COORDINATOR": f"127.0.0.1:{port}",
                "RATS_NUM_PROCESSES": str(processes),
                "RATS_PROCESS_ID": str(process),
            }
        arguments = [str(folders[process]), str(workdirs[process]), json.dumps(overrides), str(ROOT)]
        running.append(
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM, *arguments],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return running


def run(models, workdir, **options):
    """Run the job as `start` does; no process may fail."""
    running = start(models, workdir, **options)
    outputs = [process.communicate(timeout=900)[0] for process in running]
    for process, output in zip(running, outputs, strict=True):
        assert process.returncode == 0, output[-4000:]
    return outputs


def curves(workdir):
    records = read_metrics(workdir)
    assert [r["step"] for r in records] == [1, 2, 3, 4]
    return {name: [r[name] for r in records] for name in records[0] if not name.startswith("time/")}


def assert_same_curves(actual, expected):
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(actual[name], values, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def two_times_four(models, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("processes") / "run"
    outputs = run(models, workdir, processes=2, devices=4, **SETTINGS)
    return workdir, outputs


@pytest.fixture(scope="module")
def one_device(models, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("one") / "run"
    run(models, workdir, processes=1, devices=1, **(CURVES | {"mesh__data": 1, "mesh__fsdp": 1}))
    return curves(workdir)


@pytest.mark.slow
def test_two_processes_with_four_devices_are_one_with_eight_and_one_device(
    two_times_four, one_device, models, tmp_path
):
    workdir, _ = two_times_four
    train_and_evaluate(tiny_config(models, **SETTINGS), tmp_path / "run")
    assert_same_curves(curves(workdir), curves(tmp_path / "run"))
    assert_same_curves(curves(workdir), one_device)
    summaries = [json.loads((w / "summary.json").read_text()) for w in (workdir, tmp_path / "run")]
    for table in ("reward", "heldout_reward", "reference_distance"):
        for who, value in summaries[0][table].items():
            assert value == pytest.approx(summaries[1][table][who], rel=1e-4, abs=1e-5)


@pytest.mark.slow
def test_layers_that_are_split_over_devices_give_the_same_curve(one_device, models, tmp_path):
    sizes = {"mesh__data": 2, "mesh__fsdp": 2, "mesh__tensor": 2}
    train_and_evaluate(tiny_config(models, **(CURVES | sizes)), tmp_path / "run")
    assert_same_curves(curves(tmp_path / "run"), one_device)


@pytest.mark.slow
def test_only_the_first_process_speaks_and_writes(two_times_four):
    workdir, outputs = two_times_four
    assert "mesh data=2 x fsdp=4 x tensor=1 in 2 processes" in outputs[0] and "beats teacher" in outputs[0]
    assert "compiled" not in outputs[1] and "beats teacher" not in outputs[1]
    assert len(list(workdir.glob("events.out.tfevents.*"))) == 1
    assert (workdir / "samples" / "step_000004.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("devices", [8, 1])
def test_a_run_of_two_processes_goes_on_in_one(two_times_four, one_device, models, tmp_path, devices):
    workdir, _ = two_times_four
    shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    if devices == 8:
        train_and_evaluate(
            tiny_config(models, **(SETTINGS | {"mesh__fsdp": 2, "mesh__data": 4})), tmp_path / "run"
        )
    else:
        settings = SETTINGS | {"mesh__data": 1, "mesh__fsdp": 1}
        (output,) = run(models, tmp_path / "run", processes=1, devices=1, **settings)
        assert "resuming at update 2" in output
    assert_same_curves(curves(tmp_path / "run"), one_device)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_after_the_same_update(models, tmp_path):
    sizes = {"num_updates": 10**6, "batch_size": 2, "evaluation__batch_size": 2, "mesh__data": 2}
    unused = {"samples__every": 0, "evaluation__num_prompts": 0, "optimizer__decay_updates": 0}
    settings = {"checkpoint__every": 10**6, "reference": ""} | sizes | unused
    running = start(models, tmp_path / "run", processes=2, devices=1, **settings)
    metrics = tmp_path / "run" / "metrics.jsonl"
    try:
        while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 2):
            assert all(process.poll() is None for process in running), running[0].communicate()[0][-4000:]
            time.sleep(0.1)
        running[1].send_signal(signal.SIGTERM)
        outputs = [process.communicate(timeout=300)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    (step,) = list_steps(tmp_path / "run" / "checkpoints")
    assert [record["step"] for record in read_metrics(tmp_path / "run")] == list(range(1, step + 1))
    for process, output in zip(running, outputs, strict=True):
        assert process.returncode == StoppedError.status, output[-4000:]
        assert f"stopped after update {step} of 1000000, which is saved" in output


GIVEN = {"RATS_COORDINATOR": "host:1234", "RATS_NUM_PROCESSES": "4", "RATS_PROCESS_ID": "3"}


def test_a_work_directory_that_another_process_does_not_see_is_refused(models, tmp_path):
    folders = [tmp_path / "of_one_machine", tmp_path / "of_another"]
    for folder in folders:
        folder.mkdir()  # of an earlier start, say
    running = start(models, folders, processes=2, devices=1, mesh__data=2, **CURVES)
    for process, folder in zip(running, folders, strict=True):
        output = process.communicate(timeout=900)[0]
        assert process.returncode == 1, output[-4000:]
        assert f"workdir='{folder}': expected a folder that all 2 processes see" in output
        assert list(folder.iterdir()) == []


def test_an_error_of_one_process_ends_it_with_its_line_and_status(models, tmp_path):
    with locked(str(tmp_path), writes=True):  # which the first process alone asks for
        running = start(models, tmp_path, processes=2, devices=1, mesh__data=2, **CURVES)
        output = running[0].communicate(timeout=900)[0]
        running[1].kill()  # as a launcher does; by itself it waits for a heartbeat
        running[1].communicate(timeout=900)
    assert running[0].returncode == 1 and f"error: workdir='{tmp_path}': " in output, output[-4000:]


def test_what_differs_between_processes_is_refused(models, tmp_path):
    others = shutil.copytree(models, tmp_path / "others")
    settings = {"processes": 2, "devices": 1, "mesh__data": 2, **CURVES}
    running = start([models, others], tmp_path / "run", **settings)
    for process in running:
        output = process.communicate(timeout=900)[0]
        said = "error: config: expected the same in all processes" in output
        assert process.returncode == 1 and said, output[-4000:]


def test_processes_are_read_from_the_environment():
    assert parse_processes(GIVEN) == ("host:1234", 4, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"RATS_COORDINATOR": None}, "RATS_COORDINATOR is not set: expected all of"),
        ({"RATS_PROCESS_ID": None}, "RATS_PROCESS_ID is not set"),
        ({"RATS_PROCESS_ID": "4"}, "RATS_PROCESS_ID=4: expected from 0 to 3"),
        ({"RATS_NUM_PROCESSES": "four"}, "RATS_NUM_PROCESSES='four': expected a number"),
        ({"RATS_COORDINATOR": "host"}, "RATS_COORDINATOR='host': expected host:port"),
        ({"RATS_COORDINATOR": ":12"}, "RATS_COORDINATOR=':12': expected host:port"),
    ],
)
def test_an_environment_that_names_no_process_is_refused(change, message):
    given = {name: value for name, value in (GIVEN | change).items() if value is not None}
    with pytest.raises(ConfigError, match=message):
        parse_processes(given)
