"""The whole job on a tiny pipeline: files, table, resuming bit for bit."""

import collections
import contextlib
import json
import logging
import os
import re
import shutil
import signal

import chex
import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict
from PIL import Image
from safetensors.numpy import load_file, save_file

import rats_jax
from rats_jax.errors import ConfigError, DivergedError, HackingError, StoppedError, WeightsError
from rats_jax.evaluation import guards
from rats_jax.pipelines.open import open_pipeline
from rats_jax.pipelines.stored_embeds import write_prompt_embeds
from rats_jax.rewards import REWARDS
from rats_jax.rewards.base import without_weights
from rats_jax.training.logbook import Logbook
from rats_jax.training.loop import train, train_and_evaluate
from rats_jax.training.program import Program
from rats_jax.workdir.checkpoint import best_step, list_steps, open_manager
from rats_jax.workdir.metrics import read_metrics
from tests.tiny import PROMPTS, tiny_config


@pytest.fixture(scope="module")
def finished(models, tmp_path_factory):
    """Make one unbroken run of four updates."""
    workdir = tmp_path_factory.mktemp("run") / "straight"
    (workdir.parent / "other.txt").write_text("three prompts\nthat training\ndoes not see\n")
    with count_compilations() as compilations:
        config = tiny_config(models, heldout_prompts=str(workdir.parent / "other.txt"))
        summary = train_and_evaluate(config, workdir)
    return workdir, summary, compilations


@pytest.fixture(scope="module")
def program(models):
    """What runs of four updates share."""
    return Program(tiny_config(models))


@contextlib.contextmanager
def count_compilations():
    """Count what jax compiles, by the name of the function."""
    counts = collections.Counter()

    class Count(logging.Handler):
        def emit(self, record):
            if found := re.match(r"Compiling (?:jit\()?(\w+)", record.getMessage()):
                counts[found[1]] += 1

    logger, handler = logging.getLogger("jax"), Count()
    logger.addHandler(handler)
    try:
        with jax.log_compiles():
            yield counts
    finally:
        logger.removeHandler(handler)


def load_state(workdir, step):
    with open_manager(workdir / "checkpoints", keep=9, every=1) as manager:
        assert manager.latest_step() == step
        restored = manager.restore(step)
    return restored["state"], restored["prompts"]


@pytest.mark.slow
def test_a_run_leaves_what_the_readme_says(finished):
    workdir, summary, _ = finished
    assert json.loads((workdir / "summary.json").read_text()) == summary
    assert {"updates", "seconds", "seconds_per_update", "compile_seconds", "nfe", "teacher_nfe"} <= set(
        summary
    )
    assert (summary["updates"], summary["nfe"], summary["teacher_nfe"]) == (4, 2, 6)
    for table in ("reward", "heldout_reward", "reference_distance", "nearest_reference_distance"):
        assert set(summary[table]) == {"teacher", "untrained", "untrained_cfg", "student"}
        assert all(np.isfinite(value) for value in summary[table].values())
    assert summary["reward"]["student"] != summary["reward"]["untrained"]
    assert set(summary["rewards"]) == {"pickscore_emoji", "compressibility", "heldout"}
    assert summary["rewards"]["heldout"] == summary["heldout_reward"]
    assert "first_update_student_leads" in summary
    unseen = summary["heldout_prompts"]
    assert set(unseen["reward"]) == set(summary["reward"]) and unseen["reward"] != summary["reward"]
    assert set(unseen["reference_distance"].values()) == {None}  # of them there are no pictures

    records = read_metrics(workdir)
    assert [r["step"] for r in records] == [1, 2, 3, 4]
    expected = {"reward/student", "reward/teacher", "reward/gap", "gate/mean", "loss/shape", "loss/total"}
    assert all(expected | {"grad/norm"} <= set(r) for r in records)
    samples = read_metrics(workdir / "samples.jsonl")
    assert [r["step"] for r in samples] == [0, 4]
    guards = ("saturation", "colourfulness", "edge_density", "latent_std", "latent_mean_square")
    expected = {f"guard/{g}/{who}" for g in guards for who in ("student", "teacher")}
    expected |= {"reward/student", "monitor/heldout/student", "guard/diversity/student"}
    assert all(expected <= set(r) and all(np.isfinite(list(r.values()))) for r in samples)
    assert samples[0]["reward/student"] == samples[0]["reward/untrained"] == samples[1]["reward/untrained"]
    assert samples[1]["reward/student"] != samples[1]["reward/untrained"]
    for name in ("samples/step_000000.png", "samples/step_000004.png", "curves.png"):
        assert Image.open(workdir / name).width > 300
    assert (workdir / "config.json").is_file()
    assert list(workdir.glob("events.out.tfevents.*"))


