"""Horizons: alignment of two sigma grids, distances against slow loops, and where gradients stop."""

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rats_jax.diffusion.grid import make_grid, sigmas
from rats_jax.method import horizon

SHAPE = (2, 3, 2, 2)  # B, H, W, C


def visited_sigmas(config, num_steps):
    return sigmas(make_grid(config, num_steps))[:-1]


SHAPES = [SHAPE, (2, 6), (2, 5, 3), (2, 2, 3, 2, 2)]  # pictures, vectors, tokens, videos


def estimates(num_horizons, seed=0, shape=SHAPE):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(num_horizons, *shape)), jnp.float32)


def slow_matrix(teacher, student, interpolation):
    matrix = np.zeros((len(student), len(teacher)))
    for k, sigma in enumerate(student):
        if sigma in teacher:
            matrix[k, list(teacher).index(sigma)] = 1
        elif interpolation == "nearest":
            matrix[k, int(np.argmin([abs(np.log(sigma) - np.log(t)) for t in teacher]))] = 1
        else:
            for s in range(len(teacher) - 1):
                if teacher[s] > sigma > teacher[s + 1]:
                    span = np.log(teacher[s]) - np.log(teacher[s + 1])
                    matrix[k, s] = (np.log(sigma) - np.log(teacher[s + 1])) / span
                    matrix[k, s + 1] = (np.log(teacher[s]) - np.log(sigma)) / span
    return matrix


@pytest.mark.parametrize("interpolation", ["linear", "nearest"])
@hypothesis.given(data=st.data())
@hypothesis.settings(deadline=None, max_examples=30)
def test_matrix_matches_a_slow_loop(interpolation, data):
    levels = st.floats(0.01, 100)
    teacher = np.sort(data.draw(st.lists(levels, min_size=2, max_size=8, unique=True)))[::-1]
    share = data.draw(st.lists(st.floats(0, 1), min_size=1, max_size=4))
    student = np.clip(teacher[-1] + np.array(share) * (teacher[0] - teacher[-1]), teacher[-1], teacher[0])
    actual = horizon.interpolation_matrix(teacher, student, interpolation=interpolation)
    logs = np.abs(np.log(student)[:, None] - np.log(teacher)[None])
    if interpolation == "nearest":  # a tie up to rounding may fall either way
        near = np.sort(logs, axis=1)
        hypothesis.assume(np.all(near[:, 1] - near[:, 0] > 1e-6))
    else:  # levels that nearly coincide have no well-conditioned weight
        hypothesis.assume(np.min(-np.diff(np.log(teacher))) > 1e-6)
    np.testing.assert_allclose(actual, slow_matrix(teacher, student, interpolation), atol=1e-5)
    assert actual.dtype == np.float32 and np.all(actual >= 0)
    assert np.all(np.count_nonzero(actual, axis=1) <= 2)
    np.testing.assert_allclose(actual.sum(axis=1), 1, atol=1e-6)


def test_linear_is_linear_in_log_sigma():
    actual = horizon.interpolation_matrix(
        np.array([100.0, 1.0]), np.array([10.0, 10**0.5]), interpolation="linear"
    )
    np.testing.assert_allclose(actual, [[0.5, 0.5], [0.25, 0.75]], atol=1e-6)


def test_nearest_takes_the_noisier_of_two_equally_close():
    actual = horizon.interpolation_matrix(np.array([4.0, 1.0]), np.array([2.0, 1.9]), interpolation="nearest")
    np.testing.assert_array_equal(actual, [[1, 0], [0, 1]])


@pytest.mark.parametrize("interpolation", ["linear", "nearest"])
@pytest.mark.parametrize("config", ["leading", "trailing", "zero_snr", "flow"])
def test_shared_levels_are_exact(config, interpolation):
    """Every 10th level of the teacher, and pure noise itself where the grid starts there."""
    config = {
        "leading": {"steps_offset": 1},
        "trailing": {"timestep_spacing": "trailing"},
        "zero_snr": {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True},
        "flow": {"prediction_type": "flow", "shift": 3.0},
    }[config]
    teacher = visited_sigmas(config, 50)
    identity = horizon.interpolation_matrix(teacher, teacher, interpolation=interpolation)
    np.testing.assert_array_equal(identity, np.eye(50))
    teacher_denoised = estimates(50)
    chex.assert_trees_all_equal(horizon.match_horizons(identity, teacher_denoised), teacher_denoised)
    some = horizon.interpolation_matrix(teacher, teacher[::10], interpolation=interpolation)
    chex.assert_trees_all_equal(horizon.match_horizons(some, teacher_denoised), teacher_denoised[::10])


