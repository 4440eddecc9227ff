"""What lies in place of a file that was not downloaded: nothing, a pointer of Git LFS, a web page."""

from __future__ import annotations

from pathlib import Path

from rats_jax.errors import WeightsError, reason_of

_BEGINNINGS = {
    b"version https://git-lfs": "is a pointer of Git LFS in place of the file: `git lfs pull` fetches it",
    b"<!doctype": "is a web page in place of the file: it was not downloaded",
    b"<html": "is a web page in place of the file: it was not downloaded",
    b"<?xml": "is the answer of a server in place of the file: it was not downloaded",
}


def check_download(file: Path) -> Path:
    """Refuse what lies in place of a file of a model that was not downloaded.

    Args:
        file: of a model; a text for people (.md) may be empty or HTML.

    Returns:
        The file.

    Raises:
        WeightsError: it is empty, cannot be read, or is something else than the file.
    """
    if file.suffix == ".md":
        return file
    try:
        with file.open("rb") as stream:
            start = stream.read(256).lstrip().lower()
            empty = not start and not stream.read(1)
    except OSError as error:
        raise WeightsError(f"{str(file)!r}: expected a readable file ({reason_of(error)})") from None
    if empty:
        raise WeightsError(f"{str(file)!r} is empty: it was not written or downloaded whole")
    found = next((what for beginning, what in _BEGINNINGS.items() if start.startswith(beginning)), None)
    if found:
        raise WeightsError(f"{str(file)!r} {found}")
    return file
