"""The folder of a run: local or a bucket, and one process that writes its logs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from etils import epath

from rats_jax.errors import ConfigError, reason_of
from rats_jax.files import write_whole
from rats_jax.paths import any_path, is_remote, kind_of, local_path
from rats_jax.workdir import saved_config

# Of a work directory: what others write there themselves.
_NOT_LOGS = ("checkpoints", "checkpoints_damaged", saved_config.FILE)


class Logs:
    """Where a run writes everything but its checkpoints.

    Attributes:
        folder: a local folder: the work directory itself, or a temporary one if that is a bucket (its content
            is copied there by `push`), or if this process is not the one that writes.
    """

    def __init__(self, folder: Path, remote: epath.Path | None):
        self.folder, self._remote = folder, remote

    def push(self) -> None:
        """Copy what is in the folder to the bucket; does nothing if the folder is the work directory."""
        if self._remote is not None:
            _copy(epath.Path(self.folder), self._remote)


@contextmanager
def open_logs(workdir: str, *, writes: bool) -> Iterator[Logs]:
    """Open the logs of a run, those of earlier starts included; what is left is pushed at the end.

    Args:
        workdir: folder or gs:// address of the run.
        writes: whether this process writes; all others get a folder that is thrown away.
    """
    if writes and not is_remote(workdir):
        yield Logs(local_path(workdir, "workdir"), None)
        return
    with tempfile.TemporaryDirectory() as temporary:
        remote = epath.Path(workdir) if writes else None
        if remote is not None and remote.exists():
            _copy(remote, epath.Path(temporary), skip=_NOT_LOGS)
        logs = Logs(Path(temporary), remote)
        try:
            yield logs
        finally:
            logs.push()


def claim(workdir: str, config: Mapping[str, Any], *, writes: bool) -> None:
    """Make a new work directory, or check that the run in it had the same config.

    Args:
        workdir: folder or gs:// address.
        config: of this start.
        writes: whether this process makes it; all others only check.

    Raises:
        ConfigError: it is no path, or a file, cannot be made, or holds a run with another config.
    """
    folder = any_path(workdir, "workdir")
    if kind_of(folder) == "file":
        raise ConfigError(f"workdir={workdir!r}: expected a folder, it is a file")
    file = folder / saved_config.FILE
    if file.exists():
        saved_config.validate_resume(saved_config.read(file), config, workdir=workdir)
    if writes:
        with _expecting_folder(workdir):
            folder.mkdir(parents=True, exist_ok=True)


def keep_config(workdir: str, config: Mapping[str, Any]) -> None:
    """Write the config of this start beside the run, once nothing refuses it any more.

    Raises:
        ConfigError: it cannot be written.
    """
    with _expecting_folder(workdir):
        write_whole(any_path(workdir, "workdir") / saved_config.FILE, saved_config.to_json(config))


@contextmanager
def _expecting_folder(workdir: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"workdir={workdir!r}: expected a writable folder ({reason_of(error)})") from None


def _copy(source: epath.Path, target: epath.Path, skip: Collection[str] = ()) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for entry in source.iterdir():
        if entry.name in skip or os.path.islink(entry):  # wandb links to its newest run
            continue
        if entry.is_dir():
            _copy(entry, target / entry.name)
        else:
            (target / entry.name).write_bytes(entry.read_bytes())