@pytest.mark.slow
def test_the_update_is_compiled_once_in_a_run(finished):
    _, _, compilations = finished
    assert compilations["update"] == 1
    assert compilations["sample"] == 3  # teacher, untrained with guidance, student and untrained
    assert compilations["judge"] == 1


@pytest.mark.slow
def test_checkpoints_hold_all_that_training_changes_and_nothing_else(finished):
    workdir, _, _ = finished
    state, position = load_state(workdir, 4)
    assert set(state) == {"step", "student", "teacher", "opt_state", "gap", "rewards"}
    assert set(position) == {"iterator", "prompts"}
    assert state["teacher"] in ({}, None), "a teacher that does not move is the pretrained network"


@pytest.mark.slow
def test_a_run_that_is_asked_to_end_saves_its_last_update_and_goes_on(
    finished, program, tmp_path, monkeypatch
):
    straight, _, _ = finished
    before, log = signal.getsignal(signal.SIGTERM), Logbook.log

    def log_and_ask(book, step, metrics):
        log(book, step, metrics)
        if step == 3:  # no checkpoint is due
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Logbook, "log", log_and_ask)
    with pytest.raises(StoppedError, match=r"^stopped after update 3 of 4, which is saved: the same command"):
        train(program, program.config, tmp_path / "run")
    assert signal.getsignal(signal.SIGTERM) == before
    monkeypatch.undo()
    train(program, program.config, tmp_path / "run")
    chex.assert_trees_all_equal(load_state(tmp_path / "run", 4), load_state(straight, 4))
    assert [r["step"] for r in read_metrics(tmp_path / "run")] == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(finished, program, models, tmp_path):
    straight, summary, _ = finished
    train(program, tiny_config(models, num_updates=2), tmp_path / "run")
    resumed = train_and_evaluate(tiny_config(models), tmp_path / "run")
    chex.assert_trees_all_equal(load_state(tmp_path / "run", 4), load_state(straight, 4))
    timeless = [
        [{k: v for k, v in r.items() if not k.startswith("time/")} for r in read_metrics(workdir)]
        for workdir in (straight, tmp_path / "run")
    ]
    assert timeless[0] == timeless[1]
    for table in ("reward", "heldout_reward", "reference_distance"):
        assert resumed[table] == summary[table]
    kept = (tmp_path / "run" / "config.json").read_text()
    with pytest.raises(ConfigError, match="^num_updates=3: expected at least 4, the updates that the run in"):
        train(program, tiny_config(models, num_updates=3), tmp_path / "run")
    assert (tmp_path / "run" / "config.json").read_text() == kept


