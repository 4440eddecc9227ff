"""Post-train a few-step student.

    python -m rats_jax.main --config=configs/emoji_cpu.py --workdir=runs/emoji

The same command with the same --workdir goes on where it stopped.
"""

import gc

from absl import app, flags, logging

from rats_jax.config.flags import define_config, errors_in_a_line, parse_flags
from rats_jax.config.together import validate, validate_paths
from rats_jax.paths import expect_workdir

_CONFIG = define_config()
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of the run: logs, samples, checkpoints. One that holds a run resumes it.",
    required=True,
)


def main(_: list[str]) -> None:
    """Check the input, then train; the slow imports wait until the input is known to be good."""
    logging.set_verbosity(logging.WARNING)  # Orbax reports every file at INFO
    with errors_in_a_line():
        validate(_CONFIG.value)
        validate_paths(_CONFIG.value)
        expect_workdir(_WORKDIR.value, "workdir")
        from rats_jax.parallel.environment import check_devices, check_variables

        gc.disable()  # what imports make stays
        check_variables()
        from rats_jax.parallel import processes as distributed
        from rats_jax.parallel.cache import keep_compiled
        from rats_jax.parallel.cores import use_cores_of
        from rats_jax.training.loop import train_and_evaluate

        gc.freeze()
        gc.enable()
        keep_compiled()
        distributed.initialize()
        with distributed.ending_alone():
            check_devices()
            use_cores_of(_CONFIG.value)
            train_and_evaluate(_CONFIG.value, _WORKDIR.value)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
