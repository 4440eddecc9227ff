"""Targets of the teacher: kept for later updates of the run, or for other runs, of the same noise."""

from __future__ import annotations

import functools
import hashlib
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from safetensors import SafetensorError
from safetensors.numpy import load, save

from rats_jax.config.fields import flatten
from rats_jax.errors import ConfigError, reason_of
from rats_jax.files import naming_disk, write_whole
from rats_jax.parallel import placement, processes
from rats_jax.paths import any_path, local_path
from rats_jax.pipelines.base import OPTIONS
from rats_jax.rewards.own import file_of
from rats_jax.texts import parse_object, read_text
from rats_jax.types import Batch, FrozenParams, Key, Params, Targets, TrainState

_FILE, _SUM = "targets.json", "crc32"
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
            it is damaged or cannot be written.
    """

    def __init__(self, folder: str, config: Any, prompts: Sequence[str], rows: np.ndarray):
        self._folder, self._process = any_path(folder, "teacher.targets"), jax.process_index()
        settings = describe(config, prompts) | {"processes": jax.process_count()}
        if jax.process_count() > 1:  # another mesh may give each process other rows of the batch
            held = processes.gather(np.isin(np.arange(config.batch_size), rows))
            settings["rows of processes"] = hashlib.sha256(held.tobytes()).hexdigest()
        file = self._folder / _FILE
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            found = _read_settings(file) if file.exists() else settings
            if not file.exists() and self._process == 0:
                write_whole(file, json.dumps(settings, indent=2, sort_keys=True))
        except OSError as error:
            raise ConfigError(
                f"teacher.targets={folder!r}: expected a folder for targets ({reason_of(error)})"
            ) from None
        wrong = sorted(name for name in settings | found if settings.get(name) != found.get(name))
        if wrong:
            name = wrong[0]
            raise ConfigError(
                f"teacher.targets={folder!r}: expected targets with {name}={settings.get(name)!r}, "
                f"it holds those with {found.get(name)!r}"
            )
        self._rows = len(rows)

    def clear(self) -> None:
        """Keep all: the config has no folder of targets for a teacher that moves."""

    def read(self, update: int) -> Targets | None:
        """Read the targets of an update, NumPy arrays [rows, ...], or None if they are not there.

        Raises:
            ConfigError: they cannot be read, or are not as they were written.
        """
        file = self._file(update)
        try:
            if not file.exists():
                return None
            arrays: Any = load(file.read_bytes())
            written, found = arrays.pop(_SUM, None), _sum_of(arrays)  # those of before have no checksum
            if written is not None and written != found:
                raise ValueError("it is not as it was written")
            denoised = arrays.pop("denoised")
        except (OSError, ValueError, SafetensorError, KeyError) as error:
            raise ConfigError(
                f"teacher.targets: {str(file)!r} is no file of targets ({reason_of(error)}); without it the "
                "teacher makes them again"
            ) from None
        return Targets(denoised, {name.removeprefix("scores/"): array for name, array in arrays.items()})

    def write(self, update: int, targets: Targets) -> None:
        """Keep the targets of an update, NumPy arrays [rows, ...]."""
        assert len(targets.denoised) == self._rows
        arrays = {f"scores/{name}": np.asarray(array) for name, array in targets.scores.items()}
        arrays["denoised"] = np.asarray(targets.denoised)
        with naming_disk(Path(self._folder), field="teacher.targets"):
            write_whole(self._file(update), save(arrays | {_SUM: np.array([_sum_of(arrays)], np.uint32)}))

    def _file(self, update: int) -> epath.Path:
        return self._folder / f"{update:06d}-{self._process}.safetensors"


def _sum_of(arrays: Mapping[str, np.ndarray]) -> int:
    """Give the CRC-32 of arrays, in the order of their names."""
    return functools.reduce(lambda crc, name: zlib.crc32(arrays[name].tobytes(), crc), sorted(arrays), 0)


def describe(config: Any, prompts: Sequence[str]) -> dict[str, Any]:
    """List all that the targets of update n depend on, by field name."""
    flat = flatten(config)
    digest = hashlib.sha256("\n".join(prompts).encode()).hexdigest()
    rewards = {
        f"rewards.{name}.{field}": reward[field]
        for name, reward in config.rewards.items()
        for field in ("kind", "path")
    }
    for name, reward in config.rewards.items():
        if file := file_of(reward["kind"]):
            content = local_path(file, f"rewards.{name}.kind").read_bytes()
            rewards[f"rewards.{name}.file"] = hashlib.sha256(content).hexdigest()
    later = (*OPTIONS, "lora.base_dtype", "reward_frames")  # folders of before name none
    chosen = {field: flat[field] for field in later if flat[field]}
    return {field: flat[field] for field in _FIELDS} | chosen | rewards | {"prompts": digest}


def _read_settings(file: epath.Path) -> dict[str, Any]:
    """Read what the targets of a folder depend on.

    Raises:
        ConfigError: the file is damaged.
    """
    try:
        return parse_object(read_text(file))
    except ValueError as error:
        folder, expected = str(file.parent), "expected a folder for targets"
        raise ConfigError(f"teacher.targets={folder!r}: {expected}, {_FILE} is damaged ({error})") from None


class TeacherTargets:
    """The targets of every update: kept ones, or those that the teacher is asked for and leaves.

    Args:
        store: where they are kept; None where each update runs its teacher.
        teach: (TrainState.teacher, frozen, batch, key) -> Targets, jitted.
        frozen: gives the frozen weights.
        rows: of the global batch, those of this process.
        place_rows: puts the rows of this process on its devices.
        moves_every: updates after which the teacher has moved; 0 if it stays.
    """

    def __init__(
        self,
        store: TargetMemory | TargetStore | None,
        teach: Callable[[Params, FrozenParams, Batch, Key], Targets],
        frozen: Callable[[], FrozenParams],
        *,
        rows: np.ndarray,
        place_rows: Callable[[Any], Any],
        moves_every: int,
    ):
        self._store, self._teach, self._frozen = store, teach, frozen
        self._rows, self._place_rows, self._moves_every = rows, place_rows, moves_every

    def find(
        self, step: int, origin: int, state: TrainState, batch: Batch, key: Key
    ) -> tuple[Targets] | tuple[()]:
        """Find the targets of the update after `step` updates.

        Args:
            step: updates made.
            origin: the update whose prompts and noise it has.
            state, batch, key: of the update.

        Returns:
            The last argument of the update, or none where it runs its teacher itself.
        """
        if self._store is None:
            return ()
        if self._moves_every and step % self._moves_every == 0:
            self._store.clear()
        found = self._store.read(origin)
        everywhere = processes.everywhere(found is not None)
        if found is None or not everywhere:
            taught = self._teach(state.teacher, self._frozen(), batch, key)
            found = placement.read_rows(taught, self._rows)
            self._store.write(origin, found)
        return (self._place_rows(found),)


def keeps_targets(config: Any) -> bool:
    """Tell whether the targets of a run are kept, so that its updates take them as an argument."""
    return bool(config.teacher.targets or config.teacher.reuse_after)


def open_targets(config: Any, program: Any) -> TeacherTargets:
    """Open the targets of a run.

    Args:
        config: fields as in configs/default.py.
        program: of the run.

    Raises:
        ConfigError: as `TargetStore`.
    """
    store = None
    if config.teacher.targets:
        store = TargetStore(config.teacher.targets, config, program.prompts, program.rows)
    elif config.teacher.reuse_after:
        store = TargetMemory()
    return TeacherTargets(
        store,
        lambda *inputs: program.teach(*inputs),  # compiled when it is wanted
        lambda: program.frozen,
        rows=program.rows,
        place_rows=program.place_rows,
        moves_every=config.teacher.ema_every if program.experiment.teacher_moves else 0,
    )
