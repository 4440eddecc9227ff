"""The file of a network's weights among those of its folder: formats, shards, variants."""

from __future__ import annotations

import re
from pathlib import Path

from rats_jax.errors import WeightsError
from rats_jax.paths import kind_of, resolve_path
from rats_jax.weights.hub import find_file, get_file, list_files, seen_beside

_ROUNDED = ("fp16", "bf16")
"""Variants that are the same weights in fewer bits; of others nobody knows what they are."""


def _names(stem: str, suffix: str, variant: str = "") -> tuple[str, str]:
    """Name a file of weights, and the index of several, as diffusers and transformers do."""
    part = f".{variant}" if variant else ""
    return f"{stem}{part}.{suffix}", f"{stem}.{suffix}.index{part}.json"


def _rounded_names(stem: str, suffix: str) -> tuple[str, ...]:
    return tuple(name for variant in _ROUNDED for name in _names(stem, suffix, variant))


_SAFE, _TORCH = ("model", "safetensors"), ("pytorch_model", "bin")
TRANSFORMERS_WEIGHTS = (*_names(*_SAFE), *_names(*_TORCH), *_rounded_names(*_SAFE), *_rounded_names(*_TORCH))
"""Names of a file of weights of transformers, in the order of preference."""


def find_weights(path: str, folder: str, *, transformers: bool) -> Path:
    """Find the weights of a network of a pipeline.

    What is there by its plain name is preferred to a variant, and safetensors to what can only be read
    whole: Flax's msgpack, PyTorch's .bin. A variant that is not `fp16` or `bf16` may be other weights, such
    as `non_ema`; it is taken where there is nothing else.

    Args:
        path: folder or hub id of the pipeline.
        folder: of the network in it.
        transformers: whether its files are called as transformers' are, or as diffusers'.

    Returns:
        *.safetensors, *.bin, the index of several such, or *.msgpack.

    Raises:
        WeightsError: there are none; says what there is. Or there are several variants.
    """
    safe = (f"{folder}/{'model' if transformers else 'diffusion_pytorch_model'}", "safetensors")
    torch = (f"{folder}/{'pytorch_model' if transformers else 'diffusion_pytorch_model'}", "bin")
    flax = f"{folder}/{'flax_model' if transformers else 'diffusion_flax_model'}.msgpack"
    found = find_file(
        path,
        *(*_names(*safe), *_rounded_names(*safe), flax, *_names(*torch), *_rounded_names(*torch)),
    )
    if found is not None:
        return found
    others: dict[str, str] = {}
    for stem, suffix in (torch, safe):
        for variant in _other_variants(path, stem, suffix):
            others[variant] = next(n for n in _names(stem, suffix, variant) if find_file(path, n))
    if len(others) == 1:
        return get_file(path, *others.values())
    plain = f"{safe[0]}.{safe[1]}"
    if others:
        listed = ", ".join(map(repr, sorted(others.values())))
        raise WeightsError(f"model {path!r} has {listed}: expected one of them, or one called {plain!r}")
    seen = seen_beside(path, plain)
    raise WeightsError(f"model {path!r} lacks {plain!r}, its index, or the same as .bin or .msgpack{seen}")


def _other_variants(path: str, stem: str, suffix: str) -> list[str]:
    """List the variants that a local folder has; of the hub's there is one that is known."""
    local = resolve_path(path) / Path(stem).parent
    if kind_of(resolve_path(path)) != "folder":
        return ["non_ema"] if find_file(path, *_names(stem, suffix, "non_ema")) else []
    name = re.escape(Path(stem).name)
    shapes = rf"{name}\.(\w+)\.{suffix}|{name}\.{suffix}\.index\.(\w+)\.json"
    try:
        matches = [re.fullmatch(shapes, file) for file in list_files(local)]
    except OSError:  # `seen_beside` says why there are none
        return []
    return [found[1] or found[2] for found in matches if found]
