"""A process that reads damaged files, one after another, and says of each what came of it.

    python reader.py KIND FOLDER SEED FIRST LAST

A line of JSON for each: its number, the file and the outcome: "read", "refused", or what is wrong. The
process ends where a file takes longer than `SECONDS`, and may crash: whoever started it goes on behind it.
"""

import faulthandler
import json
import random
import resource
import sys
import types
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECONDS = 10
GIGABYTE = 1 << 30


def main() -> None:
    """Damage, read, restore."""
    # `tests` is no package of its own: any installed one of that name would come first.
    sys.modules["tests"] = tests = types.ModuleType("tests")
    tests.__path__ = [str(ROOT / "tests")]
    from rats_jax.errors import ConfigError
    from tests.stress.inputs import KINDS
    from tests.stress.mutate import mutate

    warnings.simplefilter("ignore")
    name, folder, seed, first, last = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:])
    read = KINDS[name].read
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    good = {file: file.read_bytes() for file in files}
    for file in files:
        read(folder, file)  # what is good is read; and all that is imported or compiled once, is by now
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + GIGABYTE, -1))
    for number in range(first, last):
        rng = random.Random(f"{name} {seed} {number}")
        file = rng.choice(files)
        file.write_bytes(mutate(good[file], file.suffix, rng))
        print(json.dumps([number, str(file.relative_to(folder)), "started"]), flush=True)
        faulthandler.dump_traceback_later(SECONDS, exit=True, file=sys.stderr)
        try:
            read(folder, file)
            outcome = "read"
        except ConfigError as error:
            said = str(error)
            named = file.name in said or str(folder) in said
            outcome = "refused" if named and "\n" not in said else f"no file, or not in one line: {said}"
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps([number, str(file.relative_to(folder)), outcome[:300]]), flush=True)
        file.write_bytes(good[file])


if __name__ == "__main__":
    main()
