"""A stage without a network: models that give what they were asked for."""

import time
from types import SimpleNamespace

import numpy as np

from rats_jax.demonstration.stage import Stage
from rats_jax.evaluation.contestants import Entry


class FakeModel:
    """A model whose pictures are its noise; the first of each number of steps takes long."""

    title, origin = "fake", None

    def __init__(self, shape=(4, 6, 3)):
        self.calls = []
        self._seen = set()
        self.pipeline = SimpleNamespace(
            latent_shape=shape, image_shape=lambda: shape, evaluations=lambda scale: 1 + (scale > 1)
        )

    def make_noise(self, seeds):
        shape = (len(seeds), *self.pipeline.latent_shape)
        return np.random.default_rng(list(seeds)).uniform(size=shape).astype(np.float32)

    def compile(self, *, num_steps):
        self.calls.append(("compile", num_steps))
        time.sleep(0.3)

    def __call__(self, prompts, *, num_steps, latents, guidance_scale):
        self.calls.append((prompts[0], num_steps, guidance_scale))
        if num_steps not in self._seen:
            self._seen.add(num_steps)
            time.sleep(0.3)
        return latents


def fake_stage(**shape):
    """A teacher of 9 steps and guidance 3, and a student of 4 steps."""
    entries = (Entry("teacher", FakeModel(**shape), 9, 3.0), Entry("student", FakeModel(**shape), 4, 1.0))
    return Stage(entries, None, ["red apple", "cat"])
