"""Runs of two processes, one of them killed: the launcher ends the other, and both go on to the same end."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.stress import runs
from tests.stress.test_kills import end_so_often

LAUNCHER = runs.ROOT / "launch" / "local_processes.sh"
# By themselves processes notice after about 100 s that one is gone; what takes longer hangs.
MOST_SECONDS = 600
PROGRAM = '#!/usr/bin/env bash\necho $$ >"{folder}/pid_$RATS_PROCESS_ID"\nexec {python} -P "$@"\n'


class Two(subprocess.Popen):
    """The launcher of a run of two processes; a signal goes to one of these."""

    def __init__(self, config, workdir, victim):
        self._pids = [workdir.parent / f"pid_{i}" for i in range(2)]
        for file in self._pids:
            file.unlink(missing_ok=True)
        program = workdir.parent / "python"
        program.write_text(PROGRAM.format(folder=workdir.parent, python=sys.executable))
        program.chmod(0o755)
        command = [LAUNCHER, f"--logs={workdir.parent / 'logs'}", config, workdir]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        environment = runs.on_one_device() | {"PYTHON": str(program)}
        self._victim, self._seconds = victim, 1800
        super().__init__(list(map(str, command)), cwd=workdir.parent, env=environment, **pipes)

    def send_signal(self, how):
        """End one of the processes, and from then on wait for the launcher no longer than promised."""
        file = self._pids[self._victim]
        while not (file.exists() and file.read_text().strip()):
            time.sleep(0.05)
        os.kill(int(file.read_text()), how)
        self._seconds = MOST_SECONDS

    def communicate(self, *_, **__):
        try:
            return super().communicate(timeout=self._seconds)
        except subprocess.TimeoutExpired:
            self.terminate_all()
            raise

    def terminate_all(self):
        """End the launcher, which ends its processes."""
        super().send_signal(signal.SIGTERM)
        super().communicate(timeout=60)


def names_who_ended(workdir, status, said):
    """Say what is wrong after a kill: another status than that of a kill, or no line of who it was."""
    ended = [line for line in said.splitlines() if line.startswith("error: process ")]
    right = status == 128 + signal.SIGKILL and len(ended) == 1 and ended[0].endswith("with status 137")
    return [] if right else [f"status {status}, lines {ended}: {said[-500:]}"]


@pytest.fixture(scope="module")
def unbroken(campaign, tmp_path_factory):
    """A config, what its run of two processes comes to, and how long it takes once it is compiled."""
    if not campaign.full:
        pytest.skip("six starts of two processes: of `make stress` alone")
    config = runs.write_job(tmp_path_factory.mktemp("unbroken"), num_updates=6, samples__every=3)
    for name in ("first", "second"):
        workdir = config.parent / name / "run"
        workdir.parent.mkdir()
        began = time.monotonic()
        running = Two(config, workdir, 0)
        said, _ = running.communicate()
        assert running.returncode == 0, said
    return config, runs.result(workdir), time.monotonic() - began


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="the launcher is a shell script")
def test_a_kill_of_one_process_changes_nothing(unbroken, tmp_path, campaign):
    count, rng = 10, random.Random(campaign.seed + 2)

    def start(config, workdir):
        workdir.parent.mkdir(exist_ok=True)
        return Two(config, workdir, rng.randrange(2))

    number, faults = end_so_often(
        count, unbroken, tmp_path, campaign.seed + 2, signal.SIGKILL, names_who_ended, start=start
    )
    outcome = f"{number} runs, the launcher ends the other, the bits of an unbroken run"
    campaign.report("kill -9 of one of two processes", count, outcome, faults)
    assert not faults, "\n".join(faults)
