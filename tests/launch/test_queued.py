"""The launch script for queued resources: what it does again, and what it does not."""

import pytest

QUEUED = ["my-tpu", "us-central1-a", "configs/emoji_cpu.py", "gs://bucket/run"]
JOB = ["scp", "ssh", "ssh"]


# The resource's states as they are asked for: on the way to ACTIVE, after the failure, then from the start.
@pytest.mark.parametrize(
    ("resources", "machines"),
    [
        ("NONE WAITING_FOR_RESOURCES ACTIVE SUSPENDED NONE ACTIVE", "READY"),
        ("NONE PROVISIONING ACTIVE ACTIVE ACTIVE SUSPENDING NONE ACTIVE", "READY"),  # it lags behind
        ("NONE ACTIVE ACTIVE NONE ACTIVE", "PREEMPTED"),
        ("NONE ACTIVE ACTIVE NONE ACTIVE", "NONE"),
    ],
)
@pytest.mark.parametrize("fails", ["ssh rats_jax.main", "ssh pip", "scp"])
def test_a_slice_that_is_taken_away_is_queued_for_again(checkout, resources, machines, fails):
    checkout.set(resources=resources, machines=machines, fail_on=fails)
    result = checkout.launch("tpu_queued.sh", "--spot", *QUEUED)
    assert result.returncode == 0, result.stderr
    done = checkout.verbs("describe")
    first = {"scp": 1, "ssh pip": 2, "ssh rats_jax.main": 3}[fails]
    assert done == ["create", *JOB[:first], "delete", "create", *JOB]
    deleted = next(call for call in checkout.calls() if call[1] == "delete")
    assert {"queued-resources", "--force", "--quiet"} <= set(deleted)
    created = next(call for call in checkout.calls() if call[1] == "create")
    assert {"--runtime-version=v2-alpha-tpuv5-lite", "--node-id=my-tpu", "--spot"} <= set(created)


def test_a_job_that_fails_on_a_healthy_slice_is_not_repeated(checkout):
    checkout.set(machines="READY", fail_on="ssh rats_jax.main")
    result = checkout.launch("tpu_queued.sh", *QUEUED)
    assert result.returncode == 7 and "nothing says that my-tpu was taken away" in result.stderr
    assert checkout.verbs("describe") == ["create", *JOB]


def test_a_job_that_was_asked_to_end_goes_on_on_the_same_slice(checkout):
    checkout.set(resources="NONE ACTIVE", machines="READY", fail_on="ssh rats_jax.main", status="75")
    result = checkout.launch("tpu_queued.sh", *QUEUED)
    assert result.returncode == 0 and "the job was asked to end and goes on; start 2" in result.stderr
    assert checkout.verbs("describe") == ["create", *JOB, *JOB]


def test_a_slice_that_cannot_be_asked_is_not_deleted(checkout):
    checkout.set(resources="ACTIVE ACTIVE NONE", fail_on="ssh rats_jax.main")
    assert checkout.launch("tpu_queued.sh", *QUEUED).returncode == 7
    assert checkout.verbs("describe") == JOB
    checkout.set(resources="PROVISIONING PROVISIONING NONE")
    assert checkout.launch("tpu_queued.sh", *QUEUED).returncode == 1
    assert checkout.verbs("describe") == []


@pytest.mark.parametrize(
    ("resources", "done"),
    [("ACTIVE", [*JOB, "delete"]), ("SUSPENDED ACTIVE", ["delete", "create", *JOB, "delete"])],
)
def test_a_resource_of_an_earlier_start_is_used_unless_it_is_lost(checkout, resources, done):
    checkout.set(resources=resources)
    assert checkout.launch("tpu_queued.sh", "--delete-after", *QUEUED).returncode == 0
    assert checkout.verbs("describe") == done


def test_restarts_come_to_an_end(checkout):
    # Not there, refused while it waits, and refused still when that is looked into; three times.
    checkout.set(resources="NONE FAILED FAILED " * 3)
    assert checkout.launch("tpu_queued.sh", "--max-restarts=2", *QUEUED).returncode == 1
    assert checkout.verbs("describe") == ["create", "delete", "create", "delete", "create"]


def test_a_dry_run_prints_every_step_and_calls_nothing(checkout):
    result = checkout.launch("tpu_queued.sh", "--dry-run", *QUEUED)
    assert result.returncode == 0 and not checkout.calls(), result.stderr
    steps = ("git", "queued-resources create", "tpu-vm scp", "tpu-vm ssh", "queued-resources delete")
    assert all(f"{step} " in result.stdout for step in steps)
