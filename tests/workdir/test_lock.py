"""Lock on a work directory: one run at a time, and none that has ended."""

import os
import subprocess
import sys

import pytest

from rats_jax.errors import ConfigError
from rats_jax.workdir.lock import locked

HOLD = """
import sys
from rats_jax.workdir.lock import locked

with locked(sys.argv[1], writes=True):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_run_is_refused_until_the_first_ends(tmp_path):
    with locked(str(tmp_path), writes=True):
        with pytest.raises(ConfigError) as caught, locked(str(tmp_path), writes=True):
            pass
        expected = f"workdir={str(tmp_path)!r}: expected a folder that no other run writes to, "
        assert str(caught.value).startswith(f"{expected}process {os.getpid()} on ")
        with locked(str(tmp_path), writes=False), locked("gs://bucket/run", writes=True):
            pass  # other processes of the same run, and buckets
    with locked(str(tmp_path), writes=True):
        pass


def test_a_lock_whose_text_is_damaged_is_a_lock(tmp_path):
    with locked(str(tmp_path), writes=True):
        (tmp_path / ".lock").write_bytes(b"\xff\xfe")
        with pytest.raises(ConfigError, match="that no other run writes to, .* does$"):
            with locked(str(tmp_path), writes=True):
                pass


def test_a_run_that_was_killed_leaves_no_lock(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=f"process {other.pid} on "), locked(str(tmp_path), writes=True):
            pass
        other.kill()
        other.wait()
        with locked(str(tmp_path), writes=True):
            pass
