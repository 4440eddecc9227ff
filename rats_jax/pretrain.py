"""Build an embedded model and its rewards from scratch.

    python -m rats_jax.pretrain --config=configs/emoji_pretrain.py --workdir=runs/emoji_pretrain

configs/scenes_pretrain.py and configs/clips_pretrain.py build the others.
"""

from __future__ import annotations

import time

from absl import app, flags, logging

from rats_jax.config.flags import define_config, errors_in_a_line, parse_flags
from rats_jax.errors import expect
from rats_jax.paths import expect_workdir, local_path

_CONFIG = define_config()
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where the finished folders go; what is there is kept.", required=True
)
_STAGES = flags.DEFINE_list("stages", [], "Stages to run; empty is all that the config has, in their order.")


def main(_: list[str]) -> None:
    """Run the stages that are asked for and not yet done."""
    logging.set_verbosity(logging.WARNING)
    with errors_in_a_line():
        workdir = local_path(str(_WORKDIR.value), "workdir")
        expect_workdir(str(_WORKDIR.value), "workdir")
        from rats_jax.parallel.environment import open_environment

        open_environment()
        from rats_jax.pretraining import clips_stages, emoji_stages, scenes_stages
        from rats_jax.workdir.lock import locked

        logging.set_verbosity(logging.INFO)
        worlds = {"emoji": emoji_stages.STAGES, "scenes": scenes_stages.STAGES, "clips": clips_stages.STAGES}
        world = _CONFIG.value.get("world")
        expect(world in worlds, "world", world, f"one of {', '.join(worlds)}")
        stages = worlds[world]
        names = list(_STAGES.value or stages)
        for name in names:
            expect(
                name in stages and names.count(name) == 1, "stages", name, f"each of {', '.join(stages)} once"
            )
        workdir.mkdir(parents=True, exist_ok=True)
        with locked(str(workdir), writes=True):
            for name in names:
                start = time.perf_counter()
                stages[name](_CONFIG.value, workdir)
                logging.info("stage %s took %.1f minutes", name, (time.perf_counter() - start) / 60)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
