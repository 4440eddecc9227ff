"""Files of a model: in a local folder, a local file, or a repository of the Hugging Face hub."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, LocalEntryNotFoundError

from rats_jax.errors import WeightsError, reason_of
from rats_jax.paths import is_hub_id, kind_of, resolve_path
from rats_jax.weights.download import check_download

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
"""Of files that `read_state_dict` reads."""
_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT")
_SHOWN = 6


def find_file(path: str, *names: str) -> Path | None:
    """Find the first of several files of a model, downloading it if the model lies on the hub.

    Args:
        path: a folder, a file, `assets/...` in this package, or a hub id 'owner/name[@revision]'.
        names: file names in the order of preference. If they are of weights, a file as `path` is that file,
            whatever its name; for other names the files beside it count as lying in its folder.

    Returns:
        The file, or None if the model has none of them.

    Raises:
        ConfigError: `path` is none, as `resolve_path` says.
        WeightsError: `path` is neither, or a file that holds no weights where they are wanted; the file is
            empty or what is found in place of files that were not downloaded; the hub cannot be reached or
            does not give the file; of a gated repository it says where its licence is accepted.
    """
    local = resolve_path(path)
    if kind_of(local) == "file":
        if any(Path(name).suffix in WEIGHT_SUFFIXES for name in names):
            known = local.suffix in WEIGHT_SUFFIXES or local.name.endswith(".index.json")
            expected = f"a folder or a file of weights, *{', *'.join(WEIGHT_SUFFIXES)}"
            if not known:
                raise WeightsError(f"{path!r}: expected {expected}")
            return check_download(local)
        local = local.parent
    if kind_of(local) == "folder":
        found = _first(local, names)
        return found and check_download(found)
    if not is_hub_id(path):
        raise WeightsError(f"{path!r} is no file or folder, and no hub id as 'owner/name'")
    repository, _, revision = path.partition("@")
    for name in names:
        try:
            found = huggingface_hub.hf_hub_download(repository, name, revision=revision or None)
        except (
            LocalEntryNotFoundError
        ) as error:  # no connection; an earlier one may have seen that it is absent
            known = huggingface_hub.try_to_load_from_cache(repository, name, revision=revision or None)
            if known is not huggingface_hub.file_download._CACHED_NO_EXIST:
                raise _unreadable(path, name, error) from None
        except GatedRepoError:
            raise WeightsError(
                f"model {path!r} is gated: expected its licence to be accepted at "
                f"https://huggingface.co/{repository}, and a token that may read gated repositories, from "
                "`hf auth login` or in HF_TOKEN"
            ) from None
        except EntryNotFoundError:
            continue
        except Exception as error:  # no such repository, gated, no disk space: whatever the hub has to say
            raise _unreadable(path, name, error) from None
        else:
            return check_download(Path(found))
    return None


def _first(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if kind_of(folder / name) == "file"), None)


def get_file(path: str, *names: str) -> Path:
    """Find a file as `find_file` does; that there is none is an error too."""
    file = find_file(path, *names)
    if file is None:
        raise WeightsError(
            f"model {path!r} lacks {' or '.join(map(repr, names))}{seen_beside(path, names[0])}"
        )
    return file


def seen_beside(path: str, name: str) -> str:
    """List, for a message, the files beside a missing one of a local model; '' of a hub id or no folder."""
    local = resolve_path(path)
    folder = ((local.parent if kind_of(local) == "file" else local) / name).parent
    try:
        seen = list_files(folder)
    except OSError as error:
        return f"; the folder {str(folder)!r} cannot be read ({reason_of(error)})"
    if not seen:
        return ""
    more = f" and {len(seen) - _SHOWN} more" if len(seen) > _SHOWN else ""
    return f"; there are {', '.join(map(repr, seen[:_SHOWN]))}{more}"


def list_files(folder: Path) -> list[str]:
    """List the names of the files of a folder, which need not be there; OSError if it may not be read."""
    return sorted(file.name for file in folder.iterdir() if file.is_file()) if kind_of(folder) else []


def _unreadable(path: str, name: str, error: Exception) -> WeightsError:
    given = [f"{name}={os.environ[name]!r}" for name in _VARIABLES if os.environ.get(name)]
    reason = " ".join(str(error).split()) + (f"; the environment sets {', '.join(given)}" if given else "")
    return WeightsError(f"model {path!r} is no folder here, and the hub does not give its {name!r}: {reason}")
