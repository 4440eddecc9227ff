"""Judge the student of a run: beside its teacher, the untrained model, and other few-step models.

    python -m rats_jax.evaluate --workdir=runs/emoji --num-prompts=256 --seeds=4

All contestants draw the same prompts from the same noise. --workdir gets a folder evaluation/ with
report.html, which opens in a browser without a network, report.md, report.json, scores.npz and the plots.
Another model joins with --contestant=NAME=FOLDER, or --contestant=NAME=FOLDER,guidance_scale=1.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from absl import app, flags, logging

from rats_jax.config.flags import errors_in_a_line, parse_flags
from rats_jax.errors import expect
from rats_jax.paths import any_path, expect_prompts, find_model, is_remote, kind_of, output_folder
from rats_jax.report.tables import OWN_NAMES
from rats_jax.texts import show

_WORKDIR = flags.DEFINE_string("workdir", None, "Work directory of a run.", required=True)
_STEP = flags.DEFINE_integer("step", None, "Checkpoint of the run; without it the newest.", lower_bound=0)
_NUM_STEPS = flags.DEFINE_list(
    "num-steps", ["1", "2", "3", "4", "5", "8", "16", "50"], "Sampling steps of all but the teacher."
)
_NUM_PROMPTS = flags.DEFINE_integer("num-prompts", 256, "Prompts; all if there are fewer.", lower_bound=1)
_SEEDS = flags.DEFINE_integer("seeds", 4, "Pictures of each prompt.", lower_bound=1)
_PROMPTS = flags.DEFINE_string("prompts", None, "File to choose prompts from; without it the run's.")
_CONTESTANTS = flags.DEFINE_multi_string(
    "contestant", [], "NAME=FOLDER[,guidance_scale=S] of another pipeline; give the flag several times."
)
_SEED = flags.DEFINE_integer("seed", 1234, "Of the choice of prompts and of the noise.", lower_bound=0)
_BATCH_SIZE = flags.DEFINE_integer("batch-size", 32, "Pictures at once.", lower_bound=1)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "What the networks compute in.")
_VBENCH = flags.DEFINE_bool("vbench", False, "Also write vbench/CONTESTANT_N_steps/PROMPT-INDEX.mp4.")
_OUT = flags.DEFINE_string("out", None, "Folder to write; without it evaluation/ in --workdir.")


def parse_steps(texts: Sequence[str]) -> list[int]:
    """Read numbers of steps, ascending.

    Raises:
        ConfigError: none, one that is no whole number of at least 1, or one twice.
    """
    good = all(text.strip().isdecimal() and int(text) >= 1 for text in texts)
    steps = sorted(int(text) for text in texts) if good else []
    distinct = bool(steps) and len(set(steps)) == len(steps)
    expect(distinct, "num-steps", ",".join(texts), "different whole numbers >= 1, as in 1,2,4")
    return steps


def parse_contestants(texts: Sequence[str], *, taken: Sequence[str]) -> dict[str, tuple[str, float | None]]:
    """Read NAME=FOLDER[,guidance_scale=S].

    Args:
        texts: of the flags.
        taken: names that are in use.

    Returns:
        By name: the folder, and the scale or None.

    Raises:
        ConfigError: another form, a name that is taken or has a slash, no folder, or a scale below 1.
    """
    found: dict[str, tuple[str, float | None]] = {}
    for text in texts:
        name, _, rest = text.partition("=")
        folder, given, scale = rest.partition(",guidance_scale=")
        form = "NAME=FOLDER or NAME=FOLDER,guidance_scale=S with S >= 1"
        # Its pictures lie in a file of its name.
        expect(bool(name.strip() and folder) and "/" not in name, "contestant", text, f"{form}, no / in NAME")
        used = (*taken, *found)
        expect(name not in used, "contestant", text, f"a name other than {', '.join(used)}")
        try:
            value = float(scale) if given else None
        except ValueError:
            value = 0.0
        expect(value is None or 1 <= value < float("inf"), "contestant", text, form)
        find_model(folder, f"contestant={name}")
        found[name] = folder, value
    return found


def main(_: list[str]) -> None:
    """Check the input, judge, write; the slow imports wait until the input is known to be good."""
    logging.set_verbosity(logging.WARNING)
    with errors_in_a_line():
        workdir = str(_WORKDIR.value)
        steps = parse_steps(list(_NUM_STEPS.value or []))
        expect((_SEED.value or 0) < 2**32, "seed", _SEED.value, "0 .. 2**32 - 1")
        expected = "a folder of this machine, as the work directory is an address"
        expect(_OUT.value is not None or not is_remote(workdir), "out", _OUT.value, expected)
        is_folder = kind_of(any_path(workdir, "workdir")) == "folder"
        expect(is_folder, "workdir", workdir, "the work directory of a run")
        out = output_folder(f"{workdir}/evaluation" if _OUT.value is None else _OUT.value, "out")
        expect_prompts(_PROMPTS.value, "prompts")
        others = parse_contestants(list(_CONTESTANTS.value or []), taken=OWN_NAMES)
        from rats_jax.parallel.environment import open_environment

        open_environment()
        from rats_jax.evaluation import evaluate as evaluating
        from rats_jax.files import new_folder
        from rats_jax.parallel.cores import use_cores_as_devices

        use_cores_as_devices([_BATCH_SIZE.value or 1])
        with new_folder(out, field="out") as folder:
            evaluating.evaluate(
                workdir,
                folder,
                step=_STEP.value,
                num_steps=steps,
                num_prompts=_NUM_PROMPTS.value or 1,
                num_seeds=_SEEDS.value or 1,
                prompts=_PROMPTS.value or "",
                others=others,
                seed=_SEED.value or 0,
                batch_size=_BATCH_SIZE.value or 1,
                dtype=str(_DTYPE.value),
                command=shlex.join(["python", *sys.orig_argv[1:]]),
                say=show,
                vbench=bool(_VBENCH.value),
            )
        show(str(out / "report.html"))


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
