"""What a training config may hold: the rule of every field, the rules between fields, and its paths."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from rats_jax.errors import expect, suggestion
from rats_jax.parallel.rules import parse_rule
from rats_jax.paths import is_hub_id, resolve_path


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

RULES: Mapping[str, Rule] = {
    "seed": _SEED,
    "num_updates": _COUNT,
    "batch_size": _COUNT,
    "log_every": _COUNT,
    "pretrained": _NOT_EMPTY,
    "prompts": _NOT_EMPTY,
    "prompt_embeds": _TEXT,
    "sampler": _one_of("ddim", "euler"),
    "student.num_steps": _COUNT,
    "student.guidance_scale": _GUIDANCE,
    "student.timestep_spacing": _SPACING,
    "student.reward_gradient_steps": _COUNT,
    "student.unroll": _FLAG,
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


def validate(config: Mapping[str, Any]) -> None:
    """Check all that can be known from the config alone.

    Args:
        config: ConfigDict or nested dict with the fields of configs/default.py.

    Raises:
        ConfigError: one line that names the field, its value and what was expected.
    """
    flat = flatten(config)
    rewards = flat.pop("rewards", None)
    expect(rewards is None, "rewards", rewards, "at least one reward, by name")
    flat.pop("monitor", None)  # an empty section: nothing is monitored
    rules, names = dict(RULES), {}
    for section, fields in (("rewards", REWARD_RULES), ("monitor", MONITOR_RULES)):
        names[section] = list(dict.fromkeys(f.split(".")[1] for f in flat if f.startswith(f"{section}.")))
        rules |= {f"{section}.{name}.{f}": rule for name in names[section] for f, rule in fields.items()}
    for field, value in flat.items():
        expect(field in rules, field, value, "no such field" + suggestion(field, rules))
    for field, rule in rules.items():
        expect(field in flat, field, None, rule.expected)
        expect(rule.holds(flat[field]), field, flat[field], rule.expected)
    expect(bool(names["rewards"]), "rewards", {}, "at least one reward, by name")
    for section, field in (("rewards", "gate.reward"), ("monitor", "heldout_reward")):
        known = ", ".join(map(repr, names[section])) or "there is none"
        expected = f"'' or the name of a reward in `{section}` ({known})"
        expect(flat[field] == "" or flat[field] in names[section], field, flat[field], expected)
    for name in names["monitor"]:
        expect(
            name not in names["rewards"], f"monitor.{name}", name, "a name that no reward in `rewards` has"
        )
    _validate_together(flat)


def _validate_together(flat: Mapping[str, Any]) -> None:
    """Check the rules that span several fields, each of which is right by itself."""

    def check(field: str, holds: bool, expected: str) -> None:
        expect(holds, field, flat[field], expected)

    steps = flat["student.num_steps"]
    limit = flat["teacher.num_steps"]
    check("student.num_steps", steps <= limit, f"at most teacher.num_steps={limit}")
    field = "student.reward_gradient_steps"
    check(field, flat[field] <= steps, f"from 1 to student.num_steps={steps}")
    weights = len(flat["horizon.weights"])
    check(
        "horizon.weights", weights in (0, steps), f"one weight for each of student.num_steps={steps}, or ()"
    )

    scales = flat["teacher.guidance_scale"], flat["student.guidance_scale"]
    allowed = (
        flat["teacher.ema_decay"] == 1
        or scales[0] == scales[1]
        or flat["teacher.mixed_guidance_reason"].strip()
    )
    check(
        "teacher.ema_decay",
        bool(allowed),
        f"1 while teacher.guidance_scale={scales[0]} and student.guidance_scale={scales[1]} differ "
        "(a moving teacher would mix both), or a teacher.mixed_guidance_reason",
    )
    if flat["teacher.ema_decay"] < 1:
        field, every = "teacher.reuse_after", flat["teacher.ema_every"]
        teaches = "a teacher that moves teaches anew"
        check("teacher.targets", not flat["teacher.targets"], f"'' while teacher.ema_decay < 1: {teaches}")
        divides = flat[field] == 0 or every % flat[field] == 0
        check(field, divides, f"0, or a divisor of teacher.ema_every={every}: {teaches}")
    shaping = flat["shaping_weight"] > 0 and not (flat["gate.kind"] == "constant" and flat["gate.value"] == 0)
    check(
        "reward_weight",
        flat["reward_weight"] > 0 or shaping,
        "> 0 while the shaping loss is off, else nothing is trained",
    )

    field, updates = "optimizer.decay_updates", flat["num_updates"]
    check(field, flat[field] == 0 or flat[field] >= updates, f"0, or at least num_updates={updates}")
    parts = flat["optimizer.accumulation_steps"]
    check(
        "batch_size", flat["batch_size"] % parts == 0, f"a multiple of optimizer.accumulation_steps={parts}"
    )
    for prefix in ("", "dcn_"):
        fields = [f"mesh.{prefix}{axis}" for axis in ("data", "fsdp", "tensor")]
        left = [field for field in fields if flat[field] == -1]
        for field in left[1:]:
            check(field, False, f"a number of devices while {left[0]}=-1 (only one can be what is left)")
    ways = 1
    for axis in ("data", "fsdp"):
        ways *= max(flat[f"mesh.{axis}"], 1) * max(flat[f"mesh.dcn_{axis}"], 1)
    for field, batch in (
        ("batch_size", flat["batch_size"] // parts),
        ("evaluation.batch_size", flat["evaluation.batch_size"]),
    ):
        split = " in each accumulation step" if field == "batch_size" and parts > 1 else ""
        check(field, batch % ways == 0, f"a multiple of the {ways} devices of the mesh{split}")
        for name in ("decoder_parts", "reward_parts"):
            times = flat[name]
            expected = f"a multiple of {name}={times} times the {ways} devices of the mesh{split}"
            check(field, batch % (ways * times) == 0, expected)


def validate_reward_kinds(config: Mapping[str, Any], kinds: Collection[str]) -> None:
    """Check that every reward of the config is of a known kind.

    Args:
        config: a config that `validate` accepts.
        kinds: the names of the rewards that exist.

    Raises:
        ConfigError: names the first unknown kind, and the kinds that exist.
    """
    for field, reward in _all_rewards(config).items():
        known = f"one of {', '.join(sorted(kinds))}"
        expect(reward["kind"] in kinds, f"{field}.kind", reward["kind"], known)


def _all_rewards(config: Mapping[str, Any]) -> dict[str, Any]:
    """List trained and monitored rewards by dotted field name."""
    return {f"{section}.{n}": r for section in ("rewards", "monitor") for n, r in config[section].items()}


def validate_paths(config: Mapping[str, Any]) -> None:
    """Check that the files and folders that a config names exist, before anything slow is imported.

    Args:
        config: a config that `validate` accepts.

    Raises:
        ConfigError: names the field and the path that is missing.
    """
    path = config["pretrained"]
    known = resolve_path(path).is_dir() or is_hub_id(path)
    expect(known, "pretrained", path, "an existing folder, or a hub id 'owner/name'")
    for field, reward in _all_rewards(config).items():
        known = reward["path"] == "" or resolve_path(reward["path"]).exists() or is_hub_id(reward["path"])
        expected = "an existing folder or file, a hub id 'owner/name', or '' for the published weights"
        expect(known, f"{field}.path", reward["path"], expected)
    for field in ("prompts", "reference"):
        path = config[field]
        elsewhere = path == "" or (field == "prompts" and path.startswith("tfds:"))
        expect(elsewhere or resolve_path(path).is_file(), field, path, "an existing file")
