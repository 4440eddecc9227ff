"""The command `python -m rats_jax.main`, in which one write can be made to fail.

    python job.py DIR FAILING ERROR ARGUMENTS...

Counts what Python opens to write, makes, renames and removes below DIR; the one numbered FAILING (0 is none)
fails with the ERROR of that number. Prints how many there were to DIR's neighbour `writes`.
"""

import os
import runpy
import sys
from pathlib import Path

_WRITES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")


def main() -> None:
    """Watch, and run the command."""
    folder, failing, error = os.path.realpath(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    count = 0

    def watch(event: str, arguments: tuple) -> None:
        nonlocal count
        if event == "open":
            path, _, flags = arguments
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        else:
            path, writes = (arguments or ("",))[0], event in _WRITES
        if not writes or not isinstance(path, str | bytes | os.PathLike):
            return
        path = os.fsdecode(path)
        if not os.path.realpath(path).startswith(folder):
            return
        count += 1
        if count == failing:
            raise OSError(error, os.strerror(error), path)

    sys.addaudithook(watch)
    sys.argv = ["rats_jax.main", *sys.argv[4:]]
    try:
        runpy.run_module("rats_jax.main", run_name="__main__", alter_sys=True)
    finally:
        Path(folder).with_name("writes").write_text(str(count))


if __name__ == "__main__":
    main()
