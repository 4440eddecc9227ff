"""The config as it is kept beside a run, and what may change when the run is resumed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from rats_jax.config.fields import RULES, flatten
from rats_jax.errors import ConfigError, reason_of
from rats_jax.texts import parse_object, read_text

FILE = "config.json"
"""Its name in the work directory."""
_MAY_CHANGE = (
    *(
        "num_updates",
        "log_every",
        "loggers",
        "checkpoint.",
        "samples.",
        "hacking_patience",
        "stop_on_hacking",
    ),
    *("mesh.", "sharding", "teacher.targets"),
)
_SHOWN = 5
_ADDED = {
    "height": 0,
    "width": 0,
    "num_frames": 0,
    "flow_shift": 0.0,
    "negative_prompt": "",
    "num_decoded_latents": 0,
    "reward_frames": 0,
    "max_sequence_length": 0,
    "heldout_prompts": "",
    "loggers": ("tensorboard",),
    "gate": {"gap": "sample"},
    "student": {"ema_decay": 0.0},
    "lora": {"base_dtype": ""},
}
"""Fields that came later, with what the runs before them did."""


def to_dict(config: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a config (ConfigDict or nested dict) into dicts, lists and scalars, as JSON gives them back."""
    return json.loads(to_json(config))


def to_json(config: Mapping[str, Any]) -> str:
    """Write a config as JSON text, fields sorted, tuples as lists."""
    return json.dumps(_plain(config), indent=2, sort_keys=True) + "\n"


def from_json(text: str) -> dict[str, Any]:
    """Read back what `to_json` wrote; lists become tuples again, fields that came later are there.

    Raises:
        ValueError: it is no JSON object.
    """
    return with_added(_tuples(parse_object(text)))


def read(file: epath.Path) -> dict[str, Any]:
    """Read the config of a run.

    Raises:
        ConfigError: the file is damaged or cannot be read.
    """
    try:
        return from_json(read_text(file))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"{str(file)!r}: expected the config of a run as JSON ({reason_of(error)})"
        ) from None


def check_fields(config: Mapping[str, Any], fields: Iterable[str]) -> None:
    """Refuse the config of another program.

    Args:
        config: a saved one.
        fields: that are wanted of it, by dotted name.

    Raises:
        ValueError: one is not there, or not right.
    """
    flat = flatten(config)
    for field in fields:
        if field not in flat:
            raise ValueError(f"expected the config of a run, which has {field!r}")
        rule = RULES[field]
        if not rule.holds(flat[field]):
            raise ValueError(f"{field}={flat[field]!r}: expected {rule.expected}")


def with_added(saved: Mapping[str, Any], added: Mapping[str, Any] = _ADDED) -> dict[str, Any]:
    """Complete a saved config with the fields that came later."""
    complete = dict(saved)
    for name, value in added.items():
        if isinstance(value, Mapping):
            complete[name] = with_added(complete.get(name, {}), value)
        else:
            complete.setdefault(name, value)
    return complete


def config_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """List the fields in which two configs differ and which must not change when a run is resumed.

    Args:
        old: the config of the run so far, ConfigDict or nested dict; lists and tuples are the same.
        new: the config it would go on with.

    Returns:
        Sorted texts 'field: old -> new', where '(none)' stands for a field that one side lacks.
    """
    before, after = (flatten(with_added(to_dict(config))) for config in (old, new))
    fields = [field for field in sorted(before.keys() | after.keys()) if not field.startswith(_MAY_CHANGE)]
    shown = [(field, _shown(before, field), _shown(after, field)) for field in fields]
    return [f"{field}: {was} -> {becomes}" for field, was, becomes in shown if was != becomes]


def validate_resume(old: Mapping[str, Any], new: Mapping[str, Any], *, workdir: str) -> None:
    """Refuse to go on with a run whose config was another one.

    Args:
        old: the config saved in the workdir.
        new: the config of this command.
        workdir: its path, for the message.

    Raises:
        ConfigError: one line with up to five of the fields that differ, old -> new.
    """
    difference = config_difference(old, new)
    if difference:
        more = f"; and {len(difference) - _SHOWN} more" if len(difference) > _SHOWN else ""
        raise ConfigError(
            f"workdir={workdir!r} holds a run with another config ({'; '.join(difference[:_SHOWN])}{more}): "
            "expected the same config, or an empty workdir"
        )


def _shown(flat: Mapping[str, Any], field: str) -> str:
    return repr(flat[field]) if field in flat else "(none)"


def _plain(config: Any) -> Any:
    return {key: _plain(value) for key, value in config.items()} if hasattr(config, "items") else config


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
