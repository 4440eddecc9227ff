"""Score pictures with rewards.

    python -m rats_jax.score --reward=pickscore --images=DIR --prompts=FILE

The rewards are the functions that training uses. Several at once, with weights from a folder or a hub id:

    python -m rats_jax.score --reward=hpsv2.1 --reward=pickscore=PATH --images=DIR --prompts=FILE
"""

from __future__ import annotations

import json

from absl import app, flags, logging

from rats_jax.config.flags import errors_in_a_line, fail, parse_flags, parse_rewards
from rats_jax.errors import ConfigError, expect
from rats_jax.files import naming_disk, write_whole
from rats_jax.paths import output_file, resolve_path
from rats_jax.texts import show

_REWARDS = flags.DEFINE_multi_string(
    "reward",
    None,
    "KIND or KIND=PATH of a reward, or FILE.py:NAME of your own; give the flag several times for several.",
    required=True,
)
_IMAGES = flags.DEFINE_string("images", None, "Folder of pictures.", required=True)
_PROMPTS = flags.DEFINE_string(
    "prompts",
    None,
    "Text file: a prompt per line, for the pictures in the order of their names, or one line for all; or "
    ".jsonl, .ndjson, .json, .csv or .tsv with `file_name` and `prompt` (or `text`, `caption`) in each row.",
    required=True,
)
_OUT = flags.DEFINE_string("out", "scores.json", "JSON file to write.")
_BATCH_SIZE = flags.DEFINE_integer("batch-size", 8, "Pictures scored at once.", lower_bound=1)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Compute dtype of the towers.")


def main(_: list[str]) -> None:
    """Check the input, score, write and print."""
    logging.set_verbosity(logging.WARNING)
    with errors_in_a_line():
        paths = parse_rewards(_REWARDS.value or [])
        out = output_file(str(_OUT.value), "out")
        images = resolve_path(str(_IMAGES.value), "images")
        prompts = resolve_path(str(_PROMPTS.value), "prompts")
        from rats_jax.parallel.environment import check_devices, check_variables

        check_variables()
        from rats_jax.data.pairs import read_pairs

        pairs = read_pairs(images, prompts)
        check_devices()
        from rats_jax.evaluation.score import format_scores, score_pairs, summarise
        from rats_jax.rewards import find_reward

        found = {kind: find_reward(kind, "reward") for kind in paths}
        for kind, reward in found.items():
            expect(not reward.of_videos, "reward", kind, "a reward of pictures, this one is of videos")
        rewards = {kind: found[kind].load(path, dtype=str(_DTYPE.value)) for kind, path in paths.items()}
        scores = score_pairs(rewards, pairs, batch_size=_BATCH_SIZE.value)
        summary = summarise(pairs, scores, paths)
        show(f"{format_scores(pairs, scores)}\n")  # then a full disk takes nothing
        with naming_disk(out, field="out", kind="file", at=out.parent):
            write_whole(out, json.dumps(summary, indent=2, allow_nan=False) + "\n")
        show(str(out))
        bad = [f"{kind} of {file!r}" for kind, files in summary["not_finite"].items() for file in files]
        if bad:
            fail(ConfigError(f"{len(bad)} scores are not finite: {', '.join(bad[:4])}; null in {out}"))


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
