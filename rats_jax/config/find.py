"""Where a config file is: the user's own, or one of those that come with the package."""

from __future__ import annotations

from difflib import SequenceMatcher
from pathlib import Path

from rats_jax.errors import expect
from rats_jax.paths import kind_of, resolve_path

_PACKAGE = Path(__file__).resolve().parents[1]
# Inside the package where it is installed, beside it in a checkout.
_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")


def find_config(path: str) -> tuple[Path, list[str]]:
    """Find a config file by its path or, if there is none, by its name among those of the package.

    Args:
        path: a Python file, relative to the working directory or absolute, or a name: `emoji_cpu`,
            `emoji_cpu.py` and `configs/emoji_cpu.py` are the same one, and files of the working directory
            are before it. Behind it, as ml_collections has it, `:ARGUMENT` for its `get_config`.

    Returns:
        (file, arguments of its `get_config`: none, or one).

    Raises:
        ConfigError: as `resolve_path`, or there is none; names those that there are, the closest one first.
    """
    whole = resolve_path(path, "config")
    name, colon, argument = path.partition(":")
    if colon and kind_of(whole) == "":
        return find_config(name)[0], [argument]
    candidates = [whole, *(resolve_path(other, "config") for other in _other_names(path)), *_shipped(path)]
    file = next((file for file in candidates if kind_of(file) == "file"), None)
    known = ", ".join(sorted(names_of_configs(), key=lambda known: -_likeness(known, path)))
    expected = f"an existing Python file, or one that comes with rats_jax: {known}"
    expect(file is not None and file.suffix == ".py", "config", path, expected)
    assert file is not None
    return file, []


def names_of_configs() -> list[str]:
    """List the configs that come with the package, in the order of the alphabet."""
    return sorted(file.stem for folder in _FOLDERS for file in folder.glob("*.py"))


def _other_names(path: str) -> list[str]:
    """List what else a path may mean in the working directory; a bare name also a file of configs/ there."""
    names = [] if path.endswith(".py") else [f"{path}.py"]
    return names + ([f"configs/{_stem(path)}.py"] if len(Path(path).parts) == 1 else [])


def _shipped(path: str) -> list[Path]:
    parts = Path(path).parts
    by_name = len(parts) == 1 or (len(parts) == 2 and parts[0] == "configs")
    return [folder / f"{_stem(path)}.py" for folder in _FOLDERS] if by_name else []


def _stem(path: str) -> str:
    return Path(path).name.removesuffix(".py")


def _likeness(name: str, path: str) -> float:
    return SequenceMatcher(None, name, _stem(path)).ratio()
