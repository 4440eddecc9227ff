"""Rules of the fields of a training config: what each may hold, by itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rats_jax.parallel.rules import parse_rule


class Rule(NamedTuple):
    """When a single value is right, and how to say so."""

    holds: Callable[[Any], bool]
    expected: str


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_int(value) or isinstance(value, float)


def _integer(low: int, high: float = float("inf")) -> Rule:
    span = f">= {low}" if high == float("inf") else f"from {low} to {high}"
    return Rule(lambda value: _is_int(value) and low <= value <= high, f"an integer {span}")


def _number(holds: Callable[[float], bool], span: str) -> Rule:
    return Rule(
        lambda value: _is_number(value) and abs(value) < float("inf") and holds(value), f"a number {span}"
    )


def _one_of(*choices: str) -> Rule:
    return Rule(lambda value: value in choices, "one of " + ", ".join(map(repr, choices)))


_SEED = _integer(0, 2**32 - 1)
_COUNT = _integer(1)
_DEVICES = Rule(lambda value: _is_int(value) and (value >= 1 or value == -1), "a number of devices, or -1")
_FLAG = Rule(lambda value: isinstance(value, bool), "True or False")
_TEXT = Rule(lambda value: isinstance(value, str), "a text")
_NOT_EMPTY = Rule(
    lambda value: isinstance(value, str) and value.strip() != "", "a path or name that is not empty"
)
_NOT_NEGATIVE = _number(lambda value: value >= 0, ">= 0")
_POSITIVE = _number(lambda value: value > 0, "> 0")
_GUIDANCE = _number(lambda value: value >= 1, ">= 1 (1 is no guidance)")
_FRACTION = _number(lambda value: 0 <= value <= 1, "from 0 to 1")
_DECAY = _number(lambda value: 0 <= value < 1, "from 0 to below 1")
_SPACING = _one_of("", "leading", "linspace", "trailing")
_ANY_NUMBER = _number(lambda value: True, "that is finite")
_DTYPE = _one_of("float32", "bfloat16")


def _is_sharding(value: Any) -> bool:
    """Tell whether a value is a list of (regular expression, rule)."""
    try:
        for pattern, rule in value:
            re.compile(pattern)
            parse_rule(rule)
        return isinstance(value, tuple | list)
    except (TypeError, ValueError, AttributeError, re.error):
        return False


_SHARDING = Rule(
    _is_sharding,
    "pairs of a regular expression and 'copy', 'largest' or mesh axes as in 'fsdp tensor'",
)
_EXPRESSION = Rule(
    lambda value: isinstance(value, str) and _is_sharding([(value, "copy")]), "a regular expression"
)
_WEIGHTS = Rule(
    lambda value: (
        isinstance(value, tuple | list) and all(map(_NOT_NEGATIVE.holds, value)) and sum(value or (1,)) > 0
    ),
    "() or numbers >= 0 of which one is > 0",
)

LOGGERS = ("tensorboard", "wandb", "trackio")
"""What a run can be logged to beside its own files."""
_LOGGERS = Rule(
    lambda value: (
        isinstance(value, tuple | list)
        and all(name in LOGGERS for name in value)
        and len(set(value)) == len(value)
    ),
    f"() or some of {', '.join(map(repr, LOGGERS))}, each once, as in --config.loggers=tensorboard "
    "--config.loggers=wandb",
)

RULES: Mapping[str, Rule] = {
    "seed": _SEED,
    "num_updates": _COUNT,
    "batch_size": _COUNT,
    "log_every": _COUNT,
    "loggers": _LOGGERS,
    "pretrained": _NOT_EMPTY,
    "height": _integer(0),
    "width": _integer(0),
    "num_frames": _integer(0),
    "flow_shift": _NOT_NEGATIVE,
    "negative_prompt": _TEXT,
    "num_decoded_latents": _integer(0),
    "reward_frames": _integer(0),
    "max_sequence_length": _integer(0),
    "prompts": _NOT_EMPTY,
    "prompt_embeds": _TEXT,
    "sampler": _one_of("ddim", "euler"),
    "student.num_steps": _COUNT,
    "student.guidance_scale": _GUIDANCE,
    "student.timestep_spacing": _SPACING,
    "student.reward_gradient_steps": _COUNT,
    "student.unroll": _FLAG,
    "student.ema_decay": _DECAY,
    "student.remat": _one_of("none", "matmuls", "step"),
    "teacher.num_steps": _COUNT,
    "teacher.guidance_scale": _GUIDANCE,
    "teacher.timestep_spacing": _SPACING,
    "teacher.sampler": _one_of("", "ddim", "euler", "dpmpp_2m"),
    "teacher.ema_decay": _FRACTION,
    "teacher.mixed_guidance_reason": _TEXT,
    "teacher.targets": _TEXT,
    "teacher.ema_every": _integer(1),
    "teacher.reuse_after": _integer(0),
    "horizon.interpolation": _one_of("linear", "nearest"),
    "horizon.weights": _WEIGHTS,
    "gate.kind": _one_of("sigmoid", "hard", "constant"),
    "gate.temperature": _POSITIVE,
    "gate.gap": _one_of("sample", "mean"),
    "gate.reward": _TEXT,
    "gate.relative": _FLAG,
    "gate.std_decay": _DECAY,
    "gate.value": _FRACTION,
    "reward_weight": _NOT_NEGATIVE,
    "shaping_weight": _NOT_NEGATIVE,
    "reward_loss.kind": _one_of("negative", "hinge"),
    "reward_loss.margin": _ANY_NUMBER,
    "normalise_rewards": _FLAG,
    "heldout_reward": _TEXT,
    "heldout_prompts": _TEXT,
    "hacking_patience": _COUNT,
    "stop_on_hacking": _FLAG,
    "reference": _TEXT,
    "optimizer.learning_rate": _POSITIVE,
    "optimizer.warmup_updates": _integer(0),
    "optimizer.decay_updates": _integer(0),
    "optimizer.clip_norm": _POSITIVE,
    "optimizer.b1": _DECAY,
    "optimizer.b2": _DECAY,
    "optimizer.weight_decay": _NOT_NEGATIVE,
    "optimizer.accumulation_steps": _COUNT,
    "lora.rank": _integer(0),
    "lora.alpha": _POSITIVE,
    "lora.targets": _EXPRESSION,
    "lora.base_dtype": _one_of("", "int8"),
    "compute_dtype": _DTYPE,
    "frozen_dtype": _DTYPE,
    "decoder_parts": _COUNT,
    "reward_parts": _COUNT,
    "checkpoint.every": _COUNT,
    "checkpoint.keep": _COUNT,
    "samples.every": _integer(0),
    "samples.num": _COUNT,
    "evaluation.num_prompts": _integer(0),
    "evaluation.batch_size": _COUNT,
    "evaluation.seed": _SEED,
    "mesh.data": _DEVICES,
    "mesh.fsdp": _DEVICES,
    "mesh.tensor": _DEVICES,
    "mesh.dcn_data": _DEVICES,
    "mesh.dcn_fsdp": _DEVICES,
    "mesh.dcn_tensor": _DEVICES,
    "sharding": _SHARDING,
}
"""The rule of every field but the rewards, by dotted name."""

MONITOR_RULES: Mapping[str, Rule] = {"kind": _NOT_EMPTY, "path": _TEXT}
"""The rules of monitor.<name>.<field>; without a path the published weights are meant, or none."""

REWARD_RULES: Mapping[str, Rule] = {**MONITOR_RULES, "weight": _POSITIVE}
"""The rules of rewards.<name>.<field>."""


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """List the values of a nested config by dotted field name; an empty section appears as itself."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) or hasattr(value, "items"):
            flat.update(flatten(value, f"{prefix}{key}.") or {f"{prefix}{key}": {}})
        else:
            flat[prefix + key] = value
    return flat
