"""Compiled update, placed weights and samplers of one config; several runs may share it."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rats_jax.config.together import validate
from rats_jax.data.prompts import find_prompts
from rats_jax.errors import expect
from rats_jax.evaluation.reference import load_reference
from rats_jax.method.contracts import Contestant
from rats_jax.parallel import placement
from rats_jax.parallel.cache import without_collections
from rats_jax.parallel.compiler import compiler_options
from rats_jax.parallel.environment import check_sums
from rats_jax.parallel.mesh import Mesh, make_mesh, validate_batch
from rats_jax.paths import resolve_path
from rats_jax.pipelines.stored_embeds import expect_stored
from rats_jax.training import table
from rats_jax.training.experiment import Experiment
from rats_jax.training.models import open_models
from rats_jax.training.setup import make_experiment
from rats_jax.training.table import Pictures, RenderFn
from rats_jax.training.teacher import keeps_targets
from rats_jax.types import Batch, FrozenParams, Key, Params, Targets, TrainState


class Layout(NamedTuple):
    """Where the arguments of an update lie: pytrees of shardings, one for all leaves of a batch."""

    state: Any
    frozen: Any
    batch: Any


def make_layout(experiment: Experiment, mesh: Mesh, rules: Any) -> Layout:
    """Lay out the arguments of an update on a mesh by the rules of its config."""
    return Layout(
        placement.param_sharding(mesh, experiment.abstract_state(), rules),
        placement.param_sharding(mesh, experiment.frozen_params(), rules),
        placement.batch_sharding(mesh),
    )


def jit_update(update_fn: Any, layout: Layout, *targets: Any) -> Any:
    """Jit an update, its state donated and kept where it lies.

    Args:
        update_fn: (state, frozen, batch, key) -> (state, metrics), or with targets as one more argument.
        layout: of its arguments.
        targets: the sharding of the targets, if it takes them.

    Returns:
        The jitted function.
    """
    return jax.jit(
        update_fn,
        in_shardings=(*layout, None, *targets),
        out_shardings=(layout.state, None),
        donate_argnums=0,
    )


class Pretrained(NamedTuple):
    """What the contestants that were not trained roll out with, as student and as teacher."""

    student: Params
    teacher: Params


class Program:
    """What a run computes with, from opening its models to its compiled update; slow parts when wanted.

    Runs whose configs differ in their seed, work directory or folder of targets alone may share one: the
    update is then compiled once for all of them.

    Args:
        config: fields as in configs/default.py.

    Attributes:
        prompts: of the config.
        mesh: of devices.
        experiment: the functions.
        reference: the real pictures of the prompts, or None.
        evaluation_set: of the table, or None.
        heldout_set: of the table of prompts that training does not see, or None.
        sheet_set: of the sheets of samples: whole batches, with at least as many pictures as are shown.
        layout: of state, frozen weights and batches.
        rows: of the global batch, those of this process.
        compile_seconds: that the update took; 0 until then.

    Raises:
        ConfigError: bad input, before anything is placed or compiled; as `check_sums`.
    """

    def __init__(self, config: Any):
        validate(config)
        check_sums()
        self.config, self.prompts, settings = config, find_prompts(config.prompts), config.evaluation
        unseen = ()
        if config.heldout_prompts and settings.num_prompts:
            unseen = _find_heldout_prompts(config, self.prompts)
        if config.prompt_embeds:
            expect_stored(resolve_path(config.prompt_embeds), [*self.prompts, *unseen])
        self.mesh = mesh = open_mesh(config)
        with without_collections():
            models = open_models(config, mesh.devices.flat[0])
        self.experiment = experiment = make_experiment(config, models, mesh)
        self.reference = None
        if config.reference:
            path = resolve_path(config.reference)
            self.reference = load_reference(path, self.prompts, experiment.pipeline.image_shape())
        draw_set = functools.partial(table.make_evaluation_set, experiment, settings=settings)
        count, shown = settings.num_prompts, config.samples.num + -config.samples.num % settings.batch_size
        self.evaluation_set = draw_set(self.prompts, count=count) if count else None
        self.heldout_set = draw_set(unseen, count=count) if unseen else None
        self.sheet_set = draw_set(self.prompts, count=shown)
        read = [
            chosen.prompts for chosen in (self.evaluation_set, self.heldout_set, self.sheet_set) if chosen
        ]
        if len(self.prompts) <= config.num_updates * config.batch_size:
            # All will be seen: what the rewards read of them is computed together, not batch by batch.
            read.insert(0, list(self.prompts))
            if not config.prompt_embeds:  # which are read when they are wanted
                experiment.pipeline.tokenize(list(self.prompts))
        for prompts in read:  # what a reward cannot read it refuses now, not after the training
            experiment.make_reward_inputs(prompts)
            experiment.make_monitor_inputs(prompts)
        self.layout = make_layout(experiment, mesh, config.sharding)
        self.rows = placement.local_rows(self.layout.batch, config.batch_size)
        self.compile_seconds = 0.0

    def describe(self, step: int) -> str:
        """Say in one line what a run of it starts with."""
        size = sum(leaf.size for leaf in jax.tree.leaves(self.experiment.abstract_state().student))
        mesh = " x ".join(f"{axis}={length}" for axis, length in self.mesh.shape.items())
        count = jax.process_count()
        return (
            f"{len(self.prompts)} prompts, {size / 1e6:.1f} M trained parameters, mesh {mesh} in "
            f"{count} process{'es' if count > 1 else ''}, "
            f"{'resuming at' if step else 'starting from'} update {step}"
        )

    @property
    def placed_state(self) -> TrainState:
        """Shapes, dtypes and places of the state."""
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            self.experiment.abstract_state(),
            self.layout.state,
        )

    @functools.cached_property
    def frozen(self) -> FrozenParams:
        """The weights that no update changes, on the devices."""
        return placement.place(self.experiment.frozen_params(), self.layout.frozen)

    @functools.cached_property
    def pretrained(self) -> Pretrained:
        """What the contestants that were not trained roll out with."""
        untrained = self.frozen.base
        if self.config.lora.rank:
            untrained = placement.place(self.experiment.initial, self.layout.state.student)
        return Pretrained(untrained, untrained if self.experiment.teacher_moves else {})

    @functools.cached_property
    def render_fns(self) -> dict[str, RenderFn]:
        """Samplers of the table, with their judge: (params, batch, monitors' inputs, noise) -> Pictures."""
        experiment, mesh = self.experiment, self.mesh
        monitors = {"monitors": experiment.monitor_params()}
        layout = placement.param_sharding(mesh, monitors, self.config.sharding)
        monitors = placement.place(monitors, layout)["monitors"]
        frozen = self.frozen

        # Every process gets all pictures: they are few, and all draw the same conclusions from them.
        judge = jax.jit(
            table.make_judge_fn(experiment),
            out_shardings=placement.replicated(mesh),
            compiler_options=self._compiler_options,
        )

        def bind(contestant: Contestant) -> RenderFn:
            sample = jax.jit(
                table.make_contestant_fn(experiment, contestant),
                out_shardings=self.layout.batch,
                compiler_options=self._compiler_options,
            )

            def render(params: Params, *inputs: Any) -> Pictures:
                batch, monitor_prompt, noise = placement.place(inputs, self.layout.batch)
                with jax.set_mesh(mesh):
                    latents = sample(params, frozen, batch, noise)
                    return judge(frozen, monitors, batch, monitor_prompt, latents)

            return render

        return {
            "teacher": bind(experiment.teacher),
            "student": bind(experiment.student),
            "untrained_cfg": bind(experiment.untrained_guided),
        }

    def init_state(self) -> TrainState:
        """Make the state before the first update, on the devices."""
        student = placement.place(self.experiment.initial, self.layout.state.student)
        return jax.jit(self.experiment.init_state, out_shardings=self.layout.state)(student)

    def untrained_state(self) -> TrainState:
        """Give what a sheet reads of the state before the first update, without a copy of weights."""
        state = self.experiment.init_state({})
        return dataclasses.replace(state, student=self.pretrained.student, teacher=self.pretrained.teacher)

    def fold_key(self, root: Key, origin: int) -> Key:
        """Make the key of an update from that of the run, on all devices."""
        return self._fold_in(root, np.uint32(origin))

    @functools.cached_property
    def _fold_in(self) -> Any:
        return jax.jit(jax.random.fold_in, out_shardings=placement.replicated(self.mesh))

    def place_batch(self, indices: np.ndarray) -> Batch:
        """Read and place the prompts of those rows that the devices of this process hold."""
        batch = self.experiment.make_batch([self.prompts[int(i)] for i in indices[self.rows]])
        return self.place_rows(batch)

    def place_rows(self, tree: Any) -> Any:
        """Place a global batch of which this process has its rows."""
        return placement.place_rows(tree, self.rows, self.layout.batch, self.config.batch_size)

    @functools.cached_property
    def teach(self) -> Any:
        """The teacher's part of the update, jitted: (TrainState.teacher, frozen, batch, key) -> Targets."""
        state, frozen, batch = self.layout
        teach = jax.jit(
            self.experiment.teach_fn,
            in_shardings=(state.teacher, frozen, batch, None),
            out_shardings=batch,
            compiler_options=self._compiler_options,
        )

        def taught(*inputs: Any) -> Targets:
            with jax.set_mesh(self.mesh):
                return teach(*inputs)

        return taught

    @property
    def _compiler_options(self) -> dict[str, Any]:
        return compiler_options(self.mesh.devices.flat[0])

    @functools.cached_property
    def update(self) -> Any:
        """The update, compiled: (state, frozen, batch, key) -> (state, metrics).

        The state that goes in is donated: it is gone afterwards, what comes out takes its place. Where
        targets are kept, they are one more argument. A batch that would need a second compilation raises
        instead.
        """
        start = time.perf_counter()
        compiled = self.lower_update().compile(self._compiler_options)
        self.compile_seconds = time.perf_counter() - start
        return compiled

    def lower_update(self) -> Any:
        """Trace the update and lower it for the devices of the mesh."""
        experiment, state = self.experiment, self.placed_state
        batch = self.place_batch(np.zeros(self.config.batch_size, np.int64))
        inputs = state, self.frozen, batch, jax.random.key(0)
        update = jit_update(experiment.update_fn, self.layout)
        if keeps_targets(self.config):
            update = jit_update(experiment.update_from_targets_fn, self.layout, self.layout.batch)
            inputs += (jax.eval_shape(experiment.teach_fn, state.teacher, *inputs[1:]),)
        with without_collections(), jax.set_mesh(self.mesh):
            return update.lower(*inputs)


def open_mesh(config: Any, devices: Sequence[Any] | None = None) -> Mesh:
    """Make the mesh of a config, and check that its batches can be split over it.

    Args:
        config: fields as in configs/default.py, already validated.
        devices: as of `make_mesh`.

    Raises:
        ConfigError: as `make_mesh` and `validate_batch`.
    """
    mesh = make_mesh(config.mesh, devices)
    parts, rendered = config.optimizer.accumulation_steps, config.evaluation.batch_size
    for times in (1, config.decoder_parts, config.reward_parts):
        validate_batch(mesh, field="batch_size", batch_size=config.batch_size, parts=parts * times)
        validate_batch(mesh, field="evaluation.batch_size", batch_size=rendered, parts=times)
    return mesh


def _find_heldout_prompts(config: Any, trained: Sequence[str]) -> Sequence[str]:
    """Read the prompts that training does not see.

    Raises:
        ConfigError: it sees some of them, or they cannot be read.
    """
    prompts = find_prompts(config.heldout_prompts, field="heldout_prompts")
    common = sorted(set(prompts) & set(trained))
    expected = f"prompts that are not in prompts={config.prompts!r}; {len(common)} are, e.g. {common[:1]}"
    expect(not common, "heldout_prompts", config.heldout_prompts, expected)
    return prompts
