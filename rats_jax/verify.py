"""Verify that a model computes what PyTorch's original computes.

    python -m rats_jax.verify --model=black-forest-labs/FLUX.1-dev --dtype=bfloat16
    python -m rats_jax.verify --reward=pickscore --reward=hpsv2.1=PATH

PyTorch's networks and ours run on the same inputs: text encoders, the network at three levels of noise, the
decoder, a sample of 4 steps; of a reward its scores and their gradient. It prints a table to post, and exits
with 1 if a difference is beyond its tolerance. PyTorch's packages: pip install 'rats_jax[verify]'.
"""

from __future__ import annotations

import os

from absl import app, flags, logging

from rats_jax.config.flags import errors_in_a_line, parse_flags, parse_rewards
from rats_jax.errors import expect
from rats_jax.paths import find_model
from rats_jax.texts import show

_MODEL = flags.DEFINE_string("model", None, "Pipeline folder or hub id.")
_REWARDS = flags.DEFINE_multi_string(
    "reward", [], "KIND or KIND=PATH of a reward; give the flag several times for several."
)
_ORIGINAL = flags.DEFINE_string(
    "original", None, "Pipeline folder or hub id that PyTorch opens, if it is not that of --model."
)
_DTYPE = flags.DEFINE_enum(
    "dtype", "float32", ["float32", "bfloat16"], "Weights and computation of the model, on both sides."
)
_DEVICE = flags.DEFINE_enum(
    "device", "cpu", ["cpu", "cuda"], "Of PyTorch; jax has its own, see JAX_PLATFORMS."
)
_HEIGHT = flags.DEFINE_integer("height", 0, "Of the pictures, pixels; 0 is the model's own.", lower_bound=0)
_WIDTH = flags.DEFINE_integer("width", 0, "As --height.", lower_bound=0)
_NUM_FRAMES = flags.DEFINE_integer("num-frames", 0, "Of videos; 0 as for --height.", lower_bound=0)
_MAX_SEQUENCE_LENGTH = flags.DEFINE_integer(
    "max-sequence-length", 0, "Tokens of a prompt that a T5 encoder reads; 0 as for --height.", lower_bound=0
)


def main(_: list[str]) -> None:
    """Check the input, compare, print; the slow imports wait until the input is known to be good."""
    logging.set_verbosity(logging.ERROR)  # that a prompt is cut is part of the comparison
    with errors_in_a_line():
        model, original = _MODEL.value, _ORIGINAL.value
        for flag, path in (("model", model), ("original", original)):
            if path is not None:
                find_model(path, flag)
        rewards = parse_rewards(_REWARDS.value or [])
        expect(model is not None or bool(rewards), "model", model, "a pipeline to verify, or a --reward")
        expect(original is None or model is not None, "original", original, "none without --model")
        os.environ["USE_TORCH"] = "1"  # which transformers leaves out in every other command
        # PyTorch may need the memory of the same GPU, before and after.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        from rats_jax.parallel.environment import check_devices, check_variables

        check_variables()
        from rats_jax.verification.pytorch import import_packages
        from rats_jax.verification.rewards import expect_original

        for kind in rewards:
            expect_original(kind)
        import_packages(str(_DEVICE.value))
        check_devices()
        from rats_jax.parallel.cache import keep_compiled
        from rats_jax.pipelines.base import Options
        from rats_jax.verification.report import expect_all, verify

        keep_compiled()
        options = Options(
            height=_HEIGHT.value or 0,
            width=_WIDTH.value or 0,
            num_frames=_NUM_FRAMES.value or 0,
            max_sequence_length=_MAX_SEQUENCE_LENGTH.value or 0,
        )
        kinds = {"dtype": str(_DTYPE.value), "device": str(_DEVICE.value)}
        report, checks = verify(model, rewards, original=original, options=options, **kinds)
        show(report)
        expect_all(checks)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
