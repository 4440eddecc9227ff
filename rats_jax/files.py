"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from etils import epath
from safetensors import SafetensorError

from rats_jax.errors import ConfigError, reason_of

PathLike = TypeVar("PathLike", Path, epath.Path)


@contextmanager
def new_folder(folder: Path, *, field: str) -> Iterator[Path]:
    """Make a folder for a command's results, and give it its name only once they are all there.

    Args:
        folder: must not exist; folders above it are made.
        field: what the command calls it, for messages.

    Yields:
        A folder beside it to write into; after an error it is removed.

    Raises:
        ConfigError: the folder exists, or it cannot be written, at first or later.
    """
    if os.path.lexists(folder):
        raise ConfigError(f"{field}={str(folder)!r}: expected a folder that is not there yet")
    partial = folder.with_name(folder.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        partial.rename(folder)
    except (OSError, SafetensorError) as error:
        named = Path(getattr(error, "filename", None) or partial)
        if not (partial.is_relative_to(named) or named.is_relative_to(partial)):
            raise  # of a file elsewhere
        raise ConfigError(
            f"{field}={str(folder)!r}: expected a folder that can be written ({reason_of(error)})"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def saving(results: str, path: PathLike, *, field: str) -> Iterator[None]:
    """Print results that cannot be saved, so that the work is not lost.

    Args:
        results: as text.
        path: of the file or folder that is written inside.
        field: what the command calls it, for messages.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        yield
    except OSError as error:
        print(results, flush=True)
        raise ConfigError(
            f"{field}={str(path)!r}: expected a path that can be written ({reason_of(error)})"
        ) from None


@contextmanager
def whole_file(file: PathLike) -> Iterator[PathLike]:
    """Make a file, and give it its name only once all of it is there; several may write the same one at once.

    Args:
        file: local or in a bucket; one that is there is replaced.

    Yields:
        A path beside it of the same kind and suffix, to write to; after an error nothing is left of it.
    """
    partial = file.with_name(f".partial-{uuid.uuid4().hex[:12]}-{file.name}")
    try:
        yield partial
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(file: PathLike, content: str | bytes) -> None:
    """Write a file, whole or not at all; text as UTF-8."""
    with whole_file(file) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
