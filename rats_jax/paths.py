"""What a path of a config or of a command means: the package's own files, local ones, buckets, the hub."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from rats_jax.errors import ConfigError, expect, reason_of

if TYPE_CHECKING:
    from etils import epath

_PACKAGE = Path(__file__).resolve().parent
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
# 'gs:/bucket' is what pathlib makes of an address; a single letter is a drive of Windows.
_ADDRESS = re.compile(r"[A-Za-z][\w+.-]+:/|.*://", re.DOTALL)
# What epath takes for an address although it looks like a folder.
_ADDRESS_ROOT = re.compile(r"/+(gs|s3|az|hf)(/|$)")

# File systems allow 255 bytes; what is being written has a longer name than what is written.
_LONGEST_NAME = 230


def resolve_path(path: str, field: str = "path") -> Path:
    """Find what is read from a local path: as `local_path`, and `assets/...` lies in the package rats_jax."""
    return _PACKAGE / path if path.startswith("assets/") else local_path(path, field)


def find_path(path: str, field: str) -> Path | epath.Path:
    """Find what is read, here or in a bucket: as `resolve_path`, or an address as `any_path`."""
    return any_path(path, field) if is_remote(path) else resolve_path(path, field)


def local_path(path: str, field: str) -> Path:
    """Turn a path of a config or of a command into one of the file system, `~` and `~user` expanded.

    Args:
        path: relative to the working directory, or absolute.
        field: of the config, or flag, that names it, for messages.

    Raises:
        ConfigError: it is empty, an address, or in the home of nobody.
    """
    expect(path.strip() != "" and "\0" not in path, field, path, "a path, it names none")
    expect(not is_remote(path), field, path, "a path of this machine, it is an address")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(f"{field}={path!r}: expected the home of a user, there is none") from None


def any_path(path: str, field: str) -> epath.Path:
    """Turn a path or an address, as gs://bucket/run, into one that can be read and written.

    Args:
        path, field: as of `local_path`.

    Raises:
        ConfigError: as `local_path`, or an address that cannot be reached: of no known scheme, or without the
            package that opens it.
    """
    from etils import epath  # slow to import, and most paths are local

    if not is_remote(path):
        local = local_path(path, field)
        expect(not _ADDRESS_ROOT.match(str(local)), field, path, "a folder, that one stands for an address")
        return epath.Path(local)
    try:
        expect("://" in path, field, path, "an address with two slashes, or a folder")
        address = epath.Path(path)
        address.exists()
    except KeyError:
        raise ConfigError(f"{field}={path!r}: expected a folder, or an address as gs://BUCKET/RUN") from None
    except ConfigError:
        raise
    except Exception as error:  # ImportError, or whatever the client of a bucket raises
        raise ConfigError(
            f"{field}={path!r}: expected an address that can be reached ({reason_of(error)})"
        ) from None
    return address


def find_model(path: str, field: str) -> Path | epath.Path:
    """Find where a model would lie that is a folder: a run, here or in a bucket, or a pipeline.

    Args:
        path: as for `find_path`, or a hub id, of which nothing lies here.
        field: as of `local_path`.

    Raises:
        ConfigError: as those, or it is a file, or nothing.
    """
    found = find_path(path, field)
    known = kind_of(found) == "folder" or is_hub_id(path)
    expect(known, field, path, "an existing folder, or a hub id 'owner/name'")
    return found


def expect_model(path: str, field: str) -> None:
    """Check that a path can be that of a model: a folder or file that is there, or a hub id.

    Raises:
        ConfigError: as `resolve_path`, or it is none.
    """
    known = kind_of(resolve_path(path, field)) != "" or is_hub_id(path)
    expect(known, field, path, "an existing folder or file, or a hub id 'owner/name'")


def expect_prompts(path: str | None, field: str) -> None:
    """Check that a path can be that of prompts: a file, 'tfds:NAME' or 'hf:OWNER/NAME'; None is not given.

    Raises:
        ConfigError: as `find_path`, or it is none.
    """
    known = path is None or is_dataset(path) or kind_of(find_path(path, field)) == "file"
    expect(known, field, path, "an existing file, or a dataset as 'tfds:NAME' or 'hf:OWNER/NAME'")


def is_dataset(path: str) -> bool:
    """Tell prompts of a dataset, 'tfds:NAME' or 'hf:OWNER/NAME', from those of a file."""
    return path.startswith(("tfds:", "hf:"))


def is_remote(path: str) -> bool:
    """Tell an address such as gs://bucket/run from a local path."""
    return _ADDRESS.match(path) is not None


def is_hub_id(path: str) -> bool:
    """Tell whether a path that does not exist here can name a hub repository: 'owner/name[@revision]'."""
    known = _HUB_ID.fullmatch(path) is not None and not path.startswith("assets/")
    return known and kind_of(Path(path)) == "" and kind_of(Path(path).parent) != "file"


def kind_of(path: Path | epath.Path) -> str:
    """Tell 'file' and 'folder' apart; '' is nothing, or what may not be looked at."""
    try:
        return "folder" if path.is_dir() else "file" if path.exists() else ""
    except (OSError, ValueError):  # a name that is too long, a folder without permission
        return ""


def output_folder(path: str, field: str) -> Path:
    """Find a folder for results, and check before the work that it can be made; it must not be there yet.

    Args:
        path, field: as of `local_path`.

    Raises:
        ConfigError: as `local_path`, or it is there, or cannot be made.
    """
    folder = local_path(path, field)
    expect(not _is_taken(folder), field, path, "a folder that is not there yet")
    _expect_writable(folder, path, field)
    return folder


def output_file(path: str, field: str) -> Path:
    """Find a file for results, checked before the work: that it can be written, over one that is there.

    Args:
        path, field: as of `local_path`.

    Raises:
        ConfigError: as `local_path`, or it is a folder, or in none that can be written.
    """
    file = local_path(path, field)
    expect(kind_of(file) != "folder", field, path, "a file, it is a folder")
    expect(kind_of(file.parent) == "folder", field, path, "a file in an existing folder")
    _expect_writable(file, path, field)
    return file


def expect_workdir(path: str, field: str) -> epath.Path:
    """Check, before the work, that a folder that may be there already, or an address, can be written.

    Args:
        path, field: as of `any_path`.

    Returns:
        What `any_path` gives.

    Raises:
        ConfigError: as `any_path`, or it is a file, or cannot be written.
    """
    folder = any_path(path, field)
    expect(kind_of(folder) != "file", field, path, "a folder, it is a file")
    if not is_remote(path):
        _expect_writable(Path(folder), path, field)
    return folder


def _is_taken(path: Path) -> bool:
    try:
        return os.path.lexists(path)
    except (OSError, ValueError):
        return False


def _expect_writable(file: Path, path: str, field: str) -> None:
    """Check that a file or folder can be made, and the folders above it."""
    above = file if kind_of(file) == "folder" else file.absolute().parent
    while not _is_taken(above) and above != above.parent:
        above = above.parent
    expect(
        kind_of(above) == "folder", field, path, f"a path that can be written, {str(above)!r} is no folder"
    )
    allowed = os.access(above, os.W_OK | os.X_OK)
    expect(allowed, field, path, f"a path that can be written, {str(above)!r} may not be written")
    longest = max(len(os.fsencode(part)) for part in ("", *file.parts))
    expect(longest <= _LONGEST_NAME, field, path, f"names of at most {_LONGEST_NAME} bytes")
