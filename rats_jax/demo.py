"""Show a trained student in a browser, beside its teacher and the untrained model.

    python -m rats_jax.demo --model=runs/emoji

The page has prompt, seed, steps and guidance; all models draw from the same noise, with rewards, network
evaluations and milliseconds under each, and the run's sheets and curves below. --model also takes a folder or
hub id of a diffusers pipeline, an exported student among them, which then draws alone and without rewards.
Needs the package gradio (pip install 'rats_jax[demo]') and no network.
"""

from __future__ import annotations

from absl import app, flags, logging

from rats_jax.config.flags import errors_in_a_line, parse_flags
from rats_jax.paths import find_model
from rats_jax.texts import show

_MODEL = flags.DEFINE_string("model", None, "Work directory, pipeline folder or hub id.", required=True)
_STEP = flags.DEFINE_integer("step", None, "Checkpoint of a run; without it the newest.", lower_bound=0)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "What the networks compute in.")
_HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to listen on; 0.0.0.0 lets other machines in.")
_PORT = flags.DEFINE_integer("port", 7860, "Port to listen on.", lower_bound=1, upper_bound=65535)


def main(_: list[str]) -> None:
    """Check the input and serve; the slow imports wait until the input is known to be good."""
    logging.set_verbosity(logging.WARNING)
    with errors_in_a_line():
        find_model(str(_MODEL.value), "model")
        from rats_jax.demonstration.page import expect_gradio

        expect_gradio()
        from rats_jax.parallel.environment import open_environment

        open_environment()
        from rats_jax.demonstration.serve import serve

        serve(
            str(_MODEL.value),
            step=_STEP.value,
            dtype=str(_DTYPE.value),
            host=str(_HOST.value),
            port=_PORT.value or 1,
            say=show,
        )


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
