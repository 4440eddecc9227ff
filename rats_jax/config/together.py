"""Rules between the fields of a training config, and the check of a whole one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rats_jax.config.fields import MONITOR_RULES, REWARD_RULES, RULES, flatten
from rats_jax.errors import expect, expect_known
from rats_jax.paths import expect_model, expect_prompts, expect_workdir, is_hub_id, kind_of, resolve_path


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
        expect_known(field, rules, field, value, "no such field")
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
    base = flat["lora.base_dtype"]
    check(
        "lora.base_dtype", not base or flat["lora.rank"] > 0, "'' while lora.rank=0: all weights are trained"
    )
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

    field = "reward_loss.kind"
    no_margin = flat[field] != "hinge" or not flat["normalise_rewards"]
    check(field, no_margin, "'negative' while normalise_rewards=True: a margin in deviations would move")
    field, every = "stop_on_hacking", "samples.every"
    check(
        field, not flat[field] or flat[every] > 0, "False while samples.every=0: no sheets, nothing to watch"
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
    known = kind_of(resolve_path(path, "pretrained")) == "folder" or is_hub_id(path)
    expect(known, "pretrained", path, "an existing folder, or a hub id 'owner/name'")
    for field, reward in _all_rewards(config).items():
        if reward["path"]:  # else the published weights
            expect_model(reward["path"], f"{field}.path")
    for field in ("prompts", "heldout_prompts"):
        expect_prompts(config[field] or None, field)
    for field, kind in (("reference", "file"), ("prompt_embeds", "folder")):
        path = config[field]
        expect(not path or kind_of(resolve_path(path, field)) == kind, field, path, f"an existing {kind}")
    if config["teacher"]["targets"]:
        expect_workdir(config["teacher"]["targets"], "teacher.targets")
