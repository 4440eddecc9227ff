"""Every corruption keeps the contract: a picture in [0, 1], untouched at severity 0, worse the more."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rats_jax.networks.autoencoder_kl import AutoencoderKL
from rats_jax.pretraining.corrupt import CORRUPTIONS, latent_noise
from rats_jax.pretraining.vae import decode, encode
from tests.tiny import VAE, random_params

BATCH = 48
KEY = jax.random.key(3)


@functools.cache
def pictures():
    """Coloured discs and stripes on white: edges, flat areas and three different channels."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32]
    images = np.ones((BATCH, 32, 32, 3))
    for image in images:
        image[(y + rng.integers(8) * x) % 9 < 3] = rng.uniform(size=3)
        row, column = rng.integers(8, 24, 2)
        image[(y - row) ** 2 + (x - column) ** 2 < rng.integers(20, 80)] = rng.uniform(size=3)
    return jnp.asarray(images, jnp.float32)


def distances(corrupt, severity):
    severity = jnp.full(BATCH, severity)
    corrupted = jax.jit(corrupt)(KEY, pictures(), severity)
    chex.assert_equal_shape([corrupted, pictures()])
    chex.assert_type(corrupted, jnp.float32)
    chex.assert_tree_all_finite(corrupted)
    assert float(corrupted.min()) >= -1e-6 and float(corrupted.max()) <= 1 + 1e-6
    return np.mean(np.square(corrupted - pictures()), axis=(1, 2, 3))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_damage_grows_from_nothing(name):
    none, mild, more, most = (distances(CORRUPTIONS[name], severity) for severity in (0.0, 0.3, 0.6, 1.0))
    np.testing.assert_allclose(none, 0, atol=1e-12)
    assert 1e-4 < np.mean(mild) < np.mean(more) < np.mean(most)
    assert np.mean(most > 1e-4) > 0.9


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_picture_has_its_own_severity_and_the_key_decides_the_rest(name):
    severity = jnp.where(jnp.arange(BATCH) % 2 == 0, 0.0, 0.7)
    corrupt = jax.jit(CORRUPTIONS[name])
    corrupted = corrupt(KEY, pictures(), severity)
    chex.assert_trees_all_close(corrupted[::2], pictures()[::2], atol=1e-6)
    chex.assert_trees_all_equal(corrupt(KEY, pictures(), severity), corrupted)
    other = corrupt(jax.random.key(4), pictures(), severity)
    assert np.all(other == corrupted) == (name in ("blur", "mix", "contrast"))


def test_latent_noise_starts_at_the_reconstruction():
    vae = AutoencoderKL.from_config(VAE)
    params = random_params(vae.abstract_params(), seed=0)
    images = pictures()[:4]
    corrupt = latent_noise(vae, params)

    @jax.jit
    def all_three():
        mean, _ = encode(vae, params, images)
        reconstruction = jnp.clip(decode(vae, params, mean), 0, 1)
        return reconstruction, *(corrupt(KEY, images, jnp.full(4, severity)) for severity in (0.0, 0.2, 0.9))

    reconstruction, none, mild, more = all_three()
    chex.assert_trees_all_close(none, reconstruction, atol=1e-5)
    far = [float(jnp.mean(jnp.square(x - reconstruction))) for x in (mild, more)]
    assert 0 < far[0] < far[1]
    assert float(more.min()) >= 0 and float(more.max()) <= 1
