"""How many pictures a sheet shows, whatever the size of the batches that draw them."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from rats_jax.method.moments import init_moments
from rats_jax.parallel.mesh import make_mesh
from rats_jax.report import figures
from rats_jax.training.program import Program
from rats_jax.training.sheets import Sheets
from rats_jax.training.table import Pictures
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
