"""The training loop of pretraining: it minimises, and gives the ramped average of the weights it passed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rats_jax.pretraining.fit import fit

DATA = jnp.asarray(np.random.default_rng(0).normal(size=(32, 3)), jnp.float32)
TARGET = jnp.array([1.0, -2.0, 0.5])


def run(loss_fn, *, num_updates, ema_decay, seed=0, **options):
    return fit(
        loss_fn,
        {"w": jnp.zeros(3)},
        DATA,
        num_updates=num_updates,
        learning_rate=0.1,
        ema_decay=ema_decay,
        seed=seed,
        name="toy",
        log_every=7,
        **options,
    )["w"]


def regression(params, data, key):
    rows = data[jax.random.randint(key, (8,), 0, len(data))]
    loss = jnp.mean(jnp.square(rows @ (params["w"] - TARGET)))
    return loss, {"extra": loss + 1}


def test_it_finds_the_minimum():
    np.testing.assert_allclose(run(regression, num_updates=200, ema_decay=0.9), TARGET, atol=0.05)


def test_the_seed_decides_every_draw():
    first, second, other = (run(regression, num_updates=9, ema_decay=0.5, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert np.all(first != other)


@pytest.mark.parametrize("ema_decay", [0.3, 0.95])  # one that the ramp reaches, one that it does not
def test_the_result_is_the_ramped_average(ema_decay):
    """a <- d a + (1 - d) p with d = min(ema_decay, (1 + n) / (10 + n)), from the initial weights on."""
    passed, keys = [], set()

    def record(weights, key):
        passed.append(np.asarray(weights, np.float64))
        keys.add(tuple(key.tolist()))

    def recording(params, data, key):
        jax.debug.callback(record, params["w"], jax.random.key_data(key), ordered=True)
        return regression(params, data, key)

    last = run(recording, num_updates=12, ema_decay=0.0)  # decay 0: the weights themselves
    jax.effects_barrier()
    weights = [*passed, np.asarray(last, np.float64)]
    assert len(weights) == 13 and np.all(weights[0] == 0)
    assert len(keys) == 12  # every update draws anew
    expected = weights[0]
    for n, w in enumerate(weights[1:]):
        decay = min(ema_decay, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * w
    np.testing.assert_allclose(run(regression, num_updates=12, ema_decay=ema_decay), expected, rtol=1e-4)
    assert np.all(expected != weights[-1])


def test_a_single_update_moves_the_weights():
    assert np.all(np.asarray(run(regression, num_updates=1, ema_decay=0.0)) != 0)


def test_a_run_that_was_stopped_goes_on_and_ends_with_the_same_weights(tmp_path, monkeypatch):
    file = tmp_path / "run.state"
    whole = run(regression, num_updates=12, ema_decay=0.9)
    saved = []

    def write_and_stop(path, content):
        path.write_bytes(content)
        saved.append(content)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("rats_jax.pretraining.fit.write_whole", write_and_stop)
    kept = {"state_file": file, "save_every": 4}
    with pytest.raises(KeyboardInterrupt):
        run(regression, num_updates=12, ema_decay=0.9, **kept)
    resumed = run(regression, num_updates=12, ema_decay=0.9, **kept)
    np.testing.assert_array_equal(resumed, whole)
    assert len(saved) == 3  # after 4 and 8 updates, and of the second run after 12 alone