@pytest.mark.slow
def test_runs_share_a_program_and_a_teacher(finished, models, tmp_path, monkeypatch):
    """Neither the folder of targets nor a program that another run has used changes what is learnt."""
    config = tiny_config(models, samples__every=0, evaluation__num_prompts=0)
    config.teacher.targets = str(tmp_path / "targets")
    program = Program(config)
    summary = train(program, config, tmp_path / "first")
    assert summary["updates"] == 4 and "reward" not in summary
    assert not (tmp_path / "first" / "samples").exists()
    assert len(list((tmp_path / "targets").glob("*.safetensors"))) == 4
    learnt = [r["reward/student"] for r in read_metrics(tmp_path / "first")]
    np.testing.assert_allclose(learnt, [r["reward/student"] for r in read_metrics(finished[0])], rtol=1e-4)

    monkeypatch.setattr(program, "teach", None)  # all that it teaches is there
    train(program, config, tmp_path / "second")
    states = [load_state(tmp_path / name, 4)[0] for name in ("first", "second")]
    chex.assert_trees_all_equal(*states)

    other = config.copy_and_resolve_references()
    other.seed = 1
    with pytest.raises(ConfigError, match="teacher.targets=.*: expected targets with seed=1, it holds"):
        train(program, other, tmp_path / "third")
    other.teacher.targets = str(tmp_path / "others")
    monkeypatch.undo()
    train(program, other, tmp_path / "third")
    assert read_metrics(tmp_path / "third")[0]["reward/student"] != pytest.approx(learnt[0], rel=1e-6)

    # Prompts and noise begin again after two updates: the teacher is asked twice, also in a resumed run.
    again, taught, teach = config.copy_and_resolve_references(), [], program.teach
    again.teacher.targets, again.teacher.reuse_after = "", 2
    monkeypatch.setattr(program, "teach", lambda *inputs: taught.append(1) or teach(*inputs))
    train(program, again, tmp_path / "fourth")
    teacher, student = (
        [r[f"reward/{who}"] for r in read_metrics(tmp_path / "fourth")] for who in ("teacher", "student")
    )
    assert len(taught) == 2 and teacher[:2] == teacher[2:] and len(set(student)) == 4
    np.testing.assert_allclose(student[:2], learnt[:2], rtol=1e-6)
    again.num_updates = 2
    train(program, again, tmp_path / "fifth")
    again.num_updates = 4
    train(program, again, tmp_path / "fifth")
    chex.assert_trees_all_equal(*(load_state(tmp_path / name, 4)[0] for name in ("fourth", "fifth")))


@pytest.mark.slow
def test_a_teacher_that_has_moved_teaches_anew(models, tmp_path, monkeypatch):
    config = tiny_config(
        models,
        num_updates=6,
        teacher__ema_decay=0.0,
        teacher__ema_every=4,
        teacher__reuse_after=2,
        teacher__mixed_guidance_reason="a test",
        evaluation__num_prompts=0,
        samples__every=0,
    )
    program, taught = Program(config), []
    teach = program.teach
    monkeypatch.setattr(program, "teach", lambda *inputs: taught.append(1) or teach(*inputs))
    train(program, config, tmp_path / "run")
    rewards = [r["reward/teacher"] for r in read_metrics(tmp_path / "run")]
    assert len(taught) == 4
    assert rewards[:2] == rewards[2:4] and all(
        old != new for old, new in zip(rewards[:2], rewards[4:], strict=True)
    )


def test_the_donated_state_is_where_the_new_one_is_put(program):
    leaves, layouts = map(jax.tree.leaves, (program.placed_state, program.layout.state))
    size = sum(
        np.prod(layout.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf, layout in zip(leaves, layouts, strict=True)
    )
    assert program.update.memory_analysis().alias_size_in_bytes >= size


@pytest.mark.slow
def test_adapters_are_trained_and_saved_alone(models, tmp_path, monkeypatch):
    monkeypatch.setattr("rats_jax.networks.int8._LEAST_SIZE", 2**10)  # the kernels of the tiny network
    settings = {
        "lora__rank": 2,
        "lora__base_dtype": "int8",
        "lora__targets": "to_q|to_v",
        "teacher__ema_decay": 0.5,
        "student__ema_decay": 0.25,
        "teacher__mixed_guidance_reason": "a test",
        "compute_dtype": "bfloat16",
        "frozen_dtype": "bfloat16",
        "student__remat": "step",
        "decoder_parts": 1,
        "mesh__data": 2,
        "mesh__fsdp": 4,
    }
    program = Program(tiny_config(models, **settings))
    summary = train(program, program.config, tmp_path / "run")
    assert sum(leaf.dtype == np.int8 for leaf in jax.tree.leaves(program.frozen.base)) > 20
    assert summary["reward"]["student"] != summary["reward"]["untrained"]
    state, _ = load_state(tmp_path / "run", 4)
    for name in ("student", "teacher", "average"):
        leaves = {path[-1] for path in flatten_dict(state[name])}
        assert leaves == {"down", "up"}
        assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(state[name]))
    assert (
        np.abs(
            state["student"]["mid_block"]["attentions_0"]["transformer_blocks_0"]["attn1"]["to_q"]["up"]
        ).max()
        > 0
    )
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert size < 120_000, "more than adapters, their averages and their moments is in the checkpoint"
    # What draws is the average.
    drawn = rats_jax.load(str(tmp_path / "run")).origin.adapters
    chex.assert_trees_all_equal(drawn, state["average"])
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(drawn, state["student"])

    shutil.copytree(tmp_path / "run", tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "4")
    train(program, program.config, tmp_path / "again")
    chex.assert_trees_all_equal(load_state(tmp_path / "again", 4)[0], state)


