"""The SkyPilot task and the JobSet: read by those tools' own parsers, and run as far as a shell can."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rats_jax.__main__ import COMMANDS
from rats_jax.config.find import find_config
from rats_jax.config.flags import validate_overrides
from rats_jax.errors import StoppedError

LAUNCH = Path(__file__).parents[2] / "launch"
TASK = LAUNCH / "skypilot.yaml"
JOBSET = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
JOB = JOBSET["spec"]["replicatedJobs"][0]["template"]["spec"]
POD = JOB["template"]["spec"]
PROGRAM = """#!/bin/sh
printf '%s\\n' "$@"
echo "$RATS_COORDINATOR $RATS_NUM_PROCESSES $RATS_PROCESS_ID"
exit {status}
"""


def make_programs(folder, texts):
    for name, text in texts.items():
        program = folder / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)


def test_the_models_of_a_jobset_know_every_field():
    """Those of Kubeflow's trainer, made from the API of JobSet; they lose a field that they do not know."""
    models = pytest.importorskip("kubeflow_trainer_api.models", reason="pip install kubeflow-trainer-api")
    read = models.JobsetV1alpha2JobSet.from_dict(JOBSET)
    assert read is not None and read.to_dict() == JOBSET
    misspelt = {**JOBSET, "spec": {**JOBSET["spec"], "failurePolicies": {}}}
    assert models.JobsetV1alpha2JobSet.from_dict(misspelt).to_dict() != misspelt


def test_the_jobset_starts_again_after_what_is_saved_and_only_so_often_after_the_rest():
    policy = JOBSET["spec"]["failurePolicy"]
    assert [rule["action"] for rule in policy["rules"]] == ["RestartJobSetAndIgnoreMaxRestarts"]
    assert policy["rules"][0]["onJobFailureReasons"] == ["PodFailurePolicy"] and policy["maxRestarts"] > 0
    by_status, by_node = JOB["podFailurePolicy"]["rules"]
    assert by_status["onExitCodes"] == {
        "containerName": POD["containers"][0]["name"],
        "operator": "In",
        "values": [StoppedError.status],
    }
    assert by_node["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert JOB["backoffLimit"] == 0 and POD["restartPolicy"] == "Never"


def test_the_jobset_fills_its_slice_and_runs_a_command_of_ours():
    (container,) = POD["containers"]
    topology = POD["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = JOB["completions"] * int(container["resources"]["limits"]["google.com/tpu"])
    assert math.prod(int(side) for side in topology.split("x")) == chips
    assert JOB["parallelism"] == JOB["completions"] and JOB["completionMode"] == "Indexed"
    command, config, workdir, *overrides = container["args"]
    assert command in COMMANDS and workdir.startswith("--workdir=gs://")
    assert find_config(config.removeprefix("--config="))[0].samefile(LAUNCH.parent / "configs" / "sd_tpu.py")
    validate_overrides([command, config, *overrides])
    (volume,) = POD["volumes"]
    (mount,) = container["volumeMounts"]
    assert mount["name"] == volume["name"]
    assert any(override.partition("=")[2].startswith(mount["mountPath"]) for override in overrides)


def test_the_image_runs_the_console_script():
    lines = (LAUNCH / "Dockerfile").read_text().splitlines()
    assert lines[-1] == 'ENTRYPOINT ["rats-jax"]' and "COPY . /rats_jax" in lines
    assert '"rats-jax = ' in (LAUNCH.parent / "setup.py").read_text()


def test_the_image_has_the_package_that_prompts_of_the_hub_need():
    assert 'RUN pip install --no-cache-dir "/rats_jax[tpu,datasets]"' in (LAUNCH / "Dockerfile").read_text()


def test_skypilot_reads_its_task():
    sky = pytest.importorskip("sky", reason="pip install skypilot, in an environment of its own: it is large")
    fields = yaml.safe_load(TASK.read_text())
    task = sky.Task.from_yaml_config(fields, env_overrides=[("WORKDIR", "gs://bucket/run")])
    (resources,) = task.resources
    assert task.num_nodes == 1 and resources.accelerators == {"H100": 8} and resources.use_spot
    assert resources.job_recovery["recover_on_exit_codes"] == [StoppedError.status]
    with pytest.raises(ValueError, match="WORKDIR"):
        sky.Task.from_yaml(str(TASK))
    with pytest.raises(Exception, match="job_recover"):
        sky.Task.from_yaml_config(
            {**fields, "resources": {"job_recovery_": 1}}, env_overrides=[("WORKDIR", "x")]
        )


@pytest.mark.parametrize(
    ("has_gpu", "nodes", "joined"), [(True, 1, "  "), (True, 2, "10.0.0.1:8476 2 1"), (False, 4, "  ")]
)
@pytest.mark.parametrize("status", [0, StoppedError.status])
def test_the_nodes_of_skypilot_find_each_other_and_hand_on_the_status(
    tmp_path, has_gpu, nodes, joined, status
):
    task = yaml.safe_load(TASK.read_text())
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [StoppedError.status]
    make_programs(
        tmp_path,
        {
            "home/rats_jax_venv/bin/rats-jax": PROGRAM.format(status=status),
            **({"bin/nvidia-smi": "#!/bin/sh\n"} if has_gpu else {}),
        },
    )
    given = {
        **{"WORKDIR": "gs://bucket/a run", "OVERRIDES": "--config.seed=1 --config.batch_size=64"},
        **{"SKYPILOT_NUM_NODES": str(nodes), "SKYPILOT_NODE_RANK": "1"},
        **{"SKYPILOT_NODE_IPS": "\n".join(f"10.0.0.{i + 1}" for i in range(nodes))},
        **{"HOME": str(tmp_path / "home"), "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"},
    }
    done = subprocess.run(
        ["bash", "-c", task["run"]], env=task["envs"] | given, capture_output=True, text=True, check=False
    )
    *arguments, processes = done.stdout.splitlines()
    assert done.returncode == status, done.stderr
    assert arguments == [
        *(
            "main",
            "--config=sd_gpu",
            "--workdir=gs://bucket/a run",
            "--config.seed=1",
            "--config.batch_size=64",
        )
    ]
    assert processes == joined
    validate_overrides(arguments)


@pytest.mark.parametrize(("has_gpu", "extras"), [(True, ".[cuda,datasets]"), (False, ".[tpu,datasets]")])
def test_the_setup_of_skypilot_installs_what_the_machine_and_prompts_of_the_hub_need(
    tmp_path, has_gpu, extras
):
    make_programs(
        tmp_path,
        {
            "home/rats_jax_venv/bin/pip": '#!/bin/sh\nprintf "%s\\n" "$@"\n',
            "bin/python3": "#!/bin/sh\n",
            **({"bin/nvidia-smi": "#!/bin/sh\n"} if has_gpu else {}),
        },
    )
    done = subprocess.run(
        ["bash", "-c", yaml.safe_load(TASK.read_text())["setup"]],
        env={"HOME": str(tmp_path / "home"), "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["install", "-q", extras, "gcsfs"]


@pytest.mark.parametrize("part", ["setup", "run"])
def test_shellcheck_finds_nothing_in_the_task(part):
    program = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run(
        [str(program), "--shell=bash", "--exclude=SC2155", "-"],
        input=yaml.safe_load(TASK.read_text())[part],
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
