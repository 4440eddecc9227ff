"""Damaged inputs of every kind: read, or refused in one line that names the file."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stress.inputs import KINDS
from tests.stress.mutate import mutate

READER = Path(__file__).with_name("reader.py")


def read_damaged(kind, folder, *, count, seed):
    """Read so many damaged files; gives numbers of those read and refused, and a line for each fault."""
    KINDS[kind].write(folder)
    good = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    environment = os.environ | {"PYTHONPATH": str(READER.parents[2]), "JAX_PLATFORMS": "cpu"}
    tally, faults, first = {"read": 0, "refused": 0}, [], 0
    while first < count:
        command = [sys.executable, "-P", str(READER), kind, str(folder), *map(str, (seed, first, count))]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        last = None
        for number, file, outcome in map(json.loads, done.stdout.splitlines()):
            if outcome == "started":
                last = number, file
                continue
            last, first = None, number + 1
            tally[outcome] = tally.get(outcome, 0) + 1
            if outcome not in ("read", "refused"):
                faults.append(f"{kind} {number}, {file}: {outcome}")
        if last is not None:
            first = last[0] + 1
            faults.append(f"{kind} {last[0]}, {last[1]}: the process ended: {done.stderr[-300:]}")
            (folder / last[1]).write_bytes(good[folder / last[1]])
        elif first < count:
            raise AssertionError(f"the reader ended before anything was damaged: {done.stderr[-2000:]}")
    return tally["read"], tally["refused"], faults


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_or_refused_in_one_line(kind, tmp_path, campaign):
    count = campaign.dose(full=-(-10_000 // len(KINDS)), small=40)
    read, refused, faults = read_damaged(kind, tmp_path, count=count, seed=campaign.seed)
    campaign.report(f"damaged {kind}", count, f"{read} read, {refused} refused", faults)
    assert not faults, "\n".join(faults)


def test_a_damaged_file_is_another(tmp_path):
    same = 0
    for suffix in (".json", ".txt"):
        for seed in range(200):
            content = json.dumps({"a": [1, {"b": "text"}], "c": None}).encode()
            damaged = mutate(content, suffix, random.Random(seed))
            same += damaged == content
            assert damaged == mutate(content, suffix, random.Random(seed))
    assert same < 40
