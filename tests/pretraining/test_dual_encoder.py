"""What a reward is told is worse, is moved towards a higher score first."""

import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.networks import clip
from rats_jax.pretraining.dual_encoder import lift
from rats_jax.pretraining.stage import PICTURES

TOWER = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
CONFIG = {
    "text_config": TOWER
    | {"vocab_size": 8, "max_position_embeddings": 4, "bos_token_id": 6, "eos_token_id": 7},
    "vision_config": TOWER | {"image_size": 8, "patch_size": 4},
    "projection_dim": 8,
}


def test_a_step_raises_the_score_by_as_much_as_it_may():
    encoder = PICTURES.make(CONFIG)
    module, params = encoder.module, clip.init_clip(encoder.module, jax.random.key(0))
    images = jax.random.uniform(jax.random.key(1), (4, 8, 8, 3))
    text = jax.random.normal(jax.random.key(2), (4, 8))

    def score(pictures):
        return np.asarray(jnp.sum(text * clip.embed_images(module, params, pictures), axis=-1))

    steps = jnp.array([0.0, 0.0, 0.004, 0.02]).reshape(4, 1, 1, 1)
    lifted = lift(encoder, params, text, images, steps)
    moved = np.abs(np.asarray(lifted - images)).reshape(4, -1)
    assert not moved[:2].any() and np.all(moved[2:].max(axis=1) <= steps.reshape(4)[2:] + 1e-6)
    assert np.all((np.asarray(lifted) >= 0.0) & (np.asarray(lifted) <= 1.0))
    assert np.all(score(lifted)[2:] > score(images)[2:])
    one = np.asarray(lift(encoder, params, text, images, 0.02))
    np.testing.assert_array_equal(one[3], lifted[3])
    gradient = jax.grad(lambda x: jnp.sum(lift(encoder, params, text, x, 0.02)))(images)
    assert not np.any(gradient)
