"""Build the text-to-emoji pipeline and its rewards from scratch; see configs/emoji_pretrain.py."""

from __future__ import annotations

from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "Pretraining configuration.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the finished folders go; what is there is kept.")
_STAGES = flags.DEFINE_list(
    "stages", ["vae", "pipeline", "reward", "heldout_reward", "prompts", "samples", "check"], "Stages to run."
)


def main(argv: list[str]) -> None:
    """Run the stages that are asked for and not yet done."""
    del argv
    from rats_jax.pretraining.stages import STAGES

    logging.set_verbosity(logging.INFO)
    for name in _STAGES.value or ():
        if name not in STAGES:
            raise app.UsageError(f"--stages={name}: expected any of {', '.join(STAGES)}")
        STAGES[name](_CONFIG.value, Path(str(_WORKDIR.value)))


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main)
