"""Every write of a run failed once: it says so, and a second start goes on to the same end."""

import contextlib
import errno
import os
import random
import shutil
import subprocess

import pytest

from tests.stress import runs


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A config of four updates, the folder of its run, what that comes to, and how often it writes."""
    folder = tmp_path_factory.mktemp("unbroken")
    config, workdir = runs.write_job(folder, num_updates=4, samples__every=3), folder / "run"
    status, said = runs.finish(config, workdir, failing=0)
    assert status == 0, said
    return config, workdir, runs.result(workdir), int(workdir.with_name("writes").read_text())


def faults_of(status, said, what, *words):
    """Say what is wrong with how a run took a write that failed; one of these words must tell of it."""
    if "Traceback" in said:
        return [f"{what}: {said[-1500:]}"]
    if not any(word in said for word in words):
        return [f"{what}: status {status}, and no word of it: {said[-300:]}"]
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    return [f"{what}: status {status}, lines {lines}"] if status not in (0, 1) or len(lines) > 1 else []


def goes_on(config, workdir, expected, what):
    """Start again, with room: the end must be that of an unbroken run."""
    status, said = runs.finish(config, workdir)
    if status != 0:
        return [f"{what}: then status {status}: {said[-500:]}"]
    differs = runs.same(runs.result(workdir), expected)
    return [f"{what}: then {', '.join(differs)} are others"] * bool(differs)


@pytest.mark.slow
def test_a_write_that_fails_is_said_and_gone_on_from(unbroken, tmp_path, campaign):
    config, _, expected, writes = unbroken
    assert writes > 20
    numbers = range(1, writes + 1)
    if not campaign.full:  # tests/training/test_disk.py has more of them, in one process
        numbers = random.Random(campaign.seed).sample(numbers, 1)
    faults = []
    for number in numbers:
        workdir = tmp_path / str(number) / "run"
        workdir.parent.mkdir()
        error = (errno.ENOSPC, errno.EACCES)[number % 2]
        status, said = runs.finish(config, workdir, failing=number, error=error)
        what = f"write {number} of {writes}, {os.strerror(error)}"
        if status == 0 and not runs.same(runs.result(workdir), expected):
            continue  # what was to be removed stays: nothing is lost
        faults += faults_of(status, said, what, os.strerror(error)) + goes_on(config, workdir, expected, what)
        shutil.rmtree(workdir.parent)
    outcome = "one line; the second start ends with the bits of an unbroken run"
    tried = "each write that Python makes, failed: no space, no permission in turn"
    campaign.report(tried, len(numbers), outcome, faults)
    assert not faults, "\n".join(faults)


@contextlib.contextmanager
def small_disk(folder, size):
    """Mount a disk of so many bytes, if this user may."""
    folder.mkdir(parents=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_up_is_said_and_gone_on_from(unbroken, tmp_path, campaign):
    config, whole, expected, _ = unbroken
    if not campaign.full or os.name != "posix":
        pytest.skip("of the full campaign")
    used = sum(file.stat().st_size for file in whole.rglob("*") if file.is_file())
    count, faults, filled = 40, [], 0
    for number in range(count):
        with small_disk(tmp_path / str(number), 4096 * (1 + int(used * number / count / 4096))) as disk:
            what = f"a disk of {number}/{count} of what the run leaves"
            status, said = runs.finish(config, disk / "run")
            if status == 0 and not runs.same(runs.result(disk / "run"), expected):
                continue
            filled += 1
            # Of a disk that is too small from the start the run says so before it compiles anything.
            known = "expected a disk with"
            faults += faults_of(status, said, what, os.strerror(errno.ENOSPC), known)
            subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
            faults += goes_on(config, disk / "run", expected, what)
    outcome = "one line; with more room the second start ends with the bits of an unbroken run"
    campaign.report("disks that fill up", filled, outcome, faults)
    assert not faults, "\n".join(faults)
