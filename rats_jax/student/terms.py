"""The licence of a base model, as the model card beside it says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub import metadata_load

from rats_jax.errors import ConfigError, reason_of
from rats_jax.paths import is_hub_id
from rats_jax.weights.hub import find_file

_FIELDS = ("license", "license_name", "license_link")


def find_terms(source: str) -> dict[str, Any]:
    """Find what the model card of a pipeline says of its licence.

    Args:
        source: folder or hub id; a link that is relative to a hub id is made whole.

    Returns:
        Those of `license`, `license_name` and `license_link` that it has, in this order.

    Raises:
        ConfigError: the card's head is no YAML.
    """
    card = find_file(source, "README.md")
    try:
        head = (metadata_load(card) if card else None) or {}
    except Exception as error:  # of the YAML's reader
        raise ConfigError(
            f"'{card}': expected YAML between its first lines of --- ({reason_of(error)})"
        ) from None
    terms = {field: head[field] for field in _FIELDS if head.get(field)}
    link = str(terms.get("license_link", ""))
    if link and "://" not in link and is_hub_id(source):
        name, _, revision = source.partition("@")
        terms["license_link"] = f"https://huggingface.co/{name}/blob/{revision or 'main'}/{link.lstrip('./')}"
    return terms


def describe_terms(terms: Mapping[str, Any]) -> str:
    """Name a licence in a sentence: its own name where it has one; empty if there is none."""
    licence = terms.get("license_name") or terms.get("license") or ""
    name = ", ".join(map(str, licence)) if isinstance(licence, list) else str(licence)
    return f"[{name}]({terms['license_link']})" if name and "license_link" in terms else name
