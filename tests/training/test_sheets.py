"""Sheets of samples: how many pictures they show, what stands below them, and what is recorded."""

import functools
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rats_jax.method.combine import normalised_sum, weighted_sum
from rats_jax.method.gate import make_gate_fn, sigmoid_gate
from rats_jax.method.moments import init_moments, update_moments
from rats_jax.parallel.mesh import make_mesh
from rats_jax.report import figures
from rats_jax.training.program import Program
from rats_jax.training.sheets import Sheets
from rats_jax.training.table import EvaluationSet, Pictures
from rats_jax.types import TrainState
from tests.tiny import mesh_sizes, tiny_config


@pytest.mark.parametrize(("batch", "count"), [(4, 6), (1, 3), (8, 3)])
def test_a_sheet_shows_as_many_pictures_as_are_asked_for(models, monkeypatch, batch, count):
    changes = {"evaluation__batch_size": batch, "evaluation__num_prompts": 2, "samples__num": count}
    mesh = make_mesh(mesh_sizes(), jax.devices()[:1])
    monkeypatch.setattr("rats_jax.training.program.make_mesh", lambda *_: mesh)
    program = Program(tiny_config(models, reference="", **changes))
    sizes = []

    def render(params, inputs, monitors, noise):
        sizes.append(len(noise))
        names = (*program.experiment.rewards, *program.experiment.monitors)
        images = np.random.default_rng(len(sizes)).random((len(noise), 32, 32, 3), np.float32)
        return Pictures(images, noise, {name: np.zeros(len(noise), np.float32) for name in names})

    program.__dict__["render_fns"] = dict.fromkeys(("teacher", "student"), render)
    program.__dict__["frozen"] = SimpleNamespace(base={})
    shown = []
    monkeypatch.setattr(figures, "draw_sheet", lambda *arguments: shown.append(arguments))
    state = TrainState(step=0, student={}, teacher={}, opt_state=None, gap=init_moments(), rewards={})
    _, record = Sheets(program, count=count).draw(state)
    ((images, captions, prompts),) = shown
    assert {len(row) for row in images.values()} == {count} == {len(prompts)}
    assert all(len(row) >= count for row in captions.values())
    assert set(sizes) == {batch}  # one program
    assert 0 < record["guard/diversity/student"] < 1  # of seeds of one prompt, in however many batches


SCORES = {"teacher": (5.0, 10.0), "untrained": (1.0, 3.0), "student": (4.0, 6.0)}
WEIGHT, TAU = 2.0, 3.0


@pytest.fixture
def draw(monkeypatch):
    """Draw a sheet of two pictures whose scores are made up, of rewards r and judged: captions and record."""

    def draw(*, combine_fn, state, gate_reward="", relative=False):
        gate_fn = make_gate_fn(sigmoid_gate, temperature=TAU, relative=relative)
        objective = SimpleNamespace(combine_fn=combine_fn, gate_fn=gate_fn, gate_reward=gate_reward)

        def render(params, batch, monitors, noise):
            scores = np.float32(SCORES[params])
            return Pictures(np.zeros((2, 4, 4, 3), np.float32), noise, {"r": scores, "judged": -scores})

        experiment = SimpleNamespace(
            objective=objective,
            monitors={},
            teacher_moves=False,
            pipeline=SimpleNamespace(latent_shape=(2, 2, 1)),
            make_batch=lambda prompts: None,
            make_monitor_inputs=lambda prompts: None,
        )
        program = SimpleNamespace(
            experiment=experiment,
            pretrained=SimpleNamespace(student="untrained", teacher="teacher"),
            sheet_set=EvaluationSet(["cat", "dog"], np.zeros((2, 2, 2, 1), np.float32), 2),
            render_fns=dict.fromkeys(("teacher", "student"), render),
        )
        shown = []
        monkeypatch.setattr(figures, "draw_sheet", lambda *arguments: shown.append(arguments))
        _, record = Sheets(program, count=2).draw(state)
        return shown[0][1], record

    return draw


def state_of(step, *, rewards=None):
    moments = {} if rewards is None else {"r": rewards}
    return TrainState(step, "student", "teacher", None, init_moments(), moments)


@pytest.mark.parametrize("judged", ["", "judged"])
def test_captions_say_the_reward_and_the_gate_of_each_picture(draw, judged):
    combine_fn = functools.partial(weighted_sum, weights={"r": WEIGHT})
    captions, record = draw(combine_fn=combine_fn, state=state_of(7), gate_reward=judged)
    for who in ("untrained", "student"):
        for i, caption in enumerate(captions[who]):
            gap = SCORES["teacher"][i] - SCORES[who][i]
            gate = 1 / (1 + math.exp(-(-gap if judged else WEIGHT * gap) / TAU))
            assert caption == f"{WEIGHT * SCORES[who][i]:.3f}  gate {gate:.2f}"
    assert captions["teacher"] == ["10.000", "20.000"]
    assert record["reward/student"] == pytest.approx(WEIGHT * 5.0)


def test_normalised_rewards_are_recorded_in_a_unit_that_stays(draw):
    """In deviations of the untrained pictures, 1 here, whatever the training has seen by then."""
    combine_fn = functools.partial(normalised_sum, weights={"r": WEIGHT})
    nothing, wide = init_moments(), update_moments(init_moments(), jnp.array([0.0, 50.0]), decay=0.0)
    first, later = (
        draw(combine_fn=combine_fn, state=state_of(step, rewards=rewards), relative=True)
        for step, rewards in ((0, nothing), (100, wide))
    )
    assert first[1]["reward/student"] == later[1]["reward/student"] == pytest.approx(WEIGHT * 5.0)
    # Before the first update the gap's deviation is that of the sheet, 3: gaps are 2 and 8.
    gates = [float(caption.rpartition(" ")[2]) for caption in first[0]["untrained"]]
    assert gates == [round(1 / (1 + math.exp(-gap / (3 * TAU))), 2) for gap in (8, 14)]
