"""All commands under one name: `rats-jax COMMAND ...`, which `python -m rats_jax COMMAND ...` is too.

    rats-jax main --config=emoji_cpu --workdir=runs/emoji

A command runs as `python -m rats_jax.COMMAND ...` does; to list them imports none of them.
"""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path

import rats_jax
from rats_jax.errors import suggestion
from rats_jax.texts import show

# In the order of the work; each is a module of its name.
COMMANDS = (
    *("main", "evaluate", "generate", "demo", "export", "score", "verify"),
    *("embed", "compile", "ablate", "pretrain"),
)

_WRONG_USE = 2  # the status with which programs refuse their command line


def main() -> None:
    """Run the command that the command line names, or say what there is."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in COMMANDS:
        sys.argv[1:] = arguments
        runpy.run_module(f"rats_jax.{name}", run_name="__main__", alter_sys=True)
    elif name in ("--help", "-h", "-help"):
        show(usage())
    elif name in ("--version", "-version"):
        show(f"rats_jax {rats_jax.__version__}")
    else:
        known = f"one of {', '.join(COMMANDS)}{suggestion(name, COMMANDS)}"
        print(f"error: COMMAND={name!r}: expected {known}", file=sys.stderr)
        sys.exit(_WRONG_USE)


def usage() -> str:
    """Write the commands, each with the first line of its module, which is read and not imported."""
    lines = [f"  {name:10}{_first_line(name)}" for name in COMMANDS]
    return "\n".join(
        [
            *(str(rats_jax.__doc__), "", "usage: rats-jax COMMAND [--FLAG=VALUE ...]", ""),
            *(*lines, "", "rats-jax COMMAND --help lists the flags of a command."),
        ]
    )


def _first_line(name: str) -> str:
    tree = ast.parse((Path(__file__).with_name(f"{name}.py")).read_text("utf-8"))
    return (ast.get_docstring(tree) or "").partition("\n")[0]


if __name__ == "__main__":
    main()
