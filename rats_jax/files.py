"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from etils import epath
from safetensors import SafetensorError

from rats_jax.errors import ConfigError


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
    if folder.exists():
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
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ConfigError(
            f"{field}={str(folder)!r}: expected a folder that can be written ({reason})"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_whole(file: epath.Path | Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    partial = file.with_name(file.stem + ".tmp")
    partial.write_text(text)
    partial.replace(file)