@pytest.mark.slow
def test_a_run_with_stored_embeddings_is_the_run_without(finished, models, tmp_path):
    straight, _, _ = finished
    source = str(models / "pipeline")
    write_prompt_embeds(tmp_path / "embeds", open_pipeline(source), PROMPTS, source=source)
    settings = {"num_updates": 2, "samples__every": 0, "evaluation__num_prompts": 0}
    config = tiny_config(models, prompt_embeds=str(tmp_path / "embeds"), **settings)
    train_and_evaluate(config, tmp_path / "run")
    with_encoder, stored = (
        [{k: v for k, v in r.items() if not k.startswith("time/")} for r in read_metrics(workdir)]
        for workdir in (straight, tmp_path / "run")
    )
    for one, two in zip(with_encoder[:2], stored, strict=True):
        assert two == pytest.approx(one, rel=1e-4, abs=1e-5)


def score_saturation(params, images, prompt):
    """A reward that nobody should train on."""
    del params
    return guards.saturation(images) + 0 * prompt


SATURATION = without_weights(
    "saturation", score_saturation, lambda prompts: np.zeros(len(prompts), np.float32)
)


@pytest.mark.slow
def test_a_student_that_hacks_its_reward_is_stopped_and_can_go_on_with_warnings(
    models, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(REWARDS, "saturation", SATURATION)
    config = tiny_config(
        models,
        seed=3,
        num_updates=8,
        samples__every=1,
        evaluation__num_prompts=0,
        hacking_patience=2,
        stop_on_hacking=True,
        gate__kind="constant",
        gate__value=0.0,
        optimizer__learning_rate=3e-3,
        optimizer__warmup_updates=0,
    )
    config.rewards = ConfigDict({"saturated": {"kind": "saturation", "path": "", "weight": 1.0}})
    with pytest.raises(
        HackingError, match=r"reward rose while monitor/heldout.* fell; the best .* of update \d"
    ):
        train_and_evaluate(config, tmp_path / "run")
    records = read_metrics(tmp_path / "run" / "samples.jsonl")
    step = records[-1]["step"]
    assert 2 <= step < 8 and records[-1]["reward/student"] > records[-3]["reward/student"]
    with open_manager(tmp_path / "run" / "checkpoints", keep=2, every=1) as manager:
        assert manager.latest_step() == step
        best = best_step(manager)
        assert best in manager.all_steps() and best < step

    config.update({"stop_on_hacking": False, "hacking_patience": 1})
    capsys.readouterr()
    train_and_evaluate(config, tmp_path / "run")
    assert re.search(r"warning: update \d: over the last 1 sheets of samples", capsys.readouterr().err)


@pytest.mark.slow
def test_two_rewards_in_their_own_deviations_and_a_gate_on_one(models, tmp_path):
    settings = {"num_updates": 2, "samples__every": 0}
    config = tiny_config(models, normalise_rewards=True, gate__reward="second", **settings)
    del config.rewards.compressibility
    config.rewards.second = ConfigDict({"kind": "pickscore", "path": str(models / "heldout"), "weight": 2.0})
    summary = train_and_evaluate(config, tmp_path / "run")
    assert set(summary["rewards"]) == {"pickscore_emoji", "second", "heldout"}
    state, _ = load_state(tmp_path / "run", 2)
    deviations = {}
    for name, moments in state["rewards"].items():
        mean, mean_square, weight = (float(moments[key]) for key in ("mean", "mean_square", "weight"))
        deviations[name] = np.sqrt(mean_square / weight - (mean / weight) ** 2)
    rewards = {name: summary["rewards"][name]["student"] for name in deviations}
    weights = {"pickscore_emoji": config.rewards.pickscore_emoji.weight, "second": 2.0}
    expected = sum(weights[name] * rewards[name] / deviations[name] for name in weights)
    assert summary["reward"]["student"] == pytest.approx(expected, rel=1e-3)
    record = read_metrics(tmp_path / "run")[-1]
    gap = record["reward/teacher/second"] - record["reward/student/second"]
    assert record["gate/gap"] == pytest.approx(gap, abs=1e-5)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run_and_saves_nothing_of_it(models, tmp_path):
    settings = {"optimizer__learning_rate": 1e30, "optimizer__warmup_updates": 0, "samples__every": 0}
    config = tiny_config(models, **settings)
    with pytest.raises(DivergedError, match="update [234]: .* is (nan|inf).*update None"):
        train_and_evaluate(config, tmp_path / "run")
    with open_manager(tmp_path / "run" / "checkpoints", keep=9, every=1) as manager:
        assert manager.latest_step() is None


def score_nothing(params, images, prompt):
    """A reward that is nan for every picture."""
    del params
    return jax.numpy.nan * (prompt + images.mean(axis=(1, 2, 3)))


NOTHING = without_weights("nothing", score_nothing, lambda prompts: np.zeros(len(prompts), np.float32))


@pytest.mark.parametrize("section", ["rewards", "monitor"])
def test_a_reward_that_is_nan_ends_the_run_before_it_costs_anything(models, tmp_path, monkeypatch, section):
    monkeypatch.setitem(REWARDS, "nothing", NOTHING)
    config = tiny_config(models, evaluation__num_prompts=0)
    weight = {"weight": 1.0} if section == "rewards" else {}
    config[section].nothing = ConfigDict({"kind": "nothing", "path": "", **weight})
    where = "update 1: gate/" if section == "rewards" else "update 0: monitor/nothing/student is nan"
    with pytest.raises(DivergedError, match=f"^{where}.*, expected a finite number; the newest checkpoint"):
        train_and_evaluate(config, tmp_path / "run")
    assert (tmp_path / "run" / "samples.jsonl").read_text() == ""
    assert list_steps(tmp_path / "run" / "checkpoints") == []


@pytest.mark.parametrize("part", ["pretrained", "rewards.pickscore_emoji.path", "monitor.heldout.path"])
def test_weights_that_are_not_finite_are_named_before_anything_is_compiled(models, tmp_path, part):
    source = models / {"pretrained": "pipeline", "monitor.heldout.path": "heldout"}.get(part, "reward")
    shutil.copytree(source, tmp_path / "broken")
    file = tmp_path / "broken" / ("unet/diffusion_pytorch_model" if part == "pretrained" else "model")
    file = file.with_suffix(".safetensors")
    weights = load_file(file)
    name = "conv_in.bias" if part == "pretrained" else "visual_projection.weight"
    weights[name] = np.full_like(weights[name], np.nan)
    save_file(weights, file)
    config = tiny_config(models)
    config.update_from_flattened_dict({part: str(tmp_path / "broken")})
    with count_compilations() as compilations:
        with pytest.raises(WeightsError, match=f"weights '{file}', '{name}': expected finite numbers"):
            train_and_evaluate(config, tmp_path / "run")
    assert compilations["update"] == 0
