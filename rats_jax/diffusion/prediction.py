"""Prediction types: what the network predicts, and how to read x_0 and the noise from it.

Every prediction type is a linear view of the same pair: latents = signal_rate * x_0 + noise_rate * noise.

| prediction_type | model_output |
|---|---|
| epsilon | noise |
| sample | x_0 |
| v_prediction | signal_rate * noise - noise_rate * x_0 |
| flow | noise - x_0 |

`v_prediction` assumes signal_rate^2 + noise_rate^2 = 1 (variance preserving), `flow` assumes
signal_rate + noise_rate = 1.
"""

from __future__ import annotations

import chex

from rats_jax.types import Array

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample", "flow")


def _unknown(prediction_type: str) -> ValueError:
    return ValueError(
        f"prediction_type is {prediction_type!r}, expected one of {', '.join(PREDICTION_TYPES)}"
    )


def to_denoised(
    model_output: Array,
    latents: Array,
    signal_rate: Array | float,
    noise_rate: Array | float,
    *,
    prediction_type: str,
) -> Array:
    """Read the clean estimate x_0 from the network's output.

    epsilon: (x_t - noise_rate * output) / signal_rate;  sample: output;  flow: x_t - noise_rate * output;
    v_prediction: signal_rate * x_t - noise_rate * output.

    Args:
        model_output: [B, ...] float32.
        latents: x_t, the same shape.
        signal_rate: scalar or [B, 1, ...] float32 in [0, 1]; positive for `epsilon`.
        noise_rate: the same shape, in [0, 1].
        prediction_type: `epsilon`, `v_prediction`, `sample` or `flow`.

    Returns:
        denoised, [B, ...] float32, differentiable in model_output and latents.

    Raises:
        ValueError: unknown prediction_type.

    Source: Song et al., arXiv 2010.02502, eq. 9 (epsilon); Salimans and Ho, Progressive Distillation for
        Fast Sampling of Diffusion Models, arXiv 2202.00512, appendix D (v); Liu et al., Flow Straight and
        Fast, arXiv 2209.03003, eq. 1 (flow).
    """
    _assert_shapes(model_output, latents, signal_rate, noise_rate)
    if prediction_type == "epsilon":
        return (latents - noise_rate * model_output) / signal_rate
    if prediction_type == "v_prediction":
        return signal_rate * latents - noise_rate * model_output
    if prediction_type == "sample":
        return model_output
    if prediction_type == "flow":
        return latents - noise_rate * model_output
    raise _unknown(prediction_type)


def to_noise(
    model_output: Array,
    latents: Array,
    signal_rate: Array | float,
    noise_rate: Array | float,
    *,
    prediction_type: str,
) -> Array:
    """Read the noise estimate from the network's output, consistent with `to_denoised`.

    epsilon: output;  v_prediction: signal_rate * output + noise_rate * x_t;
    sample: (x_t - signal_rate * output) / noise_rate;  flow: x_t + signal_rate * output.
    Only `sample` divides, by a noise rate that is positive wherever the network is evaluated; at zero signal
    `v_prediction` and `flow` give the latents themselves.

    Args:
        model_output: [B, ...] float32.
        latents: x_t, the same shape.
        signal_rate: scalar or [B, 1, ...] float32 in [0, 1].
        noise_rate: the same shape, in [0, 1]; positive for `sample`.
        prediction_type: `epsilon`, `v_prediction`, `sample` or `flow`.

    Returns:
        The noise estimate, [B, ...] float32, with latents = signal_rate * denoised + noise_rate * noise;
        differentiable in model_output and latents.

    Raises:
        ValueError: unknown prediction_type.

    Source: as `to_denoised`.
    """
    _assert_shapes(model_output, latents, signal_rate, noise_rate)
    if prediction_type == "epsilon":
        return model_output
    if prediction_type == "v_prediction":
        return signal_rate * model_output + noise_rate * latents
    if prediction_type == "sample":
        return (latents - signal_rate * model_output) / noise_rate
    if prediction_type == "flow":
        return latents + signal_rate * model_output
    raise _unknown(prediction_type)


def to_target(
    denoised: Array,
    noise: Array,
    signal_rate: Array | float,
    noise_rate: Array | float,
    *,
    prediction_type: str,
) -> Array:
    """Compute what the network should output: the training target, inverse of `to_denoised`.

    epsilon: noise;  v_prediction: signal_rate * noise - noise_rate * x_0;  sample: x_0;  flow: noise - x_0.

    Args:
        denoised: clean latents x_0, [B, ...] float32.
        noise: the noise that was added, the same shape.
        signal_rate: scalar or [B, 1, ...] float32 in [0, 1].
        noise_rate: the same shape, in [0, 1].
        prediction_type: `epsilon`, `v_prediction`, `sample` or `flow`.

    Returns:
        The target of model_output, [B, ...] float32.

    Raises:
        ValueError: unknown prediction_type.

    Source: as `to_denoised`.
    """
    _assert_shapes(denoised, noise, signal_rate, noise_rate)
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "v_prediction":
        return signal_rate * noise - noise_rate * denoised
    if prediction_type == "sample":
        return denoised
    if prediction_type == "flow":
        return noise - denoised
    raise _unknown(prediction_type)


def _assert_shapes(
    first: Array, second: Array, signal_rate: Array | float, noise_rate: Array | float
) -> None:
    chex.assert_equal_shape([first, second])
    chex.assert_rank([signal_rate, noise_rate], {0, first.ndim})
