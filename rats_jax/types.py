"""Shared names: array aliases, the records that cross folders, and the function contracts.

Conventions, said once: x_0 is data and x_T is noise, so a trajectory runs from index 0 (pure noise) to
index S (data). Latents and images are NHWC, of videos NTHWC. Shape letters: B batch, T frames, H height,
W width, C channels, S sampling steps, K student steps, L tokens, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import flax.struct
import jax
import numpy as np

Array = jax.Array
Key = jax.Array
"""A typed key, as made by `jax.random.key`."""
Params = Any
"""A pytree of network weights."""
PromptInputs = Any
"""A pytree of arrays [B, ...] that stands for B prompts: token ids or ready embeddings."""


class Grid(NamedTuple):
    """The noise levels that a sampler visits, constants of the compiled program.

    At position s the latents are `signal_rates[s] * x_0 + noise_rates[s] * noise`; the network is evaluated
    at positions 0 .. S-1 and the last step lands on position S.

    Attributes:
        timesteps: [S] int32 (float32 for flow models), descending: what the network is told.
        signal_rates: [S + 1] float32, sqrt(abar) of a variance-preserving model, 1 - sigma of a flow.
        noise_rates: [S + 1] float32, sqrt(1 - abar), or the flow's sigma.
    """

    timesteps: np.ndarray
    signal_rates: np.ndarray
    noise_rates: np.ndarray


class Trajectory(NamedTuple):
    """The result of a rollout.

    Attributes:
        latents: [B, ...] float32, the final latents (position S of the grid).
        denoised: [S, B, ...] float32, the clean estimate x_0 at each visited noise level, or at those of
            them that were to be kept.
    """

    latents: Array
    denoised: Array


class Targets(NamedTuple):
    """What a teacher's rollout leaves for the student.

    Attributes:
        denoised: [B, K, ...] float32, its clean estimates at the student's noise levels.
        scores: each reward of its result, [B] float32, by name.
    """

    denoised: Array
    scores: dict[str, Array]


class PromptEmbeds(NamedTuple):
    """What the network is conditioned on: pytrees of arrays [B, ...], with and without the prompt.

    A model without classifier-free guidance has None in place of the latter.
    """

    cond: Any
    uncond: Any


class Batch(NamedTuple):
    """One global batch of prompts.

    Attributes:
        prompt: what `encode_fn` reads, pytree of [B, ...].
        reward: by reward name, what that reward reads of the prompt, pytree of [B, ...].
    """

    prompt: PromptInputs
    reward: dict[str, PromptInputs]


class Moments(NamedTuple):
    """Running moments of a reward, or of the gap between two, float32 scalars; divide by `weight`."""

    mean: Array
    mean_square: Array
    weight: Array


@flax.struct.dataclass
class FrozenParams:
    """Weights that an update reads and never changes: an argument of it, never closed over or donated."""

    base: Params
    """The pretrained network: a teacher that does not move, and what adapters adapt."""
    text_encoder: Params
    decoder: Params
    rewards: dict[str, Params]


@flax.struct.dataclass
class TrainState:
    """All that training changes; exactly what a checkpoint holds besides the prompt position."""

    step: Array
    student: Params
    """What is trained: the network's weights, or adapters of `FrozenParams.base`."""
    teacher: Params
    """The moving average of `student`; an empty tree if the teacher does not move."""
    opt_state: Any
    gap: Moments
    """Of the gap R_T - R_S that the gate reads."""
    rewards: dict[str, Moments]
    """Of each trained reward, teacher's and student's, by name; empty if they are not normalised."""
    average: Params = flax.struct.field(default_factory=dict)
    """The moving average of `student` that is drawn in its place; an empty tree if there is none."""

    @property
    def drawn(self) -> Params:
        """What sheets, tables and exports draw with: the student's average, or itself."""
        return self.average or self.student


class DenoiseFn(Protocol):
    """(params, latents [B, ...], timestep [], embeds of [R * B, ...]) -> model_output [R * B, ...] float32.

    R prompts of each sample lie in a row. R is 1, and 2 under guidance: what a network computes before it
    reads the prompt is then computed once for both.
    """

    def __call__(self, params: Params, latents: Array, timestep: Array, embeds: Any, /) -> Array: ...


class EncodeFn(Protocol):
    """(text encoder params, prompt inputs) -> PromptEmbeds."""

    def __call__(self, params: Params, prompt: PromptInputs, /) -> PromptEmbeds: ...


class DecodeFn(Protocol):
    """(decoder params, latents [B, h, w, c]) -> images [B, H, W, 3] float32 about [0, 1], not clipped.

    Of a model of videos: latents [B, t, h, w, c] -> [B, T, H, W, 3].
    """

    def __call__(self, params: Params, latents: Array, /) -> Array: ...


class RewardFn(Protocol):
    """(params, images [B, H, W, 3] in [0, 1], prompt inputs) -> reward [B] float32, higher is better."""

    def __call__(self, params: Params, images: Array, prompt: PromptInputs, /) -> Array: ...


class ScoreFn(Protocol):
    """(params by name, images, prompt inputs by name) -> each reward [B] float32 by name."""

    def __call__(
        self, params: Mapping[str, Params], images: Array, prompt: Mapping[str, PromptInputs], /
    ) -> dict[str, Array]: ...


class RewardModel(NamedTuple):
    """A loaded reward.

    Attributes:
        reward_fn: the pure function.
        params: its weights, a float32 tree of NumPy arrays or of leaves that are still in their files.
        prepare: list of B prompts -> its prompt inputs, pytree of NumPy arrays [B, ...]; slow work is done
            once per prompt.
    """

    reward_fn: RewardFn
    params: Params
    prepare: Callable[[list[str]], PromptInputs]
