"""Compare variants of a run: each with several numbers of student steps and several seeds.

    python -m rats_jax.ablate --config=configs/emoji_ablation.py --workdir=runs/ablation --jobs=2

--workdir gets a folder for each run, scores.npz with the scores of its pictures among them, and at the end
ablation.md, ablation.png and ablation.json. The same command goes on where it stopped.
"""

from __future__ import annotations

from absl import app, flags, logging

from rats_jax.config.flags import define_config, errors_in_a_line, parse_flags
from rats_jax.errors import expect
from rats_jax.paths import expect_workdir, local_path
from rats_jax.texts import show

_CONFIG = define_config()
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the comparison; one that holds it goes on.", required=True
)
_JOBS = flags.DEFINE_integer(
    "jobs", 1, "Processes that share the processor's cores; on accelerators 1.", lower_bound=1
)


def main(_: list[str]) -> None:
    """Check the input, train what is missing, compare; the slow imports wait until the input is good."""
    logging.set_verbosity(logging.WARNING)
    with errors_in_a_line():
        workdir = local_path(str(_WORKDIR.value), "workdir")
        expect_workdir(str(_WORKDIR.value), "workdir")
        from rats_jax.parallel.environment import count_cores, open_environment

        jobs, cores = _JOBS.value or 1, count_cores()
        expect(jobs <= cores, "jobs", jobs, f"at most the {cores} cores that this process may use")
        open_environment()
        from rats_jax.ablation.plan import plan
        from rats_jax.ablation.run import run_all, write
        from rats_jax.files import naming_disk

        with naming_disk(workdir, field="workdir", more=lambda: "; the same command goes on"):
            planned = plan(_CONFIG.value, workdir)
            run_all(planned, _CONFIG.value, processes=jobs, say=show)
            write(planned, _CONFIG.value, workdir, say=show)
        show(str(workdir / "ablation.md"))


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
