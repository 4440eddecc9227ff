"""Python files of users, configs and rewards: run, and what goes wrong in them is one line with the place."""

from __future__ import annotations

import importlib.util
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from rats_jax.errors import ConfigError


def import_file(file: Path, name: str, *, field: str) -> ModuleType:
    """Import a Python file that is in no package.

    Args:
        file: that exists.
        name: of the module.
        field: that names the file, for messages.

    Raises:
        ConfigError: it does not run; names the line.
    """
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None, file
    module = importlib.util.module_from_spec(spec)
    run_code(file, lambda: spec.loader.exec_module(module), field=field)  # pyright: ignore[reportOptionalMemberAccess]
    return module


def run_code(file: Path, code: Callable[[], Any], *, field: str) -> Any:
    """Call what a file defines.

    Raises:
        ConfigError: it raises; names the last line of the file on the way there.
    """
    try:
        return code()
    except (Exception, SystemExit) as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        line = frames[-1].lineno if frames else getattr(error, "lineno", None)
        place = f"line {line}: " if line else ""
        reason = f"{place}{type(error).__name__}: {getattr(error, 'msg', error)}"
        raise ConfigError(f"{field}={str(file)!r}: expected a file that runs ({reason})") from None
