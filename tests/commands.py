"""The commands of the package: as processes, and in this one, where what they call may be replaced."""

import runpy
import socket
import subprocess
import sys
from pathlib import Path

from absl import flags, logging

ROOT = Path(__file__).parents[1]


def call(name, *arguments, cwd=ROOT, **options):
    """Run a command in a process of its own until it ends; `options` as of subprocess.run."""
    command = [sys.executable, "-m", f"rats_jax.{name}", *arguments]
    kept = {"capture_output": True, "text": True, "timeout": 600, "check": False}
    return subprocess.run(command, cwd=cwd, **kept | options)


def assert_one_line(done, message):
    """Check that a command refused its input and did nothing else: one line, which begins with a message."""
    assert done.returncode == 1 and done.stdout == "", done.stderr[-2000:]
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"error: {message}"), lines


def run_here(name, *arguments):
    """Run a command in this process, with flags of its own: those of two commands have the same names."""
    state, own = vars(flags.FLAGS), flags.FlagValues()
    kept, verbosity, argv = dict(state), logging.get_verbosity(), sys.argv
    own["verbosity"] = flags.FLAGS["verbosity"]
    state.update(vars(own))
    sys.argv = [name, *arguments]  # overrides of a config are looked for there
    try:
        module = runpy.run_module(f"rats_jax.{name}")
        module["main"](module["parse_flags"](sys.argv))
    finally:
        sys.argv = argv
        logging.set_verbosity(verbosity)
        state.update(kept)


def free_port():
    """A port of this machine that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
