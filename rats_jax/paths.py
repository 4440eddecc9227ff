"""Paths in a config or on a command line: the package's own files, local ones, the hub."""

from __future__ import annotations

import re
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def resolve_path(path: str) -> Path:
    """Turn a path of the config into one of the file system: `assets/...` lies in the package rats_jax."""
    return _PACKAGE / path if path.startswith("assets/") else Path(path).expanduser()


def is_hub_id(path: str) -> bool:
    """Tell whether a path that does not exist here can name a hub repository: 'owner/name[@revision]'."""
    local = path.startswith("assets/") or resolve_path(path).exists()
    return _HUB_ID.fullmatch(path) is not None and not local
