"""What a run computes with: its functions jitted, its weights placed, its update compiled."""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any

import jax
import numpy as np

from rats_jax.config.fields import validate
from rats_jax.data.prompts import find_prompts
from rats_jax.evaluation.reference import load_reference
from rats_jax.parallel import placement
from rats_jax.parallel.cache import without_collections
from rats_jax.parallel.mesh import make_mesh, validate_batch
from rats_jax.paths import resolve_path
from rats_jax.training import table
from rats_jax.training.experiment import make_experiment
from rats_jax.training.models import open_models
from rats_jax.training.sheets import Pretrained, RenderFn
from rats_jax.training.table import Pictures
from rats_jax.types import Batch, FrozenParams, Params, Targets, TrainState


class Program:
    """Everything of a run that outlives a single start of it; the slow parts are made when they are wanted.

    Runs whose configs differ in their seed, work directory or folder of targets alone may share one: the
    update is then compiled once for all of them.

    Args:
        config: fields as in configs/default.py.

    Attributes:
        prompts: of the config.
        mesh: of devices.
        experiment: the functions.
        reference: the real pictures of the prompts, or None.
        evaluation_set: of the table and of the sheets.
        abstract_state, state_sharding: of the TrainState.
        batch_sharding: of batches and targets.
        rows: of the global batch, those of this process.
        compile_seconds: that the update took; 0 until then.

    Raises:
        ConfigError: bad input, before anything is placed or compiled.
    """

    def __init__(self, config: Any):
        validate(config)
        self.config, self.prompts = config, find_prompts(config.prompts)
        self.mesh = mesh = make_mesh(config.mesh)
        parts = config.optimizer.accumulation_steps
        validate_batch(mesh, field="batch_size", batch_size=config.batch_size, parts=parts)
        rendered = config.evaluation.batch_size
        validate_batch(mesh, field="evaluation.batch_size", batch_size=rendered, parts=1)
        with without_collections():
            models = open_models(config)
        self.experiment = experiment = make_experiment(config, models, mesh)
        self.reference = None
        if config.reference:
            path = resolve_path(config.reference)
            self.reference = load_reference(path, self.prompts, experiment.image_shape())
        self.evaluation_set = table.make_evaluation_set(experiment, self.prompts, config.evaluation)
        if len(self.prompts) <= config.num_updates * config.batch_size:
            # All will be seen: what the rewards read of them is computed together, not batch by batch.
            experiment.make_batch(list(self.prompts))
            experiment.make_monitor_inputs(list(self.prompts))
        self.abstract_state = experiment.abstract_state()
        self.state_sharding = placement.param_sharding(mesh, self.abstract_state, config.sharding)
        self.batch_sharding = placement.batch_sharding(mesh)
        self.rows = placement.local_rows(self.batch_sharding, config.batch_size)
        self.compile_seconds = 0.0

    @functools.cached_property
    def frozen(self) -> FrozenParams:
        """The weights that no update changes, on the devices."""
        frozen = self.experiment.frozen_params()
        return placement.place(frozen, self._frozen_sharding)

    @functools.cached_property
    def _frozen_sharding(self) -> Any:
        return placement.param_sharding(self.mesh, self.experiment.frozen_params(), self.config.sharding)

    @functools.cached_property
    def pretrained(self) -> Pretrained:
        """What the contestants that were not trained roll out with."""
        untrained = self.frozen.base
        if self.config.lora.rank:
            untrained = placement.place(self.experiment.student, self.state_sharding.student)
        return Pretrained(untrained, untrained if self.experiment.teacher_moves else {})

    @functools.cached_property
    def render_fns(self) -> dict[str, RenderFn]:
        """The three samplers of the table, jitted: (params, batch, monitors' inputs, noise) -> Pictures."""
        experiment, mesh = self.experiment, self.mesh
        monitors = {"monitors": experiment.monitor_params()}
        layout = placement.param_sharding(mesh, monitors, self.config.sharding)
        monitors = placement.place(monitors, layout)["monitors"]
        frozen = self.frozen

        def bind(rollout_fn: Any, params_fn: Any) -> RenderFn:
            # Every process gets all pictures: they are few, and all draw the same conclusions from them.
            whole = placement.replicated(mesh)
            render = jax.jit(table.make_render_fn(experiment, rollout_fn, params_fn), out_shardings=whole)

            def bound(params: Params, *inputs: Any) -> Pictures:
                return render(params, frozen, monitors, *placement.place(inputs, self.batch_sharding))

            return bound

        return {
            "teacher": bind(experiment.teacher_rollout_fn, experiment.teacher_params_fn),
            "student": bind(experiment.student_rollout_fn, experiment.student_params_fn),
            "untrained_cfg": bind(experiment.untrained_cfg_rollout_fn, experiment.student_params_fn),
        }

    def init_state(self) -> TrainState:
        """Make the state before the first update, on the devices."""
        student = placement.place(self.experiment.student, self.state_sharding.student)
        return jax.jit(self.experiment.init_state, out_shardings=self.state_sharding)(student)

    def untrained_state(self) -> TrainState:
        """Give what a sheet reads of the state before the first update, without a copy of weights."""
        state = self.experiment.init_state({})
        return dataclasses.replace(state, student=self.pretrained.student, teacher=self.pretrained.teacher)

    def place_batch(self, indices: np.ndarray) -> Batch:
        """Read and place the prompts of those rows that the devices of this process hold."""
        batch = self.experiment.make_batch([self.prompts[int(i)] for i in indices[self.rows]])
        return self.place_rows(batch)

    def place_rows(self, tree: Any) -> Any:
        """Place a global batch of which this process has its rows."""
        return placement.place_rows(tree, self.rows, self.batch_sharding, self.config.batch_size)

    @functools.cached_property
    def teach(self) -> Any:
        """The teacher's part of the update, jitted: (TrainState.teacher, frozen, batch, key) -> Targets."""
        return jax.jit(
            self.experiment.teach_fn,
            in_shardings=(self.state_sharding.teacher, self._frozen_sharding, self.batch_sharding, None),
            out_shardings=self.batch_sharding,
        )

    @functools.cached_property
    def update(self) -> Any:
        """The update, compiled: (state, frozen, batch, key, targets or None) -> (state, metrics).

        A batch that would need a second compilation raises instead.
        """
        start = time.perf_counter()
        update = jax.jit(
            self.experiment.update_fn,
            in_shardings=(
                self.state_sharding,
                self._frozen_sharding,
                self.batch_sharding,
                None,
                self.batch_sharding,
            ),
            out_shardings=(self.state_sharding, None),
            donate_argnums=0,
        )
        state, frozen, key = (
            abstract(self.abstract_state, self.state_sharding),
            self.frozen,
            jax.random.key(0),
        )
        batch = self.place_batch(np.zeros(self.config.batch_size, np.int64))
        targets: Targets | None = None
        if self.config.teacher.targets or self.config.teacher.reuse_after:
            targets = jax.eval_shape(self.experiment.teach_fn, state.teacher, frozen, batch, key)
        with without_collections():
            lowered = update.lower(state, frozen, batch, key, targets)
        compiled = lowered.compile()
        self.compile_seconds = time.perf_counter() - start
        return compiled


def abstract(tree: Any, shardings: Any) -> Any:
    """Describe a tree of arrays with where each of them lies."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)
