"""One training loop for every network that pretraining builds."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import optax
from absl import logging

from rats_jax.files import write_whole
from rats_jax.pretraining.optimizers import make_optimizer
from rats_jax.types import Array, Key, Params

LossFn = Callable[[Params, Any, Key], tuple[Array, dict[str, Array]]]


def fit(
    loss_fn: LossFn,
    params: Params,
    data: Any,
    *,
    num_updates: int,
    learning_rate: float,
    ema_decay: float,
    seed: int,
    name: str,
    optimizer_name: str = "adamw",
    state_file: Path | None = None,
    log_every: int = 100,
    save_every: int = 500,
) -> Params:
    """Minimise `loss_fn` with linear warm-up and a cosine to zero.

    Args:
        loss_fn: (params, data, key) -> (loss [], metrics); draws its own batch from `data` with `key`.
        params: initial weights, float32.
        data: pytree of arrays kept on the device.
        num_updates: how many.
        learning_rate: peak of the schedule.
        ema_decay: decay of the weight average that is returned, ramped as (1 + n) / (10 + n).
        seed: of every draw.
        name: shown in the log.
        optimizer_name: see `make_optimizer`.
        state_file: where the state is kept while it runs, so that a run that was stopped goes on from there
            and ends with the same weights; removed by whoever stores the result. None keeps none.
        log_every: updates between log lines.
        save_every: updates between states.

    Returns:
        The averaged weights.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, min(200, num_updates // 10), num_updates, 0.01 * learning_rate
    )
    optimizer = make_optimizer(optimizer_name, schedule)
    root = jax.random.key(seed)

    @jax.jit(donate_argnums=(0, 1, 2))
    def step(params: Params, average: Params, opt_state: Any, data: Any, count: Array) -> Any:
        (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            params, data, jax.random.fold_in(root, count)
        )
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        decay = jnp.minimum(ema_decay, (1.0 + count) / (10.0 + count))
        average = optax.incremental_update(params, average, 1.0 - decay)
        return params, average, opt_state, {"loss": loss, **metrics}

    average = jax.tree.map(jnp.copy, params)
    opt_state = jax.jit(optimizer.init)(params)
    first, state = 0, (params, average, opt_state)
    if state_file is not None and state_file.exists():
        saved: Any = flax.serialization.from_bytes((first, state), state_file.read_bytes())
        first, state = int(saved[0]), saved[1]
        logging.info("%s goes on from update %d", name, first)
    params, average, opt_state = jax.tree.map(jnp.asarray, state)
    start = time.perf_counter()
    logged: list[dict[str, Array]] = []
    for count in range(first, num_updates):
        params, average, opt_state, metrics = step(params, average, opt_state, data, jnp.int32(count))
        logged.append(metrics)
        if state_file is not None and (count + 1) % save_every == 0:
            state = jax.device_get((params, average, opt_state))
            write_whole(state_file, flax.serialization.to_bytes((count + 1, state)))
        if (count + 1) % log_every == 0 or count + 1 == num_updates:
            mean = {k: float(jnp.stack([m[k] for m in logged]).mean()) for k in metrics}
            rate = (time.perf_counter() - start) / (count + 1 - first)
            shown = "  ".join(f"{k} {v:.4f}" for k, v in mean.items())
            left = rate * (num_updates - count - 1) / 60
            logging.info(
                "%s %d/%d  %s  %.3f s/update  %.1f min left", name, count + 1, num_updates, shown, rate, left
            )
            logged = []
    return average


def fit_as(
    training: Any,
    loss_fn: LossFn,
    params: Params,
    data: Any,
    *,
    seed: int,
    name: str,
    state_file: Path | None = None,
) -> Params:
    """Fit as a config says; all else as of `fit`.

    Args:
        training: num_updates, learning_rate, ema_decay, and optimizer where it is not AdamW.
    """
    return fit(
        loss_fn,
        params,
        data,
        num_updates=training.num_updates,
        learning_rate=training.learning_rate,
        ema_decay=training.ema_decay,
        optimizer_name=training.get("optimizer", "adamw"),
        seed=seed,
        name=name,
        state_file=state_file,
    )
