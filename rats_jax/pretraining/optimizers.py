"""Optimizers of pretraining: AdamW, or Muon for matrices and AdamW with Nesterov's momentum for the rest."""

from __future__ import annotations

from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

from rats_jax.errors import expect
from rats_jax.networks.stack import STACK_NAME
from rats_jax.types import Params

OPTIMIZERS = ("adamw", "muon")
_WEIGHT_DECAY = 0.01
_LIKE_ADAM = 0.2  # root mean square of an update, as of AdamW's: both take the same learning rate


def make_optimizer(name: str, learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """Make an optimizer behind a clip of the gradient's norm to 1.

    Args:
        name: of OPTIMIZERS.
        learning_rate: of AdamW; updates of Muon are scaled to the size of AdamW's.

    Raises:
        ConfigError: another name.

    Source: Jordan et al., Muon, https://kellerjordan.github.io/posts/muon; Liu et al., Muon is Scalable for
    LLM Training, arXiv 2502.16982 (the scale of updates).
    """
    expect(name in OPTIMIZERS, "optimizer", name, f"one of {', '.join(OPTIMIZERS)}")
    decay: dict[str, Any] = {"weight_decay": _WEIGHT_DECAY}
    if name == "adamw":
        optimizer = optax.adamw(learning_rate, **decay)
    else:
        how: dict[str, Any] = {"adam_weight_decay": _WEIGHT_DECAY, "consistent_rms": _LIKE_ADAM}
        optimizer = muon(learning_rate, **decay, **how, muon_weight_dimension_numbers=find_matrices)
    return optax.chain(optax.clip_by_global_norm(1.0), optimizer)


def find_matrices(params: Params) -> Any:
    """Tell Muon which leaves are matrices: kernels, of convolutions from all taps and channels at once.

    Returns:
        The tree of weights with the axes of each kernel, of stacked blocks one matrix a block, else None.
    """

    def axes(path: tuple[Any, ...], leaf: Any) -> MuonDimensionNumbers | None:
        names = [part.key for part in path]
        if names[-1] != "kernel":
            return None
        first = int(any(STACK_NAME.fullmatch(name) for name in names))
        return MuonDimensionNumbers(tuple(range(first, leaf.ndim - 1)), leaf.ndim - 1)

    return jax.tree_util.tree_map_with_path(axes, params)
