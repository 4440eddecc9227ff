"""Files of a model: in a local folder, a local file, or a repository of the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, LocalEntryNotFoundError

from rats_jax.errors import WeightsError
from rats_jax.paths import is_hub_id, resolve_path


def find_file(path: str, *names: str) -> Path | None:
    """Find the first of several files of a model, downloading it if the model lies on the hub.

    Args:
        path: a folder, a file, `assets/...` in this package, or a hub id 'owner/name[@revision]'.
        names: file names in the order of preference. A file as `path` is found if its suffix is the suffix of
            one of them; files beside it count as lying in its folder.

    Returns:
        The file, or None if the model has none of them.

    Raises:
        WeightsError: `path` is neither, or the hub cannot be reached or does not give the file; of a gated
            repository it says where its licence is accepted.
    """
    local = resolve_path(path)
    if local.is_file():
        if local.suffix in {Path(name).suffix for name in names}:
            return local
        local = local.parent
    if local.is_dir():
        return next((local / name for name in names if (local / name).is_file()), None)
    if not is_hub_id(path):
        raise WeightsError(f"{path!r} is no file or folder, and no hub id as 'owner/name'")
    repository, _, revision = path.partition("@")
    for name in names:
        try:
            return Path(huggingface_hub.hf_hub_download(repository, name, revision=revision or None))
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
    return None


def get_file(path: str, *names: str) -> Path:
    """Find a file as `find_file` does; that there is none is an error too."""
    file = find_file(path, *names)
    if file is None:
        raise WeightsError(f"model {path!r} lacks {' or '.join(map(repr, names))}")
    return file


def _unreadable(path: str, name: str, error: Exception) -> WeightsError:
    reason = " ".join(str(error).split())
    return WeightsError(f"model {path!r} is no folder here, and the hub does not give its {name!r}: {reason}")
