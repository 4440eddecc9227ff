"""Runs ended from outside at any moment: what they come to in the end is what an unbroken run comes to."""

import random
import signal
import subprocess
import time

import pytest

from tests.stress import runs


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, campaign):
    """A config, what its run comes to, and how long it takes once its programs are compiled."""
    folder = tmp_path_factory.mktemp("unbroken")
    config = runs.write_job(folder)
    results, seconds = [], 0.0
    for name in ("first", "second")[: campaign.dose(full=2, small=1)]:
        began = time.monotonic()
        status, said = runs.finish(config, folder / name)
        assert status == 0, said
        results.append(runs.result(folder / name))
        seconds = time.monotonic() - began
    assert not runs.same(results[-1], results[0])
    return config, results[0], seconds / campaign.dose(full=1, small=2)


def end_after(running, seconds, how):
    """Wait, then send the signal; gives whether the process was still there."""
    try:
        running.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        running.send_signal(how)
        return True
    return False


def go_on_until_done(config, workdir, expected, rng, seconds, how, *, left, check, start):
    """Start, end at a random moment, start again, until the run is done; gives how often it was ended."""
    faults, ended = [], 0
    while True:
        running = start(config, workdir)
        was_ended = ended < left and end_after(running, rng.uniform(0.2, seconds), how)
        said, _ = running.communicate(timeout=600)
        if was_ended and running.returncode != 0:
            ended += 1
            faults += check(workdir, running.returncode, said)
            continue
        if running.returncode != 0:
            return ended, [*faults, f"after {ended} ends, status {running.returncode}: {said[-500:]}"]
        differs = runs.same(runs.result(workdir), expected)
        return ended, faults + [f"after {ended} ends {', '.join(differs)} are others"] * bool(differs)


def end_so_often(count, unbroken, folder, seed, how, check, *, start=runs.start):
    """Run after run, until so many ends came; gives how many runs that took, and what was wrong."""
    config, expected, seconds = unbroken
    rng, ended, number, faults = random.Random(seed), 0, 0, []
    while ended < count:
        number += 1
        workdir, left = folder / f"run_{number}", count - ended
        options = {"left": left, "check": check, "start": start}
        more, wrong = go_on_until_done(config, workdir, expected, rng, seconds, how, **options)
        ended, faults = ended + more, faults + wrong
    return number, faults


@pytest.mark.slow
def test_kills_change_nothing(unbroken, tmp_path, campaign):
    count = campaign.dose(full=100, small=1)
    number, faults = end_so_often(
        count, unbroken, tmp_path, campaign.seed, signal.SIGKILL, check=lambda *_: []
    )
    outcome = f"{number} runs, each ends with the bits of an unbroken one"
    campaign.report("kill -9 at a random moment", count, outcome, faults)
    assert not faults, "\n".join(faults)


def lost_after_sigterm(workdir, status, said):
    """Say what is wrong after a SIGTERM: not its own status, or more than an update is lost."""
    logged = runs.last_logged(workdir)
    saved = max(runs.saved_steps(workdir), default=0)
    if status == -signal.SIGTERM and logged == saved:
        return []  # before it had begun
    faults = [f"status {status} in place of 75: {said[-500:]}"] if status != 75 else []
    return faults + ([f"update {logged} was logged, {saved} is saved"] if logged > saved + 1 else [])


@pytest.mark.slow
def test_sigterm_loses_an_update_at_most(unbroken, tmp_path, campaign):
    count = campaign.dose(full=20, small=1)
    number, faults = end_so_often(
        count, unbroken, tmp_path, campaign.seed + 1, signal.SIGTERM, check=lost_after_sigterm
    )
    outcome = f"{number} runs, at most one update lost, the bits of an unbroken run"
    campaign.report("SIGTERM at a random moment", count, outcome, faults)
    assert not faults, "\n".join(faults)
