"""Report of a verification: what was compared with what, and the table."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence

import jax

import rats_jax
from rats_jax.errors import ConfigError
from rats_jax.pipelines.base import Options
from rats_jax.verification import pytorch
from rats_jax.verification.comparison import Check, format_checks
from rats_jax.verification.pipelines import verify_pipeline
from rats_jax.verification.rewards import verify_reward

_GUIDE = (
    "largest and mean: |difference| in the unit, which is PyTorch's standard deviation (std), its root mean "
    "square (rms), or a level of a picture (1/255)"
)


def verify(
    model: str | None,
    rewards: Mapping[str, str],
    *,
    original: str | None,
    options: Options,
    dtype: str,
    device: str,
) -> tuple[str, list[Check]]:
    """Verify a pipeline, rewards, or both.

    Args:
        model: folder or hub id of a pipeline; None is none.
        rewards: by kind, all of REWARD_ORIGINALS, the path of the weights, '' for the published ones.
        original: what PyTorch opens in place of the model; None is the same.
        options: of the pipeline.
        dtype: of the pipeline's both sides; rewards are compared in float32.
        device: of PyTorch's side, 'cpu' or 'cuda'.

    Returns:
        The report, Markdown, and its checks.

    Raises:
        ConfigError: PyTorch's packages are not there, or a model does not open.
    """
    versions = pytorch.import_packages(device)
    facts, checks = [], []
    if model is not None:
        found = verify_pipeline(
            model, original=original or model, options=options, dtype=dtype, device=device
        )
        beside = f", beside {original}" if original else ""
        facts.append(f"model: {model}{beside} ({found.kind}), {found.size}, {dtype}")
        checks += found.checks
    for kind, path in rewards.items():
        checks += verify_reward(kind, path, device=device)
        facts.append(f"reward: {kind}, {path or 'published weights'}, float32")
    here = {"rats_jax": rats_jax.__version__, "jax": jax.__version__, **versions}
    facts.append(", ".join(f"{name} {version}" for name, version in here.items()))
    place = jax.devices()[0]
    named = "" if place.device_kind == place.platform else f" ({place.device_kind})"
    facts.append(f"jax on {place.platform}{named}, PyTorch on {device}, {platform.system()}")
    lines = [f"- {fact}" for fact in (*facts, _GUIDE)]
    return "\n".join([*lines, "", format_checks(checks)]), checks


def expect_all(checks: Sequence[Check]) -> None:
    """Raise if a check is beyond its tolerance.

    Raises:
        ConfigError: names those that are.
    """
    bad = [check.part for check in checks if not check.holds]
    if bad:
        raise ConfigError(
            f"{len(bad)} of {len(checks)} comparisons are beyond their tolerance: {'; '.join(bad)}"
        )
