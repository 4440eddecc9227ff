"""Compute the prompt embeddings of a config once.

    python -m rats_jax.embed --config=FILE --out=DIR

A run with --config.prompt_embeds=DIR then needs no text encoder in device memory. Those of the config's
heldout_prompts are computed as well.
"""

from __future__ import annotations

from absl import app, flags, logging

from rats_jax.config.flags import define_config, errors_in_a_line, parse_flags
from rats_jax.config.together import validate, validate_paths
from rats_jax.paths import output_folder
from rats_jax.texts import show

_CONFIG = define_config()
_OUT = flags.DEFINE_string("out", None, "Folder to write; it must not be there yet.", required=True)


def main(_: list[str]) -> None:
    """Check the input, compute, store; the slow imports wait until the input is known to be good."""
    logging.set_verbosity(logging.WARNING)
    with errors_in_a_line():
        config, out = _CONFIG.value, output_folder(str(_OUT.value), "out")
        validate(config)
        validate_paths(config)
        from rats_jax.parallel.environment import open_environment

        open_environment()
        from rats_jax.data.prompts import find_prompts
        from rats_jax.files import expect_room, format_bytes, new_folder
        from rats_jax.pipelines.open import open_pipeline, options_of
        from rats_jax.pipelines.stored_embeds import count_bytes, write_prompt_embeds

        prompts = list(find_prompts(config.prompts))
        if config.heldout_prompts:
            prompts += find_prompts(config.heldout_prompts, field="heldout_prompts")
        pipeline = open_pipeline(config.pretrained, dtype=config.compute_dtype, options=options_of(config))
        size = count_bytes(pipeline, prompts, dtype=config.frozen_dtype)
        expect_room(out, size, field="out", content="the embeddings")
        show(f"{format_bytes(size)} of embeddings will be written")
        with new_folder(out, field="out") as folder:
            count = write_prompt_embeds(
                folder, pipeline, prompts, source=config.pretrained, dtype=config.frozen_dtype
            )
        show(f"{count} prompts\n{out}")


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
