"""Rollouts: a slow loop, scan against unrolled against remat, and how far a reward's gradient reaches."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rats_jax.diffusion.grid import make_grid, sigmas
from rats_jax.diffusion.prediction import PREDICTION_TYPES, to_denoised, to_noise
from rats_jax.diffusion.rollout import rollout
from rats_jax.diffusion.sampler import SAMPLERS, ddim_step, euler_step, second_order
from rats_jax.types import Grid

SHAPE = (3, 2, 2, 2)
NUM_STEPS = 5
TRAILING = {"timestep_spacing": "trailing", "beta_schedule": "scaled_linear", "beta_end": 0.012}
FLOW = {"prediction_type": "flow", "shift": 3.0}
GRID = make_grid(TRAILING, NUM_STEPS)
MODES = [
    (remat, unroll) for remat in ("none", "matmuls", "step") for unroll in (False, True)
]  # remat, unroll


def toy_denoise_fn(params, latents, timestep, embeds):
    """One weight per timestep, so that the gradient of a weight is the gradient that reaches its step."""
    weight = params[jnp.round(timestep).astype(jnp.int32)]
    return weight * jnp.tanh(latents) + embeds[:, None, None, None]


def toy_arguments(seed=0):
    rng = np.random.default_rng(seed)
    params = jnp.asarray(rng.uniform(0.2, 1.0, size=1001), jnp.float32)
    noise = jnp.asarray(rng.normal(size=SHAPE), jnp.float32)
    return params, noise, jnp.asarray(rng.normal(size=SHAPE[0]), jnp.float32)


def sample(params, noise, embeds, **changes):
    settings = {
        "grid": GRID,
        "prediction_type": "epsilon",
        "step_fn": ddim_step,
        "gradient_steps": len(changes.get("grid", GRID).timesteps),
        "remat": "none",
        "unroll": False,
    }
    return rollout(toy_denoise_fn, params, noise, embeds, **(settings | changes))


def slow_rollout(params, noise, embeds, grid, prediction_type):
    """Each sample and step alone, in float64, from the definition of each prediction type."""
    params, noise, embeds = (np.asarray(x, np.float64) for x in (params, noise, embeds))
    final, estimates = np.empty(SHAPE), np.empty((len(grid.timesteps), *SHAPE))
    for b in range(SHAPE[0]):
        x = noise[b]
        for s, timestep in enumerate(grid.timesteps):
            a, n = float(grid.signal_rates[s]), float(grid.noise_rates[s])
            output = params[int(np.round(timestep))] * np.tanh(x) + embeds[b]
            if prediction_type == "epsilon":
                denoised, estimate = (x - n * output) / a, output
            elif prediction_type == "sample":
                denoised, estimate = output, (x - a * output) / n
            elif prediction_type == "v_prediction":
                denoised, estimate = a * x - n * output, n * x + a * output
            else:
                denoised, estimate = x - n * output, x + (1 - n) * output
            estimates[s, b] = denoised
            x = float(grid.signal_rates[s + 1]) * denoised + float(grid.noise_rates[s + 1]) * estimate
        final[b] = x
    return np.float32(final), np.float32(estimates)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("gradient_steps", [2, NUM_STEPS])
def test_rollout_matches_a_slow_loop(prediction_type, jit, gradient_steps):
    grid = make_grid(FLOW, NUM_STEPS) if prediction_type == "flow" else GRID
    arguments = toy_arguments()

    def function(*x):
        return sample(*x, grid=grid, prediction_type=prediction_type, gradient_steps=gradient_steps)

    actual = (jax.jit(function) if jit else function)(*arguments)
    expected = slow_rollout(*arguments, grid, prediction_type)
    chex.assert_trees_all_close(tuple(actual), expected, rtol=2e-4, atol=2e-5)
    chex.assert_type(list(actual), jnp.float32)


@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample"])
def test_zero_terminal_snr_starts_from_pure_noise(prediction_type):
    grid = make_grid(TRAILING | {"rescale_betas_zero_snr": True}, NUM_STEPS)
    arguments = toy_arguments()
    actual = sample(*arguments, grid=grid, prediction_type=prediction_type)
    expected = slow_rollout(*arguments, grid, prediction_type)
    chex.assert_trees_all_close(tuple(actual), expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("shape", [(3, 8), (3, 4, 2), (3, 2, 1, 2, 2)])
@pytest.mark.parametrize(("name", "prediction_type"), [("ddim", "epsilon"), ("dpmpp_2m", "v_prediction")])
def test_samples_of_any_rank_are_sampled_alike(shape, name, prediction_type):
    """The same numbers as vectors, tokens or videos: the same trajectory and gradients."""
    params, noise, embeds = toy_arguments()

    def elementwise_fn(params, latents, timestep, embeds):
        per_sample = embeds.reshape(-1, *(1,) * (latents.ndim - 1))
        return params[timestep] * jnp.tanh(latents) + per_sample

    def run(noise):
        path = rollout(
            elementwise_fn,
            params,
            noise,
            embeds,
            grid=GRID,
            prediction_type=prediction_type,
            step_fn=SAMPLERS[name].step,
            correction=SAMPLERS[name].correction(GRID),
            gradient_steps=2,
            remat="none",
            unroll=False,
            keep=np.array([1, 3]),
        )
        return jnp.sum(jnp.sin(path.denoised)) + jnp.sum(jnp.cos(path.latents)), path

    run = jax.jit(jax.value_and_grad(run, has_aux=True))
    (_, expected), expected_gradient = run(noise)
    (_, actual), gradient = run(noise.reshape(shape))
    assert actual.latents.shape == shape and actual.denoised.shape == (2, *shape)
    chex.assert_trees_all_close(actual.latents.reshape(SHAPE), expected.latents, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(actual.denoised.reshape(2, *SHAPE), expected.denoised, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(gradient.reshape(SHAPE), expected_gradient, rtol=1e-5, atol=1e-6)


def test_euler_gives_the_samples_of_ddim():
    arguments = toy_arguments()
    chex.assert_trees_all_close(
        sample(*arguments, step_fn=euler_step), sample(*arguments), rtol=1e-4, atol=1e-4
    )


def test_the_network_sees_the_timesteps_and_may_compute_in_bfloat16():
    """With `sample` the output is the clean estimate itself, so its dtype would show."""
    seen = []

    def recording_fn(params, latents, timestep, embeds):
        chex.assert_rank(timestep, 0)
        chex.assert_type([latents, timestep], [jnp.float32, jnp.int32])
        jax.debug.callback(lambda t: seen.append(int(t)), timestep, ordered=True)
        return jnp.zeros(latents.shape, jnp.bfloat16)

    _, noise, embeds = toy_arguments()
    trajectory = rollout(
        recording_fn,
        {},
        noise,
        embeds,
        grid=GRID,
        prediction_type="sample",
        step_fn=ddim_step,
        gradient_steps=2,
        remat="none",
        unroll=False,
    )
    jax.effects_barrier()
    assert seen == [999, 799, 599, 399, 199]
    chex.assert_type(list(trajectory), jnp.float32)


def test_permuting_the_batch_permutes_the_trajectory():
    params, noise, embeds = toy_arguments()
    order = np.array([2, 0, 1])
    plain, permuted = sample(params, noise, embeds), sample(params, noise[order], embeds[order])
    chex.assert_trees_all_close(permuted.latents, plain.latents[order], rtol=1e-6)
    chex.assert_trees_all_close(permuted.denoised, plain.denoised[:, order], rtol=1e-6)


def final_loss(params, noise, embeds, **changes):
    return jnp.sum(jnp.sin(sample(params, noise, embeds, **changes).latents))


@pytest.mark.parametrize(
    ("gradient_steps", "remat", "unroll"),
    [(k, "none", False) for k in range(1, NUM_STEPS + 1)] + [(2, "step", True)],
)
def test_gradient_of_the_final_latents_reaches_the_last_steps_only(gradient_steps, remat, unroll):
    settings = {"gradient_steps": gradient_steps, "remat": remat, "unroll": unroll}
    gradient = jax.jit(jax.grad(lambda *x: final_loss(*x, **settings)))(*toy_arguments())
    of_step = np.asarray(gradient)[GRID.timesteps]
    assert np.all(of_step[: NUM_STEPS - gradient_steps] == 0.0)
    assert np.all(of_step[NUM_STEPS - gradient_steps :] != 0.0)


@pytest.mark.parametrize("gradient_steps", [2, NUM_STEPS])
def test_gradient_is_that_of_a_plain_loop(gradient_steps):
    def plain_loss(params, noise, embeds):
        latents, terms = noise, []
        for s, timestep in enumerate(GRID.timesteps):
            if s == NUM_STEPS - gradient_steps and s > 0:
                latents = jax.lax.stop_gradient(latents)
            level = (GRID.signal_rates[s], GRID.noise_rates[s])
            output = toy_denoise_fn(params, latents, jnp.int32(timestep), embeds)
            denoised = to_denoised(output, latents, *level, prediction_type="epsilon")
            noise_estimate = to_noise(output, latents, *level, prediction_type="epsilon")
            latents = GRID.signal_rates[s + 1] * denoised + GRID.noise_rates[s + 1] * noise_estimate
            terms.append((s + 1) * jnp.mean(jnp.sin(denoised)))
        return jnp.sum(jnp.cos(latents)) + sum(terms)

    def loss(params, noise, embeds):
        trajectory = sample(params, noise, embeds, gradient_steps=gradient_steps)
        means = jnp.mean(jnp.sin(trajectory.denoised), axis=(1, 2, 3, 4))
        return jnp.sum(jnp.cos(trajectory.latents)) + jnp.sum(jnp.arange(1, NUM_STEPS + 1) * means)

    arguments = toy_arguments()
    argnums = (0, 1, 2)
    chex.assert_trees_all_close(
        jax.jit(jax.value_and_grad(loss, argnums))(*arguments),
        jax.jit(jax.value_and_grad(plain_loss, argnums))(*arguments),
        rtol=1e-3,
        atol=1e-5,
    )


def test_early_clean_estimates_still_reach_early_steps():
    def loss(params, noise, embeds):
        return jnp.sum(sample(params, noise, embeds, gradient_steps=2).denoised[1])

    of_step = np.asarray(jax.jit(jax.grad(loss))(*toy_arguments()))[GRID.timesteps]
    assert np.all((of_step != 0.0) == [True, True, False, False, False])


@pytest.mark.parametrize("gradient_steps", [2, NUM_STEPS])
@pytest.mark.parametrize("keep", [[0], [1, 4], [0, 1, 2, 3, 4]])
def test_estimates_that_are_kept_are_those_of_all(keep, gradient_steps):
    def loss(*arguments, **changes):
        latents, denoised = sample(*arguments, gradient_steps=gradient_steps, **changes)
        denoised = denoised if "keep" in changes else denoised[np.array(keep)]
        return jnp.sum(jnp.sin(latents)) + jnp.sum(jnp.cos(denoised)), (latents, denoised)

    def differentiate(**changes):
        return jax.jit(jax.value_and_grad(lambda *x: loss(*x, **changes), (0, 1, 2), has_aux=True))(
            *toy_arguments()
        )

    (_, expected), expected_grads = differentiate()
    for remat in ("none", "step"):
        (_, kept), grads = differentiate(keep=np.array(keep), remat=remat)
        chex.assert_trees_all_equal(kept, expected)
        chex.assert_trees_all_close(grads, expected_grads, rtol=1e-5, atol=1e-6)


def test_estimates_that_are_not_kept_need_no_memory():
    def needed(num_steps):
        grid = make_grid(TRAILING, num_steps)
        last = np.array([0, num_steps - 1])
        jitted = jax.jit(lambda *x: sample(*x, grid=grid, keep=last).denoised.sum())
        noise = jax.ShapeDtypeStruct((4, 16, 16, 4), jnp.float32)
        arguments = jax.ShapeDtypeStruct((1001,), jnp.float32), noise, jax.ShapeDtypeStruct((4,), jnp.float32)
        return jitted.lower(*arguments).compile().memory_analysis().temp_size_in_bytes, noise.size * 4

    (few, of_one), (many, _) = needed(10), needed(200)
    assert many - few < of_one


def test_gradient_into_noise_is_complete_or_stopped():
    for gradient_steps, stopped in ((NUM_STEPS, False), (NUM_STEPS - 1, True)):
        gradient = jax.grad(final_loss, argnums=1)(*toy_arguments(), gradient_steps=gradient_steps)
        assert np.all(np.asarray(gradient) == 0.0) == stopped


def test_scan_unrolled_and_remat_agree():
    def loss(remat, unroll, *arguments):
        trajectory = sample(*arguments, gradient_steps=2, remat=remat, unroll=unroll)
        return jnp.sum(jnp.sin(trajectory.latents)) + jnp.sum(jnp.cos(trajectory.denoised)), trajectory

    gradient_fn = jax.jit(jax.value_and_grad(loss, argnums=(2, 3, 4), has_aux=True), static_argnums=(0, 1))
    results = [gradient_fn(*mode, *toy_arguments()) for mode in MODES]
    for result in results[1:]:
        chex.assert_trees_all_close(result, results[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gradient_steps", [1, 2, NUM_STEPS])
@pytest.mark.parametrize(("remat", "unroll"), MODES)
def test_unroll_removes_the_loop_and_remat_recomputes(gradient_steps, remat, unroll):
    function = jax.jit(
        jax.grad(lambda *x: final_loss(*x, gradient_steps=gradient_steps, remat=remat, unroll=unroll))
    )
    traced = function.trace(*toy_arguments())
    program = traced.lower().as_text()
    # JAX leaves a loop of one turn, unrolled or not, to XLA.
    assert ("stablehlo.while" in program) == (not unroll or gradient_steps == 1)
    assert ("remat" in str(traced.jaxpr)) == (remat != "none")
    # XLA must be kept from merging forward and recomputation where there is no loop, or none that stays.
    assert ("optimization_barrier" in program) == (remat != "none" and (unroll or gradient_steps == 1))


def test_gradients_are_those_of_finite_differences():
    params, noise, embeds = toy_arguments()

    @jax.jit
    def loss(weights, noise, embeds):
        return final_loss(params.at[GRID.timesteps].set(weights), noise, embeds)

    chex.assert_numerical_grads(
        loss, (params[GRID.timesteps], noise, embeds), order=1, modes=["rev"], atol=2e-2, rtol=2e-2
    )


@pytest.mark.parametrize("gradient_steps", [0, NUM_STEPS + 1, -1])
def test_gradient_steps_out_of_range_are_rejected(gradient_steps):
    with pytest.raises(ValueError, match=f"gradient_steps is {gradient_steps}, expected from 1 to 5"):
        sample(*toy_arguments(), gradient_steps=gradient_steps)


def test_misuse_is_rejected():
    arguments = params, noise, embeds = toy_arguments()
    pure_noise = make_grid(TRAILING | {"rescale_betas_zero_snr": True}, NUM_STEPS)
    assert sigmas(pure_noise)[0] == np.inf
    with pytest.raises(ValueError, match="signal rate of 0, where epsilon"):
        sample(*arguments, grid=pure_noise)
    with pytest.raises(ValueError, match="signal rate of 0, where euler_step"):
        sample(*arguments, grid=pure_noise, prediction_type="v_prediction", step_fn=euler_step)
    with pytest.raises(ValueError, match="one more than its timesteps"):
        sample(*arguments, grid=GRID._replace(signal_rates=GRID.signal_rates[1:]))
    with pytest.raises(ValueError, match="prediction_type is 'score'"):
        sample(*arguments, prediction_type="score")
    with pytest.raises(AssertionError):
        sample(params, noise.astype(jnp.bfloat16), embeds)
    with pytest.raises(AssertionError):
        sample(params, noise[0], embeds)
    with pytest.raises(AssertionError):
        sample(params, noise[:0], embeds[:0])


def gaussian_data(num_steps):
    """Data of N(0, 0.25), whose best clean estimate is known, a schedule without its ends, and the answer.

    Along the probability flow latents stay the same number of their own standard deviations.
    """
    angles = np.linspace(1.5, 0.05, num_steps + 1)
    grid = Grid(
        np.arange(num_steps, dtype=np.int32), *(f(angles).astype(np.float32) for f in (np.cos, np.sin))
    )
    signal, deviation = jnp.asarray(grid.signal_rates), 0.5

    def denoise_fn(params, latents, timestep, embeds):
        s = signal[timestep.astype(jnp.int32)]
        variance = jnp.square(s * deviation) + 1 - jnp.square(s)
        return s * deviation**2 / variance * latents

    def spread(rate):
        return np.sqrt((rate * deviation) ** 2 + 1 - rate**2)

    return grid, denoise_fn, spread(grid.signal_rates[-1]) / spread(grid.signal_rates[0])


@pytest.mark.parametrize(("corrected", "order"), [(False, 1), (True, 2)])
def test_the_order_of_the_error(corrected, order):
    """Twice the steps leave half of the error of DDIM, and a quarter of that of DPM-Solver++(2M)."""
    noise, errors = jnp.ones((1, 1, 1, 1)), []
    for num_steps in (20, 40, 80):
        grid, denoise_fn, expected = gaussian_data(num_steps)
        path = rollout(
            denoise_fn,
            None,
            noise,
            None,
            grid=grid,
            prediction_type="sample",
            step_fn=ddim_step,
            gradient_steps=num_steps,
            remat="none",
            unroll=False,
            correction=second_order(grid) if corrected else None,
        )
        errors.append(abs(float(path.latents[0, 0, 0, 0]) - expected))
    rates = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(rates, order, atol=0.25)


def test_the_correction_has_its_ends_and_its_gradient():
    """From pure noise and onto data it is DDIM; in between the gradient runs through both estimates."""
    grid = Grid(
        np.array([900, 600, 300, 100]), *np.float32([[0, 0.5, 0.8, 0.95, 1], [1, 0.87, 0.6, 0.31, 0]])
    )
    weights = second_order(grid)
    assert weights[0] == weights[1] == weights[3] == 0 and weights.dtype == np.float32
    levels = np.log(np.float64([0.5, 0.8, 0.95]) / [0.87, 0.6, 0.31])
    assert weights[2] == pytest.approx((levels[2] - levels[1]) / 2 / (levels[1] - levels[0]), rel=1e-5)

    params, noise, embeds = toy_arguments()
    settings = {"grid": GRID, "correction": second_order(GRID)}
    plain = sample(params, noise, embeds)
    corrected = sample(params, noise, embeds, **settings)
    unrolled = sample(params, noise, embeds, unroll=True, remat="step", **settings)
    chex.assert_trees_all_close(corrected, unrolled, rtol=1e-5, atol=1e-5)
    assert np.abs(corrected.latents - plain.latents).max() > 1e-3
    np.testing.assert_allclose(corrected.denoised[0], plain.denoised[0], rtol=1e-6)
    chex.assert_numerical_grads(
        lambda noise: jnp.sum(jnp.sin(sample(params, noise, embeds, **settings).latents)),
        (noise,),
        order=1,
        atol=2e-2,
        rtol=2e-2,
    )
