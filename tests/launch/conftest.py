"""A checkout of its own for each test, with stand-ins for gcloud and srun that record their calls."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"

# Answers from a folder. `resources` and `machines` hold the answers to describe of the two kinds, the last
# one for ever; NONE is a failure. `fail_on` has lines of words: a call with all words of the first line
# fails, once, with `status`. Files that are sent are kept in `sent`.
GCLOUD = """#!{python}
import json, pathlib, shutil, sys
here = pathlib.Path({state!r})
words = [word for word in sys.argv[1:] if word not in ("compute", "tpus")]
with (here / "calls.jsonl").open("a") as file:
    file.write(json.dumps(words) + "\\n")
if words[1] == "describe":
    answers = here / ("resources" if words[0] == "queued-resources" else "machines")
    states = answers.read_text().split()
    answers.write_text(" ".join(states[1:] or states))
    if states[0] == "NONE":
        sys.exit(1)
    print(states[0])
    sys.exit(0)
if words[1] == "scp" and "--recurse" not in words:
    for word in words[2:]:
        if word.startswith("/"):
            shutil.copy(word, here / "sent")
fails = (here / "fail_on").read_text().splitlines()
if fails and all(any(part in word for word in words) for part in fails[0].split()):
    (here / "fail_on").write_text("\\n".join(fails[1:]))
    sys.exit(int((here / "status").read_text()))
"""
SRUN = """#!{python}
import json, os, pathlib, sys
record = {{"arguments": sys.argv[1:], "devices": os.environ.get("JAX_LOCAL_DEVICE_IDS")}}
here = pathlib.Path({state!r})
(here / "srun.json").write_text(json.dumps(record))
if (here / "fail_on").read_text():
    sys.exit(int((here / "status").read_text()))
"""
SCONTROL = """#!{python}
import pathlib, sys
pathlib.Path({state!r}, "scontrol").write_text(" ".join(sys.argv[1:]))
"""


@dataclass
class Checkout:
    """Folder `root` is the checkout, its path with a space; `state` is what the stand-ins read and write."""

    root: Path
    state: Path

    def set(self, **files: str) -> None:
        for name, text in files.items():
            (self.state / name).write_text(text)

    def environment(self, **changes: str) -> dict[str, str]:
        path = f"{self.state / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return os.environ | {"PATH": path, "RATS_POLL_SECONDS": "0", "HF_TOKEN": ""} | changes

    def launch(self, script: str, *arguments: str, **changes: str) -> subprocess.CompletedProcess:
        """Run a launch script, and forget the calls of an earlier one."""
        (self.state / "calls.jsonl").unlink(missing_ok=True)
        return subprocess.run(
            [str(self.root / "launch" / script), *arguments],
            env=self.environment(**changes),
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def calls(self) -> list[list[str]]:
        """The arguments of every call of gcloud, without the words that all of them have."""
        file = self.state / "calls.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def verbs(self, *without: str) -> list[str]:
        return [call[1] for call in self.calls() if call[1] not in without]


@pytest.fixture
def checkout(tmp_path):
    """A checkout with one commit; no machine and no resource is there."""
    root, state = tmp_path / "check out", tmp_path / "state"
    shutil.copytree(LAUNCH, root / "launch")
    (root / "configs").mkdir()
    (root / "configs" / "emoji_cpu.py").write_text("")
    (root / "a  b.txt").write_text("a prompt")
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *identity, *command], cwd=root, check=True)
    (state / "bin").mkdir(parents=True)
    (state / "sent").mkdir()
    for name, text in {"gcloud": GCLOUD, "srun": SRUN, "scontrol": SCONTROL}.items():
        program = state / "bin" / name
        program.write_text(text.format(python=sys.executable, state=str(state)))
        program.chmod(0o755)
    made = Checkout(root, state)
    made.set(machines="NONE", resources="NONE ACTIVE", fail_on="", status="7")
    return made
