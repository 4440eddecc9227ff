"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from etils import epath
from safetensors import SafetensorError

from rats_jax.errors import ConfigError, expect, reason_of
from rats_jax.texts import writable

PathLike = TypeVar("PathLike", Path, epath.Path)
_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE)
# TensorStore, which writes checkpoints, says so in the text of its errors.
_SYSTEM_ERROR = re.compile(r"os_error_code='(\d+)'")


def why_unwritable(error: BaseException, folder: Path) -> str:
    """Say why a folder could not be written, if an error is about that; else nothing.

    Args:
        error: of the system, of safetensors or of TensorStore. One that names a file is about the folder if
            the file lies in it, or the folder in the file; one that names none, if it is one of disks.
        folder: which may not be there.
    """
    if isinstance(error, OSError) and error.filename is not None:
        named = Path(os.fsdecode(error.filename))
        return reason_of(error) if folder.is_relative_to(named) or named.is_relative_to(folder) else ""
    if isinstance(error, SafetensorError) or (isinstance(error, OSError) and error.errno in _OF_DISKS):
        return reason_of(error)
    found = _SYSTEM_ERROR.search(str(error))
    return os.strerror(int(found[1])) if found and str(folder) in str(error) else ""


@contextmanager
def naming_disk(
    path: Path,
    *,
    field: str,
    kind: str = "folder",
    more: Callable[[], str] = lambda: "",
    at: Path | None = None,
) -> Iterator[None]:
    """Turn what a disk that is full, read-only or not ours does to results into one line.

    Args:
        path: of the results, for the message.
        field: what the command calls it, for the message.
        kind: 'folder' or 'file', for the message.
        more: gives what the message ends with.
        at: the folder in which they are written; without it `path`.

    Raises:
        ConfigError: it could not be written. Other errors pass.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        reason = why_unwritable(error, at or path)
        if not reason:
            raise
        raise ConfigError(
            f"{field}={str(path)!r}: expected a {kind} that can be written ({reason}){more()}"
        ) from None


def free_bytes(folder: Path) -> float:
    """Say how much more the disk of a folder takes, which may not be there yet; inf where nobody knows."""
    there = next((place for place in (folder, *folder.absolute().parents) if place.exists()), folder)
    try:
        usage = shutil.disk_usage(there)
    except OSError:
        return float("inf")
    return usage.free if usage.total else float("inf")


def expect_room(folder: Path, size: int, *, field: str, content: str) -> None:
    """Refuse a folder whose disk is too small for what will be written, before that is computed.

    Args:
        folder: which may not be there yet.
        size: bytes that will be written.
        field: what the command calls it, for the message.
        content: what they are, for the message.

    Raises:
        ConfigError: less is free.
    """
    free = free_bytes(folder)
    expected = f"a disk with {format_bytes(size)} free for {content}, it has {format_bytes(free)}"
    expect(free >= size, field, str(folder), expected)


def format_bytes(size: float) -> str:
    """Say a number of bytes as people do: 12.3 GB, 4.5 MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


@contextmanager
def new_folder(
    folder: Path, *, field: str, kept: Callable[[Path], str] = lambda partial: ""
) -> Iterator[Path]:
    """Make a folder for a command's results, and give it its name only once they are all there.

    Args:
        folder: must not exist; folders above it are made.
        field: what the command calls it, for messages.
        kept: says which results are whole in the folder beside it. One that has some stays after an error,
            and is not written over by the next command.

    Yields:
        A folder beside it to write into; after an error it is removed, or named in the message.

    Raises:
        ConfigError: the folder exists, another command is making it, an earlier one left results beside it,
            or it cannot be written, at first or later.
    """
    if os.path.lexists(folder):
        raise ConfigError(f"{field}={str(folder)!r}: expected a folder that is not there yet")
    partial = folder.with_name(folder.name + ".partial")
    with _only_user(folder, partial, field=field):
        left = kept(partial)
        expected = f"a name without results of an earlier command beside it, {left} in {str(partial)!r}"
        expect(not left, field, str(folder), f"{expected}: move or remove it")
        with naming_disk(folder, field=field, at=partial):
            _empty(partial)
        try:
            with naming_disk(folder, field=field, at=partial):
                yield partial
                partial.rename(folder)
        except BaseException as error:
            found = kept(partial)
            if not found:
                shutil.rmtree(partial, ignore_errors=True)
            elif isinstance(error, ConfigError):
                raise type(error)(f"{error}; {found} in {str(partial)!r}") from None
            raise


@contextmanager
def _only_user(folder: Path, partial: Path, *, field: str) -> Iterator[None]:
    """Make the folder in which another one is made, and keep other commands out of it.

    Raises:
        ConfigError: another command has it, or it cannot be made.
    """
    with naming_disk(folder, field=field, at=partial):
        partial.mkdir(parents=True, exist_ok=True)
        if os.name != "posix":  # elsewhere folders cannot be opened
            yield
            return
        opened = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # What was locked may have got its name, or be gone, since it was opened.
        alone = lock(opened) and partial.exists() and os.path.samestat(os.fstat(opened), partial.stat())
        expect(alone, field, str(folder), "a folder that no other command is writing")
        yield
    finally:
        os.close(opened)


def lock(opened: int) -> bool:
    """Lock an open file for this process, unless another one has; the system frees it however this one ends.

    Returns:
        Whether it is locked, or on a system without locks.
    """
    try:
        import fcntl

        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # Windows, some file systems of networks
        return True
    return True


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


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
    """Write a file, whole or not at all; text as `writable` encodes it."""
    with whole_file(file) as partial:
        partial.write_bytes(writable(content) if isinstance(content, str) else content)
