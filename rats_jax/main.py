"""Post-train a few-step student: `python -m rats_jax.main --config=FILE --workdir=DIR`."""

import gc

from absl import app, flags, logging
from ml_collections import config_flags

from rats_jax.config.flags import fail, parse_flags
from rats_jax.config.together import validate, validate_paths
from rats_jax.errors import ConfigError, DivergedError, HackingError, StoppedError

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file; override its fields with --config.FIELD=VALUE.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of the run: logs, samples, checkpoints. One that holds a run resumes it.",
    required=True,
)
flags.mark_flag_as_required("config")


def main(_: list[str]) -> None:
    """Check the input, then train; the slow imports wait until the input is known to be good."""
    logging.set_verbosity(logging.WARNING)  # Orbax reports every file at INFO
    try:
        validate(_CONFIG.value)
        validate_paths(_CONFIG.value)
        gc.disable()  # what imports make stays
        from rats_jax.parallel import processes as distributed
        from rats_jax.parallel.cache import keep_compiled
        from rats_jax.parallel.cores import use_cores_of
        from rats_jax.training.loop import train_and_evaluate

        gc.freeze()
        gc.enable()
        keep_compiled()
        distributed.initialize()
        use_cores_of(_CONFIG.value)
        train_and_evaluate(_CONFIG.value, _WORKDIR.value)
    except (ConfigError, DivergedError, HackingError, StoppedError) as error:
        fail(error)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