@pytest.mark.parametrize("timestep_spacing", ["leading", "trailing"])
@pytest.mark.parametrize("num_steps", [3, 4, 5, 8])
def test_few_step_grids_lie_inside_a_fifty_step_grid(timestep_spacing, num_steps):
    config = {"timestep_spacing": timestep_spacing, "steps_offset": 1}
    teacher, student = visited_sigmas(config, 50), visited_sigmas(config, num_steps)
    matrix = horizon.interpolation_matrix(teacher, student, interpolation="linear")
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(matrix @ np.log(teacher), np.log(student), atol=1e-4)


def test_between_pure_noise_and_a_finite_level_the_finite_one_counts():
    teacher = np.array([np.inf, 10.0, 1.0])
    for interpolation in ("linear", "nearest"):
        actual = horizon.interpolation_matrix(
            teacher, np.array([np.inf, 50.0, 10.0]), interpolation=interpolation
        )
        np.testing.assert_array_equal(actual, [[1, 0, 0], [0, 1, 0], [0, 1, 0]])


@pytest.mark.parametrize(
    ("teacher", "student"),
    [([10.0, 1.0], [11.0]), ([10.0, 1.0], [0.9]), ([10.0, 1.0], [np.inf]), ([np.inf, 1.0], [np.nan])],
)
def test_a_horizon_outside_the_grid_is_rejected(teacher, student):
    with pytest.raises(ValueError, match="horizon outside the grid: student sigma .* teacher from"):
        horizon.interpolation_matrix(np.array(teacher), np.array(student), interpolation="linear")


def test_misuse_of_the_matrix_is_rejected():
    with pytest.raises(ValueError, match="interpolation is 'cubic'"):
        horizon.interpolation_matrix(np.array([2.0, 1.0]), np.array([1.0]), interpolation="cubic")
    for teacher in ([1.0, 2.0], [1.0, 1.0], [1.0, 0.0], [np.nan, 1.0]):
        with pytest.raises(ValueError, match="teacher_sigmas"):
            horizon.interpolation_matrix(np.array(teacher), np.array([1.0]), interpolation="linear")
    for row in ([0.2, 0.3, 0.5], [0.0, 0.0, 0.0]):
        with pytest.raises(ValueError, match="expected one or two"):
            horizon.match_horizons(np.array([row]), estimates(3))
    with pytest.raises(AssertionError):
        horizon.match_horizons(np.eye(4), estimates(3))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("jit", [False, True])
def test_matching_is_the_matrix_product(jit, shape):
    matrix = horizon.interpolation_matrix(
        np.array([9.0, 5.0, 2.0, 1.0]), np.array([9.0, 6.0, 2.0, 1.2, 1.0]), interpolation="linear"
    )
    teacher_denoised = estimates(4, shape=shape)
    expected = np.zeros((5, *shape))
    for k in range(5):
        for s in range(4):
            expected[k] += matrix[k, s] * np.asarray(teacher_denoised[s], np.float64)

    def function(x):
        return horizon.match_horizons(matrix, x)

    actual = (jax.jit(function) if jit else function)(teacher_denoised)
    chex.assert_trees_all_close(actual, np.float32(expected), atol=1e-6)
    assert actual.dtype == jnp.float32


def test_the_bits_of_pictures_are_those_of_one_sum_over_their_three_axes():
    student, teacher = estimates(3, seed=1), estimates(3, seed=2)

    @jax.jit
    def plain(s, t):
        axes = (2, 3, 4)
        norms = [jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=axes) + 1e-8) for x in (s, t)]
        cosine = jnp.sum(s * t, axis=axes) * norms[0] * norms[1]
        return 1.0 - cosine + jnp.mean(jnp.square(s - t), axis=axes)

    actual = jax.jit(horizon.horizon_distance)(student, teacher)
    chex.assert_trees_all_equal(actual, plain(student, teacher))


