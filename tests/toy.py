"""Toy networks and the update of them: quick to compile, and simple enough for a slow NumPy loop.

A linear network, linear encoder and decoder, and quadratic rewards; v-prediction on noise levels cos(angle),
sin(angle); a teacher of five guided steps and a student of three, whose levels share one point.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rats_jax.diffusion.grid import sigmas
from rats_jax.diffusion.guidance import with_guidance
from rats_jax.diffusion.rollout import rollout
from rats_jax.diffusion.sampler import ddim_step
from rats_jax.method.combine import weighted_sum
from rats_jax.method.contracts import Contestant, FrozenFns, Objective
from rats_jax.method.gate import make_gate_fn, sigmoid_gate
from rats_jax.method.horizon import interpolation_matrix
from rats_jax.method.loss import negative_reward
from rats_jax.method.update import make_loss_fn, make_teach_fn, make_update_fn, with_teacher
from rats_jax.networks.layers import match_batch
from rats_jax.rewards import make_score_fn
from rats_jax.types import Batch, FrozenParams, Grid, Moments, PromptEmbeds, TrainState

TEACHER_ANGLES, STUDENT_ANGLES = [1.5, 1.2, 0.9, 0.6, 0.3, 0.0], [1.5, 1.0, 0.45, 0.0]
GUIDANCE, TEMPERATURE = 2.5, 0.7
REWARD_WEIGHTS = {"first": 2.0, "second": 0.5}
HORIZON_WEIGHTS = np.array([0.2, 0.3, 0.5], np.float32)
GAP = (0.01, 0.02, 0.4)  # moments and weight before the update
LEARNING_RATE = 0.3
FEATURES = 4
KEY = jax.random.key(7)


def denoise_fn(params, latents, timestep, embeds):
    latents, embeds = match_batch(latents, embeds)
    prompt = _spread(embeds @ params["prompt"], latents)
    return latents @ params["kernel"] + timestep / 1000 * params["time"] + prompt


def encode_fn(params, prompt):
    cond = prompt @ params["kernel"]
    return PromptEmbeds(cond, jnp.broadcast_to(params["empty"], cond.shape))


def decode_fn(params, latents):
    return latents @ params + 0.5


def reward_fn(params, images, prompt):
    target = _spread(prompt @ params, images)
    return -jnp.mean(jnp.square(images - target), axis=tuple(range(1, images.ndim)))


def _spread(x, like):
    """Give [B, C] the rank of [B, ..., C]."""
    return x.reshape(len(x), *(1,) * (like.ndim - 2), x.shape[-1])


def grid_of(angles):
    timesteps = np.array([600 * angle for angle in angles[:-1]], np.int32)
    return Grid(timesteps, np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))


class Toy(NamedTuple):
    """An update in its parts, and the arguments of all of them."""

    teach: Any
    update_from_targets: Any
    state: Any
    frozen: Any
    batch: Any


def make_toy(**changes):
    """Give an update, its state and its other arguments; `permutation` is of the noise that rollouts see."""
    toy = make_toy_parts(**changes)
    return with_teacher(toy.update_from_targets, toy.teach), *toy[2:]


def make_toy_parts(*, latent_shape=(2, 2, 3), batch_size=4, permutation=slice(None), moments=None, **changes):
    rng, moments = np.random.default_rng(0), moments or {}
    channels = latent_shape[-1]

    def draw(*shape, scale=1.0):
        return jnp.asarray(scale * rng.normal(size=shape), jnp.float32)

    def network():
        return {
            "kernel": draw(channels, channels, scale=0.5 / channels**0.5),
            "time": draw(channels),
            "prompt": draw(FEATURES, channels, scale=0.5),
        }

    student, teacher = network(), network()
    frozen = FrozenParams(
        base={},
        text_encoder={"kernel": draw(FEATURES, FEATURES), "empty": draw(FEATURES)},
        decoder=draw(channels, 3, scale=0.4 / channels**0.5),
        rewards={name: draw(FEATURES, 3, scale=0.3) for name in REWARD_WEIGHTS},
    )
    batch = Batch(draw(batch_size, FEATURES), {name: draw(batch_size, FEATURES) for name in REWARD_WEIGHTS})
    grids = grid_of(TEACHER_ANGLES), grid_of(STUDENT_ANGLES)

    def rollout_fn(grid, guidance_scale):
        sample = functools.partial(
            rollout,
            with_guidance(denoise_fn, guidance_scale=guidance_scale),
            grid=grid,
            prediction_type="v_prediction",
            step_fn=ddim_step,
            gradient_steps=len(grid.timesteps),
            remat="none",
            unroll=False,
        )
        return lambda params, noise, embeds: sample(params, noise[permutation], embeds)

    optimizer = optax.sgd(LEARNING_RATE)
    settings = {
        "combine_fn": functools.partial(weighted_sum, weights=REWARD_WEIGHTS),
        "gate_fn": make_gate_fn(sigmoid_gate, temperature=TEMPERATURE, relative=False),
        "reward_loss_fn": negative_reward,
        "horizon_weights": HORIZON_WEIGHTS,
        "gate_reward": "",
        "moments_decay": 0.9,
        "reward_weight": 1.5,
        "shaping_weight": 0.8,
    }
    steps = {"ema_decay": 1.0, "ema_every": 1, "average_decay": 0.0, "accumulation_steps": 1}
    steps |= {name: changes.pop(name) for name in list(changes) if name in steps}
    teacher_fns, student_fns = (
        Contestant(lambda base, trained: trained, rollout_fn(grid, scale))
        for grid, scale in zip(grids, (GUIDANCE, 1.0), strict=True)
    )
    fns = FrozenFns(encode_fn, decode_fn, make_score_fn(dict.fromkeys(REWARD_WEIGHTS, reward_fn)))
    objective = Objective(**settings | changes)

    def noise_fn(key, batch):
        return jax.random.normal(key, (len(batch.prompt), *latent_shape))

    teach = make_teach_fn(
        teacher_fns,
        fns,
        noise_fn=noise_fn,
        horizon_matrix=interpolation_matrix(*(sigmas(g)[:-1] for g in grids), interpolation="linear"),
        accumulation_steps=steps["accumulation_steps"],
    )
    update = make_update_fn(
        make_loss_fn(student_fns, fns, objective),
        optimizer,
        noise_fn=noise_fn,
        moments_decay=objective.moments_decay,
        **steps,
    )
    gap = Moments(*(jnp.float32(x) for x in GAP))
    rewards = {name: Moments(*(jnp.float32(x) for x in row)) for name, row in moments.items()}
    average = jax.tree.map(lambda x: x + 1.0, student) if steps["average_decay"] else {}
    state = TrainState(jnp.int32(3), student, teacher, optimizer.init(student), gap, rewards, average)
    return Toy(teach, update, state, frozen, batch)


def run(**changes):
    """Make one update of `make_toy(**changes)`: its new state and its metrics."""
    update, *arguments = make_toy(**changes)
    return jax.jit(update)(*arguments, KEY)
