"""Targets of a frozen teacher, kept for later updates of the run, or for other runs, of the same noise."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from safetensors import SafetensorError
from safetensors.numpy import load, save

from rats_jax.config.fields import flatten
from rats_jax.errors import ConfigError
from rats_jax.types import Targets

_FILE = "targets.json"
# All that targets depend on, besides the prompts themselves and which rows a process holds.
_FIELDS = (
    *("seed", "batch_size", "pretrained", "prompt_embeds", "sampler", "compute_dtype", "frozen_dtype"),
    *("teacher.num_steps", "teacher.guidance_scale", "teacher.timestep_spacing", "teacher.sampler"),
    *("student.num_steps", "student.timestep_spacing", "horizon.interpolation"),
)


class TargetMemory:
    """Keeps targets for the run itself, in the host's memory, while its teacher stays as it is."""

    def __init__(self) -> None:
        self._kept: dict[int, Targets] = {}

    def clear(self) -> None:
        """Forget them: the teacher has moved."""
        self._kept.clear()

    def read(self, update: int) -> Targets | None:
        """Give the targets of an update, or None if they are not there."""
        return self._kept.get(update)

    def write(self, update: int, targets: Targets) -> None:
        """Keep the targets of an update."""
        self._kept[update] = targets


class TargetStore:
    """One file per update and process: the targets of the rows that the process holds.

    Args:
        folder: made if it is not there; a folder or gs:// address.
        config: of the run.
        prompts: of the run.
        rows: of the global batch, those of this process.

    Raises:
        ConfigError: the folder holds targets of another teacher, of other prompts, noise or noise levels, or
            it cannot be written.
    """

    def __init__(self, folder: str, config: Any, prompts: Sequence[str], rows: np.ndarray):
        self._folder, self._process = epath.Path(folder).expanduser(), jax.process_index()
        settings = describe(config, prompts) | {"processes": jax.process_count()}
        file = self._folder / _FILE
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            found = json.loads(file.read_text()) if file.exists() else settings
            if not file.exists() and self._process == 0:
                self._write(file, json.dumps(settings, indent=2, sort_keys=True).encode())
        except (OSError, json.JSONDecodeError) as error:
            raise ConfigError(
                f"teacher.targets={folder!r}: expected a folder for targets ({error})"
            ) from None
        wrong = sorted(name for name in settings | found if settings.get(name) != found.get(name))
        if wrong:
            name = wrong[0]
            raise ConfigError(
                f"teacher.targets={folder!r}: expected targets with {name}={settings.get(name)!r}, "
                f"it holds those with {found.get(name)!r}"
            )
        self._rows = len(rows)

    def read(self, update: int) -> Targets | None:
        """Read the targets of an update, NumPy arrays [rows, ...], or None if they are not there."""
        file = self._file(update)
        if not file.exists():
            return None
        try:
            arrays: Any = load(file.read_bytes())
            denoised = arrays.pop("denoised")
        except (SafetensorError, KeyError) as error:
            raise ConfigError(f"teacher.targets: {str(file)!r} is no file of targets ({error})") from None
        return Targets(denoised, {name.removeprefix("scores/"): array for name, array in arrays.items()})

    def write(self, update: int, targets: Targets) -> None:
        """Keep the targets of an update, NumPy arrays [rows, ...]."""
        assert len(targets.denoised) == self._rows
        scores = {f"scores/{name}": np.asarray(array) for name, array in targets.scores.items()}
        self._write(self._file(update), save({"denoised": np.asarray(targets.denoised), **scores}))

    def _file(self, update: int) -> epath.Path:
        return self._folder / f"{update:06d}-{self._process}.safetensors"

    def _write(self, file: epath.Path, content: bytes) -> None:
        """Write a file whole or not at all; runs that share the folder may write the same one at once."""
        partial = file.with_name(f"{file.name}.{np.random.default_rng().integers(2**62)}.tmp")
        partial.write_bytes(content)
        partial.replace(file)


def describe(config: Any, prompts: Sequence[str]) -> dict[str, Any]:
    """List all that the targets of update n depend on, by field name."""
    flat = flatten(config)
    digest = hashlib.sha256("\n".join(prompts).encode()).hexdigest()
    rewards = {
        f"rewards.{name}.{field}": reward[field]
        for name, reward in config.rewards.items()
        for field in ("kind", "path")
    }
    return {field: flat[field] for field in _FIELDS} | rewards | {"prompts": digest}