def slow_distance(student, teacher):
    distances = np.zeros(student.shape[:2])
    for k, b in np.ndindex(distances.shape):
        s, t = (np.asarray(x[k, b], np.float64).ravel() for x in (student, teacher))
        cosine = s @ t / np.sqrt((s @ s) * (t @ t))
        distances[k, b] = 1 - cosine + np.mean((s - t) ** 2)
    return distances


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("jit", [False, True])
def test_distance_matches_a_slow_loop(jit, shape):
    student, teacher = (estimates(3, seed=seed, shape=shape) for seed in (1, 2))
    function = jax.jit(horizon.horizon_distance) if jit else horizon.horizon_distance
    chex.assert_trees_all_close(
        function(student, teacher), np.float32(slow_distance(student, teacher)), rtol=1e-5
    )


def test_distance_has_its_closed_forms():
    """Equal: 0. Opposite unit values: cos = -1 and (2)^2, so 2 + 4. Orthogonal: 1 + the mean square."""
    x = jnp.ones((1, *SHAPE))
    orthogonal = x.at[:, :, :, :, 1].set(-1.0)
    for other, expected in ((x, 0.0), (-x, 6.0), (orthogonal, 1.0 + 2.0), (2 * x, 1.0)):
        actual = horizon.horizon_distance(x, other)
        chex.assert_trees_all_close(actual, jnp.full((1, SHAPE[0]), expected), atol=1e-6)


def test_zero_vectors_have_finite_distances_and_gradients():
    zeros, x = jnp.zeros((1, *SHAPE)), estimates(1)
    gradient_fn = jax.jit(jax.value_and_grad(lambda s, t: horizon.horizon_distance(s, t).sum()))
    for student, teacher in ((zeros, x), (x, zeros), (zeros, zeros)):
        chex.assert_tree_all_finite(gradient_fn(student, teacher))


@pytest.mark.parametrize("name", ["distance", "loss"])
def test_gradients_reach_the_student_and_never_the_teacher(name):
    student, teacher = estimates(2, seed=1), estimates(2, seed=2)
    weights = np.array([0.25, 0.75], np.float32)

    @jax.jit
    def scalar(s, t):
        if name == "distance":
            return horizon.horizon_distance(s, t).sum()
        return horizon.shaping_loss(s, t, weights).sum()

    student_gradient, teacher_gradient = jax.grad(scalar, argnums=(0, 1))(student, teacher)
    chex.assert_trees_all_equal(teacher_gradient, jnp.zeros_like(teacher))
    assert np.all(np.asarray(student_gradient) != 0)
    chex.assert_numerical_grads(lambda s: scalar(s, teacher), (student,), order=1, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("jit", [False, True])
def test_shaping_loss_matches_a_slow_loop(jit):
    student, teacher = estimates(3, seed=1), estimates(3, seed=2)
    weights = horizon.normalise_weights([1, 2, 5], 3)
    distances, expected = slow_distance(student, teacher), np.zeros(SHAPE[0])
    for b in range(SHAPE[0]):
        for k, weight in enumerate((0.125, 0.25, 0.625)):
            expected[b] += weight * distances[k, b]
    function = jax.jit(horizon.shaping_loss) if jit else horizon.shaping_loss
    actual = function(student, teacher, weights)
    chex.assert_trees_all_close(actual, np.float32(expected), rtol=1e-5)
    chex.assert_trees_all_close(
        horizon.shaping_loss(student[:, ::-1], teacher[:, ::-1], weights), actual[::-1], rtol=1e-5
    )


@hypothesis.given(values=st.lists(st.floats(0, 100), min_size=1, max_size=8))
@hypothesis.settings(deadline=None, max_examples=30)
def test_weights_sum_to_one_in_proportion(values):
    hypothesis.assume(sum(values) > 1e-3)
    actual = horizon.normalise_weights(values, len(values))
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual.sum(), 1, rtol=1e-5)
    np.testing.assert_allclose(actual * sum(values), values, rtol=1e-5, atol=1e-6)


def test_uniform_weights_and_misuse():
    np.testing.assert_array_equal(horizon.normalise_weights("uniform", 4), np.full(4, 0.25, np.float32))
    for weights in ("linear", [1.0, 2.0], [1.0, -1.0, 1.0], [0.0, 0.0, 0.0], [1.0, np.nan, 1.0]):
        with pytest.raises(ValueError, match="horizon weights"):
            horizon.normalise_weights(weights, 3)
    with pytest.raises(AssertionError):
        horizon.shaping_loss(estimates(3), estimates(3), np.ones(2, np.float32))
    with pytest.raises(AssertionError):  # no axis of samples
        horizon.horizon_distance(jnp.ones(3), jnp.ones(3))
