"""Export the student of a run for use without this package.

    python -m rats_jax.export --workdir=runs/emoji --out=student [--format=diffusers]

  diffusers  a pipeline folder that PyTorch's DiffusionPipeline.from_pretrained opens
  flax       a folder that FlaxStableDiffusionPipeline.from_pretrained opens (diffusers until 0.39)
  lora       the adapters of a run with lora.rank > 0, for load_lora_weights and for ComfyUI
  jax        a StableHLO program with its weights, for any JAX

What was written is read back and draws a picture; nothing stays if it is not the student's. With
--push=OWNER/NAME it is sent to the Hugging Face hub, too, and all commands open it by that id.
"""

from __future__ import annotations

from absl import app, flags, logging

from rats_jax.config.flags import errors_in_a_line, parse_flags
from rats_jax.errors import expect
from rats_jax.paths import find_model, kind_of, output_folder
from rats_jax.texts import show

_WORKDIR = flags.DEFINE_string("workdir", None, "Work directory of a run.", required=True)
_OUT = flags.DEFINE_string("out", None, "Folder to write; it must not be there yet.", required=True)
_FORMAT = flags.DEFINE_enum("format", "diffusers", ["diffusers", "flax", "lora", "jax"], "What to write.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "float16", "bfloat16"], "Weights on disk.")
_STEP = flags.DEFINE_integer("step", None, "Checkpoint of the run; without it the newest.", lower_bound=0)
_PUSH = flags.DEFINE_string(
    "push", None, "Repository 'owner/name' of the Hugging Face hub to send it to, too."
)
_PUBLIC = flags.DEFINE_boolean("public", False, "Let all see a new repository; without it, it is private.")


def main(_: list[str]) -> None:
    """Check the input, write, verify; the slow imports wait until the input is known to be good."""
    logging.set_verbosity(logging.WARNING)
    with errors_in_a_line():
        out = output_folder(str(_OUT.value), "out")
        is_folder = kind_of(find_model(str(_WORKDIR.value), "workdir")) == "folder"
        expect(is_folder, "workdir", _WORKDIR.value, "the work directory of a run")
        repository = _PUSH.value
        expect(repository is not None or not _PUBLIC.value, "public", True, "--push=OWNER/NAME beside it")
        from rats_jax.parallel.environment import open_environment

        open_environment()
        import rats_jax
        from rats_jax.files import expect_room, new_folder
        from rats_jax.student import share
        from rats_jax.student.card import PLACE
        from rats_jax.student.formats import count_bytes, export_student

        address = repository and share.open_repository(repository, private=not _PUBLIC.value)
        with new_folder(out, field="out") as folder:
            dtype = str(_DTYPE.value)
            # What is written in bfloat16 is read, and drawn with, in half the memory.
            compute = "bfloat16" if dtype == "bfloat16" else "float32"
            model = rats_jax.load(str(_WORKDIR.value), step=_STEP.value, dtype=compute)
            if _FORMAT.value != "lora":
                expect_room(out, count_bytes(model, dtype), field="out", content="the weights")
            difference = export_student(
                model, folder, format=str(_FORMAT.value), dtype=dtype, place=repository or PLACE
            )
        show(f"read back, it draws the student's picture to {255 * difference:.3f}/255\n{out}")
        if repository is not None:
            share.push(repository, out, message="A few-step student, by rats_jax")
            show(str(address))


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
