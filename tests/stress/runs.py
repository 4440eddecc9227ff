"""A tiny run as a command: started, ended from outside, and what it leaves."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from rats_jax.workdir.metrics import read_metrics
from tests.tiny import UNET, VAE, tiny_config, write_config, write_tiny_models, xla_flags

ROOT = Path(__file__).parents[2]
# What is traced and compiled at each start: no more than a run has to have.
NO_MIDDLE = {"mid_block_type": None}
ONE_BLOCK = {
    "down_block_types": ("DownEncoderBlock2D",),
    "up_block_types": ("UpDecoderBlock2D",),
    "block_out_channels": (16,),
    "sample_size": 8,
}
SETTINGS = {
    "num_updates": 12,
    "batch_size": 2,
    "reference": "",
    "samples__every": 5,
    "samples__num": 2,
    "checkpoint__every": 2,
    "evaluation__num_prompts": 4,
    "evaluation__batch_size": 4,
}


def write_job(folder, **changes):
    """Write models and the config of a tiny run; gives the config's file."""
    models = folder / "models"
    write_tiny_models(models, unet=UNET | NO_MIDDLE, vae=VAE | ONE_BLOCK)
    return write_config(folder / "job.py", tiny_config(models, **(SETTINGS | changes)))


def on_one_device():
    """Give the environment of a run."""
    return os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": xla_flags(devices=1)}


def start(config, workdir, *, failing=None, error=errno.ENOSPC, **environment):
    """Start the run; `failing` numbers a write that fails with an error, see job.py."""
    arguments = [f"--config={config}", f"--workdir={workdir}"]
    command = [sys.executable, "-P", "-m", "rats_jax.main", *arguments]
    if failing is not None:
        job = Path(__file__).with_name("job.py")
        command = [sys.executable, "-P", str(job), str(workdir), str(failing), str(error), *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=workdir.parent, env=on_one_device() | environment, **pipes)


def finish(config, workdir, **options):
    """Run to the end: exit status and what it said."""
    running = start(config, workdir, **options)
    said, _ = running.communicate(timeout=600)
    return running.returncode, said


def saved_steps(workdir):
    """List the updates of the checkpoints that have their names."""
    folder = workdir / "checkpoints"
    found = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in found if name.isdecimal())


def last_logged(workdir):
    """Give the last update in the log, 0 if there is none."""
    file = workdir / "metrics.jsonl"
    return max((record["step"] for record in read_metrics(workdir)), default=0) if file.exists() else 0


def result(workdir):
    """Give all that a run ends with, as text and bytes: the same for the same run."""
    records = [
        {name: value for name, value in record.items() if not name.startswith("time/")}
        for record in read_metrics(workdir)
    ]
    summary = json.loads((workdir / "summary.json").read_text())
    found = {"metrics": json.dumps(records), "table": json.dumps(summary["reward"])}
    found["measured"] = json.dumps(read_metrics(workdir / "samples.jsonl"))
    found["samples"] = b"".join(file.read_bytes() for file in sorted((workdir / "samples").iterdir()))
    newest = workdir / "checkpoints" / str(saved_steps(workdir)[-1]) / "state"
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        content = checkpointer.metadata(newest).item_metadata.tree
        arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), content)
        state = checkpointer.restore(newest, args=ocp.args.PyTreeRestore(restore_args=arguments))
    found["state"] = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state))
    return found


def same(actual, expected):
    """Name what differs between two results."""
    return [name for name in expected if actual[name] != expected[name]]
