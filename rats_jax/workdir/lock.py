"""Lock on a work directory: one run at a time writes into it, and none that has ended keeps others out."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rats_jax.errors import ConfigError
from rats_jax.files import lock
from rats_jax.paths import is_remote, local_path

FILE = ".lock"


@contextmanager
def locked(workdir: str, *, writes: bool) -> Iterator[None]:
    """Keep other runs out of a folder while this one lives; the system gives it free however it ends.

    Args:
        workdir: folder of the run, which exists, or an address, of which there is no lock.
        writes: whether this process writes; the others of a run hold no lock.

    Raises:
        ConfigError: another run holds it.
    """
    if not writes or is_remote(workdir):
        yield
        return
    path = local_path(workdir, "workdir") / FILE
    with path.open("a+", encoding="utf-8", errors="replace") as file:
        if not lock(file.fileno()):
            file.seek(0)
            holder = " ".join(file.read().split()) or "another process"
            raise ConfigError(
                f"workdir={workdir!r}: expected a folder that no other run writes to, {holder} does"
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        try:
            yield
        finally:
            with suppress(OSError):
                file.truncate(0)
