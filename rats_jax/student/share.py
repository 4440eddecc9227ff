"""Repository of the Hugging Face hub that an exported student is sent to."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError

from rats_jax.errors import ConfigError, expect, reason_of

T = TypeVar("T")

_NAME = "a repository as 'owner/name'"
_TOKEN = "from `hf auth login` or in HF_TOKEN"


def open_repository(name: str, *, private: bool) -> str:
    """Make a repository of models unless it is there, so that what the hub refuses is known before the work.

    Args:
        name: 'owner/name'.
        private: whether a new one is; one that is there stays as it is.

    Returns:
        Its address.

    Raises:
        ConfigError: no such name can be, there is no token, or the hub refuses it or cannot be reached.
    """
    expect(re.fullmatch(r"[^/@]+/[^/@]+", name) is not None, "push", name, _NAME)
    expect(huggingface_hub.get_token() is not None, "push", name, f"a token that may write, {_TOKEN}")
    api = huggingface_hub.HfApi()
    address = _ask(name, lambda: api.create_repo(name, private=private, exist_ok=True))
    # Of one that is there the hub says nothing until it is written to: it is asked how it would take a file.
    asked = [huggingface_hub.CommitOperationAdd("README.md", b"-")]
    _ask(name, lambda: api.preupload_lfs_files(name, asked))
    return str(address)


def push(name: str, folder: Path, *, message: str) -> None:
    """Send a folder as one commit.

    Args:
        name: from `open_repository`.
        folder: of the export; it stays.
        message: of the commit.

    Raises:
        ConfigError: the hub refuses it or cannot be reached; says where the folder is, and how it is sent.
    """
    api = huggingface_hub.HfApi()
    kept = f"; the student is in {str(folder)!r}, and `hf upload {name} {folder}` sends it"
    _ask(name, lambda: api.upload_folder(repo_id=name, folder_path=folder, commit_message=message), kept)


def _ask(name: str, request: Callable[[], T], kept: str = "") -> T:
    try:
        return request()
    except Exception as error:  # of the hub, or of the client of HTTP that its package uses
        _refuse(name, error, kept)


def _refuse(name: str, error: Exception, kept: str) -> NoReturn:
    """Say in one line what the hub refuses, by the status of its answer."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    owner = name.split("/")[0]
    expected = {
        None: f"a hub that can be reached at {constants.ENDPOINT}",
        401: f"a token that the hub accepts, {_TOKEN}",
        403: f"a token that may write to {owner!r}, {_TOKEN}",
        404: f"an owner that is known and a token that may write to it, {_TOKEN}",
    }.get(status, "what the hub accepts")
    if isinstance(error, HFValidationError):
        expected = _NAME
    raise ConfigError(f"push={name!r}: expected {expected} ({reason_of(error)}){kept}") from None
