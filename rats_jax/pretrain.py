"""Build an embedded model and its rewards from scratch; see configs/emoji_pretrain.py, scenes_pretrain.py."""

from __future__ import annotations

import time
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "Pretraining configuration.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the finished folders go; what is there is kept.")
_STAGES = flags.DEFINE_list("stages", [], "Stages to run; empty is all that the config has, in their order.")


def main(argv: list[str]) -> None:
    """Run the stages that are asked for and not yet done."""
    del argv
    from rats_jax.pretraining import emoji_stages, scenes_stages

    logging.set_verbosity(logging.INFO)
    worlds = {"emoji": emoji_stages.STAGES, "scenes": scenes_stages.STAGES}
    world = _CONFIG.value.world
    if world not in worlds:
        raise app.UsageError(f"--config.world={world!r}: expected any of {', '.join(worlds)}")
    stages = worlds[world]
    names = list(_STAGES.value or stages)
    for name in names:
        if name not in stages:
            raise app.UsageError(f"--stages={name}: expected any of {', '.join(stages)}")
    for name in names:
        start = time.perf_counter()
        stages[name](_CONFIG.value, Path(str(_WORKDIR.value)))
        logging.info("stage %s took %.1f minutes", name, (time.perf_counter() - start) / 60)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main)
