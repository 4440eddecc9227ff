"""Draw pictures or videos with a trained student, or with any pipeline of Stable Diffusion, FLUX or Wan.

    python -m rats_jax.generate --model=runs/emoji --prompt="black cat" --num-images=8 --out=cats

The model is the work directory of a run, or a folder or hub id of a diffusers pipeline. One compilation
serves all prompts, seeds and guidance scales. --out gets a PNG for each picture, with prompt, seed, steps,
guidance and model in its metadata, a contact sheet, and prompts.jsonl for `python -m rats_jax.score`. A video
is a WebP that plays, or an MP4: --video-format=mp4; --video-format=vbench names these PROMPT-INDEX.mp4, in a
folder vbench/ of their own, where VBench finds them.
"""

from __future__ import annotations

from pathlib import Path

from absl import app, flags, logging

from rats_jax.config.flags import errors_in_a_line, parse_flags
from rats_jax.errors import expect
from rats_jax.paths import find_model, output_folder
from rats_jax.texts import show

_MODEL = flags.DEFINE_string("model", None, "Work directory, pipeline folder or hub id.", required=True)
_PROMPT = flags.DEFINE_multi_string("prompt", [], "Prompt; give the flag several times for several.")
_PROMPTS_FILE = flags.DEFINE_string(
    "prompts-file", None, "Text file, a prompt a line; or .jsonl, .ndjson, .json, .csv or .tsv."
)
_NUM_STEPS = flags.DEFINE_integer(
    "num-steps", None, "Sampling steps; without it those that the student was trained for.", lower_bound=1
)
_GUIDANCE = flags.DEFINE_float(
    "guidance-scale",
    None,
    "Guidance; 1 is none. Without it, what the student was trained for.",
    lower_bound=1,
)
_NUM_IMAGES = flags.DEFINE_integer("num-images", 1, "Pictures of each prompt.", lower_bound=1)
_SEED = flags.DEFINE_integer(
    "seed", 0, "Seed of the first picture of each prompt; the next one counts up.", lower_bound=0
)
_BATCH_SIZE = flags.DEFINE_integer("batch-size", 8, "Pictures at once, if there are as many.", lower_bound=1)
_STEP = flags.DEFINE_integer("step", None, "Checkpoint of a run; without it the newest.", lower_bound=0)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "What the networks compute in.")
_HEIGHT = flags.DEFINE_integer(
    "height", 0, "Of the pictures, pixels; 0 is the student's or the model's own.", lower_bound=0
)
_NUM_FRAMES = flags.DEFINE_integer("num-frames", 0, "Of videos; 0 as for --height.", lower_bound=0)
_WIDTH = flags.DEFINE_integer("width", 0, "As --height.", lower_bound=0)
_MAX_SEQUENCE_LENGTH = flags.DEFINE_integer(
    "max-sequence-length", 0, "Tokens of a prompt that a T5 encoder reads; 0 as for --height.", lower_bound=0
)
_VIDEO_FORMAT = flags.DEFINE_enum(
    "video-format", "webp", ["webp", "mp4", "vbench"], "Of videos; vbench is vbench/PROMPT-INDEX.mp4."
)
_OUT = flags.DEFINE_string("out", None, "Folder to write; it must not be there yet.", required=True)
_MOST_PICTURES = 100_000  # their names have five digits


def main(_: list[str]) -> None:
    """Check the input, draw, write; the slow imports wait until the input is known to be good."""
    logging.set_verbosity(logging.WARNING)
    with errors_in_a_line():
        out = output_folder(str(_OUT.value), "out")
        find_model(str(_MODEL.value), "model")
        from rats_jax.parallel.environment import check_devices, check_variables

        check_variables()
        from rats_jax.data.prompts import find_prompts
        from rats_jax.data.rows import check_prompt

        prompts = [check_prompt(prompt, f"prompt={prompt!r}") for prompt in _PROMPT.value or []]
        if _PROMPTS_FILE.value is not None:
            prompts += find_prompts(_PROMPTS_FILE.value, field="prompts-file")
        scale = _GUIDANCE.value
        expect(scale is None or scale < float("inf"), "guidance-scale", scale, "a finite number >= 1")
        video_format = str(_VIDEO_FORMAT.value)
        if video_format == "vbench":
            prompts = list(dict.fromkeys(prompts))  # its own list has two of them twice
        expect(bool(prompts), "prompt", prompts, "at least one, from --prompt or --prompts-file")
        seed, count, batch_size = _SEED.value or 0, _NUM_IMAGES.value or 1, _BATCH_SIZE.value or 1
        total = len(prompts) * count
        most = f"at most {_MOST_PICTURES} pictures in all, {total} are asked for"
        expect(total <= _MOST_PICTURES, "num-images", count, most)
        expect(seed + count <= 2**32, "seed", seed, f"seeds of {count} pictures below 2**32")
        from rats_jax.report import mp4

        mp4.expect_format(video_format, prompts, count)
        check_devices()
        import rats_jax
        from rats_jax.files import new_folder
        from rats_jax.parallel.cache import keep_compiled
        from rats_jax.parallel.cores import use_cores_as_devices
        from rats_jax.student.model import count_drawn, draw_folder

        keep_compiled()
        use_cores_as_devices([min(batch_size, total)])

        def kept(folder: Path) -> str:
            drawn = count_drawn(folder)
            return f"{drawn} of {total} pictures are kept" if drawn else ""

        with new_folder(out, field="out", kept=kept) as folder:
            model = rats_jax.load(
                str(_MODEL.value),
                step=_STEP.value,
                dtype=str(_DTYPE.value),
                height=_HEIGHT.value or 0,
                width=_WIDTH.value or 0,
                num_frames=_NUM_FRAMES.value or 0,
                max_sequence_length=_MAX_SEQUENCE_LENGTH.value or 0,
            )
            seconds = draw_folder(
                model,
                folder,
                prompts,
                seeds=range(seed, seed + count),
                num_steps=_NUM_STEPS.value,
                guidance_scale=scale,
                batch_size=batch_size,
                video_format=video_format,
            )
        show(f"{total} pictures, {total / seconds:.2f} a second\n{out}")


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
