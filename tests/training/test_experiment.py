"""What a config says reaches the functions of a run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rats_jax.errors import ConfigError
from rats_jax.parallel.mesh import make_mesh
from rats_jax.training.models import open_models
from rats_jax.training.setup import make_experiment
from tests.tiny import PROMPTS, mesh_sizes, tiny_config


def scans(fn, *args):
    """List the lengths of the loops in the trace of a function."""
    return [e.params["length"] for e in jax.make_jaxpr(fn)(*args).eqns if e.primitive.name == "scan"]


@pytest.mark.parametrize(("spacing", "refused"), [("leading", True), ("trailing", False)])
def test_one_step_must_begin_at_noise(models, spacing, refused):
    changes = {"student__num_steps": 1, "student__reward_gradient_steps": 1}
    config = tiny_config(models, student__timestep_spacing=spacing, **changes)
    mesh = make_mesh(mesh_sizes(), jax.devices()[:1])
    opened = open_models(config, jax.devices()[0])
    if not refused:
        assert make_experiment(config, opened, mesh).nfe == 1
        return
    with pytest.raises(
        ConfigError, match="^student.num_steps=1: expected first timestep [01] to be of noise"
    ):
        make_experiment(config, opened, mesh)


@pytest.mark.slow
def test_decoding_and_scoring_in_parts_changes_nothing(models):
    results = []
    for decoder_parts, reward_parts in ((1, 1), (2, 4)):
        config = tiny_config(models, decoder_parts=decoder_parts, reward_parts=reward_parts)
        mesh = make_mesh(mesh_sizes(), jax.devices()[:1])
        experiment = make_experiment(config, open_models(config, jax.devices()[0]), mesh)
        frozen = jax.tree.map(np.asarray, experiment.frozen_params())
        latents = np.random.default_rng(0).normal(size=(8, *experiment.pipeline.latent_shape))
        latents = latents.astype(np.float32)
        images = jax.jit(experiment.fns.decode_fn)(frozen.decoder, latents)
        inputs = frozen.rewards, images, experiment.make_batch(PROMPTS).reward
        assert scans(experiment.fns.decode_fn, frozen.decoder, latents) == [2] * (decoder_parts > 1)
        assert scans(experiment.fns.score_fn, *inputs) == [4] * (reward_parts > 1)
        results.append((images, jax.jit(experiment.fns.score_fn)(*inputs)))
    (images, scores), (images_in_parts, scores_in_parts) = results
    np.testing.assert_allclose(images_in_parts, images, atol=1e-5)
    for name, values in scores.items():
        np.testing.assert_allclose(scores_in_parts[name], values, rtol=1e-4)


def test_weights_that_are_kept_in_float32_stay_so_where_all_are_trained_in_bfloat16(models):
    """Student, untrained model and frozen teacher round the same weights."""
    config = tiny_config(models, compute_dtype="bfloat16", frozen_dtype="bfloat16")
    mesh = make_mesh(mesh_sizes(), jax.devices()[:1])
    opened = open_models(config, jax.devices()[0])
    pipeline = dataclasses.replace(opened.pipeline, float32_weights="time_embedding|conv_in/bias")
    experiment = make_experiment(config, dataclasses.replace(opened, pipeline=pipeline), mesh)
    frozen = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, experiment.frozen_params().base))
    with jax.set_mesh(mesh):
        trained = jax.eval_shape(experiment.student.params_fn, frozen, experiment.abstract_state().student)
    dtypes = jax.tree.map(lambda x: x.dtype, trained)
    assert dtypes == jax.tree.map(lambda x: x.dtype, frozen)
    assert dtypes["conv_in"] == {"kernel": jnp.bfloat16, "bias": jnp.float32}
