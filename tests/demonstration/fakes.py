"""A stage without a network: models that give what they were asked for."""

from types import SimpleNamespace

import numpy as np

from rats_jax.demonstration.stage import Stage
from rats_jax.evaluation.contestants import Entry


class Clock:
    """A time that passes when it is told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class FakeModel:
    """A model whose pictures are its noise: 30 s to compile, 20 s the first time, then 0.5 s."""

    title, origin = "fake", None

    def __init__(self, clock, shape=(4, 6, 3)):
        self.calls, self._clock = [], clock
        self._seen = set()
        self.pipeline = SimpleNamespace(
            latent_shape=shape, image_shape=lambda: shape, evaluations=lambda scale: 1 + (scale > 1)
        )

    def make_noise(self, seeds):
        shape = (len(seeds), *self.pipeline.latent_shape)
        return np.random.default_rng(list(seeds)).uniform(size=shape).astype(np.float32)

    def compile(self, *, num_steps):
        self.calls.append(("compile", num_steps))
        self._clock.now += 30.0

    def __call__(self, prompts, *, num_steps, latents, guidance_scale):
        self.calls.append((prompts[0], num_steps, guidance_scale))
        self._clock.now += 0.5 if num_steps in self._seen else 20.0
        self._seen.add(num_steps)
        return latents


def fake_stage(**shape):
    """A teacher of 9 steps and guidance 3, and a student of 4 steps."""
    clock = Clock()
    teacher, student = FakeModel(clock, **shape), FakeModel(clock, **shape)
    entries = Entry("teacher", teacher, 9, 3.0), Entry("student", student, 4, 1.0)
    return Stage(entries, None, ["red apple", "cat"], clock)
