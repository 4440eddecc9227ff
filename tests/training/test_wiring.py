"""Wiring: every field of the config another value, and one table of where each arrives.

Recorders stand in place of the functions that a run is composed of, so a swapped pair of arguments fails
here, in milliseconds, whatever the functions would do with them.
"""

import contextlib
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from rats_jax.config.fields import REWARD_RULES, RULES
from rats_jax.config.together import validate
from rats_jax.diffusion.sampler import SAMPLERS
from rats_jax.parallel.mesh import make_mesh
from rats_jax.pipelines.base import Pipeline
from rats_jax.report.figures import Sheet
from rats_jax.rewards import open as opening
from rats_jax.training import logbook, loop, models, program, setup, teacher
from rats_jax.training.due import Due, find_due, is_logged
from rats_jax.types import Grid, RewardModel
from rats_jax.workdir.loggers import Loggers
from tests.recorder import Recorder
from tests.tiny import mesh_sizes

# No two values are alike, so that each can only be where it belongs. 120 prompts a batch on a mesh of one.
VALUES = {
    "seed": 11,
    "num_updates": 97,
    "batch_size": 120,
    "log_every": 13,
    "loggers": ("wandb",),
    "pretrained": "the pipeline",
    "height": 48,
    "width": 112,
    "num_frames": 61,
    "flow_shift": 6.625,
    "negative_prompt": "the negative prompt",
    "num_decoded_latents": 59,
    "reward_frames": 67,
    "max_sequence_length": 77,
    "prompts": "the prompts",
    "prompt_embeds": "the embeddings",
    "sampler": "euler",
    "student.num_steps": 3,
    "student.guidance_scale": 1.5,
    "student.timestep_spacing": "trailing",
    "student.reward_gradient_steps": 2,
    "student.unroll": True,
    "student.remat": "matmuls",
    "student.ema_decay": 0.78125,
    "teacher.num_steps": 17,
    "teacher.guidance_scale": 7.25,
    "teacher.timestep_spacing": "linspace",
    "teacher.sampler": "dpmpp_2m",
    "teacher.ema_decay": 0.875,
    "teacher.mixed_guidance_reason": "a test",
    "teacher.targets": "",
    "teacher.ema_every": 10,
    "teacher.reuse_after": 5,
    "horizon.interpolation": "nearest",
    "horizon.weights": (0.25, 0.5, 0.25),
    "gate.kind": "constant",
    "gate.temperature": 0.3125,
    "gate.gap": "mean",
    "gate.reward": "first",
    "gate.relative": True,
    "gate.std_decay": 0.9375,
    "gate.value": 0.4375,
    "reward_weight": 1.75,
    "shaping_weight": 0.625,
    "reward_loss.kind": "hinge",
    "reward_loss.margin": 0.1875,
    "normalise_rewards": False,
    "heldout_reward": "judge",
    "heldout_prompts": "the other prompts",
    "hacking_patience": 41,
    "stop_on_hacking": True,
    "reference": "the pictures",
    "optimizer.learning_rate": 3e-5,
    "optimizer.warmup_updates": 19,
    "optimizer.decay_updates": 101,
    "optimizer.clip_norm": 0.75,
    "optimizer.b1": 0.8125,
    "optimizer.b2": 0.96875,
    "optimizer.weight_decay": 0.03125,
    "optimizer.accumulation_steps": 4,
    "lora.rank": 8,
    "lora.alpha": 12.0,
    "lora.targets": "to_q",
    "lora.base_dtype": "int8",
    "compute_dtype": "bfloat16",
    "frozen_dtype": "float32",
    "decoder_parts": 15,
    "reward_parts": 30,
    "checkpoint.every": 29,
    "checkpoint.keep": 7,
    "samples.every": 31,
    "samples.num": 9,
    "evaluation.num_prompts": 36,
    "evaluation.batch_size": 60,
    "evaluation.seed": 23,
    "mesh.data": 1,
    "mesh.fsdp": 1,
    "mesh.tensor": 1,
    "mesh.dcn_data": 1,
    "mesh.dcn_fsdp": 1,
    "mesh.dcn_tensor": 1,
    "sharding": (("kernel", "largest"), ("", "copy")),
    "rewards.first.kind": "pickscore",
    "rewards.first.path": "the reward",
    "rewards.first.weight": 2.75,
    "monitor.judge.kind": "clipscore",
    "monitor.judge.path": "the judge",
}
# What only a description needs, or is tested where it is read, on real devices and folders.
ELSEWHERE = {
    "teacher.mixed_guidance_reason",  # read by validate alone: tests/config
    "teacher.targets",  # excludes a moving teacher: tests/test_train.py
    "normalise_rewards",  # excludes a margin: tests/test_train.py
    *("heldout_reward", "stop_on_hacking"),  # read of real sheets: tests/test_train.py
    *(field for field in VALUES if field.startswith("mesh.")),  # sizes that differ need as many devices
}


@pytest.fixture
def config():
    nested = {}
    for field, value in VALUES.items():
        *sections, name = field.split(".")
        section = nested
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = value
    config = ConfigDict(nested)
    validate(config)
    return config


def toy_models():
    """A pipeline and rewards that compute nothing, and the grids that were asked for."""
    asked = {}

    def grid_fn(num_steps, timestep_spacing):
        asked[timestep_spacing] = num_steps
        angles = np.linspace(1.5, 0.0, num_steps + 1)
        timesteps = np.arange(num_steps, 0, -1, dtype=np.int32)
        return Grid(timesteps, np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))

    pipeline = Pipeline(
        tokenize=lambda prompts: np.zeros((len(prompts), 1), np.int32),
        encode_fn=lambda params, prompt: prompt,
        decode_fn=lambda params, latents: latents,
        guided_fn=lambda scale: lambda params, latents, timestep, embeds: scale,
        evaluations=lambda scale: 1000 * scale,
        grid_fn=grid_fn,
        prediction_type="v_prediction",
        network={"to_q": {"kernel": np.zeros((4, 4), np.float32)}},
        text_encoder={},
        decoder={},
        latent_shape=(2, 2, 3),
        write=lambda *_, **__: None,
        write_flax=None,
        network_name="unet",
    )
    reward = RewardModel(lambda params, images, prompt: images, {}, lambda prompts: np.zeros(len(prompts)))
    return models.Models(pipeline, {"first": reward}, {"judge": reward}), asked


def test_every_field_is_in_the_table():
    fixed = {f"rewards.first.{name}" for name in REWARD_RULES} | {"monitor.judge.kind", "monitor.judge.path"}
    assert set(VALUES) == set(RULES) | fixed
    values = [value for field, value in VALUES.items() if not field.startswith("mesh.")]
    numbers = [value for value in values if isinstance(value, int | float) and value is not True]
    texts = [value for value in values if isinstance(value, str) and value]
    assert len(set(numbers)) == len(numbers) and len(set(texts)) == len(texts)


def arrivals_in_setup(config, monkeypatch):
    """Compose an experiment of recorders; give (value that arrived, where) by field."""
    seen = Recorder(monkeypatch)
    opened, asked = toy_models()
    for name in ("make_teach_fn", "make_loss_fn", "make_update_fn", "with_teacher", "make_optimizer"):
        seen.put(setup, name, name)
    seen.put(setup, "with_adapters", lambda denoise_fn, *, scale: denoise_fn)
    seen.put(setup, "init_adapters", {})
    seen.put(setup, "in_parts", lambda fn, num_parts: fn)
    seen.put(setup, "make_gate_fn", lambda gate, **_: gate)
    seen.put(setup, "interpolation_matrix", np.eye(3, 17, dtype=np.float32))
    mesh = make_mesh(mesh_sizes(), jax.devices()[:1])
    made = setup.make_experiment(config, opened, mesh)
    student, trained = made.student.rollout_fn, made.objective
    taught, guided = made.teacher.rollout_fn, made.untrained_guided.rollout_fn
    (parts, monitored, decoded, whole) = (call.args for call in seen.calls["in_parts"])
    gate = trained.gate_fn

    def scale_of(rollout_fn):
        return rollout_fn.args[0](None, None, None, None)

    adapters = seen.calls["with_adapters"]
    assert guided.keywords["gradient_steps"] == 3 and scale_of(guided) == VALUES["teacher.guidance_scale"]
    assert guided.keywords["step_fn"] is SAMPLERS["euler"].step
    assert (parts[1], monitored[1]) == (VALUES["reward_parts"],) * 2
    return {
        "seed": seen.init_adapters.seed,
        "sampler": "euler" if student.keywords["step_fn"] is SAMPLERS["euler"].step else None,
        "student.num_steps": (asked["trailing"], len(student.keywords["grid"].timesteps), made.nfe // 1500),
        "student.guidance_scale": (scale_of(student), made.nfe / 3000),
        "student.timestep_spacing": "trailing" if asked["trailing"] == 3 else None,
        "student.reward_gradient_steps": student.keywords["gradient_steps"],
        "student.unroll": student.keywords["unroll"],
        "student.remat": student.keywords["remat"],
        "student.ema_decay": (seen.make_update_fn.average_decay, 0.78125 if made.is_averaged else None),
        "teacher.num_steps": (asked["linspace"], len(taught.keywords["grid"].timesteps)),
        "teacher.guidance_scale": (scale_of(taught), made.teacher_nfe / 17000, made.guided_nfe / 3000),
        "teacher.timestep_spacing": "linspace" if asked["linspace"] == 17 else None,
        "teacher.sampler": "dpmpp_2m" if np.any(taught.keywords["correction"]) else None,
        "teacher.ema_decay": (seen.make_update_fn.ema_decay, 0.875 if made.teacher_moves else None),
        "teacher.ema_every": seen.make_update_fn.ema_every,
        "horizon.interpolation": seen.interpolation_matrix.interpolation,
        "horizon.weights": tuple(map(float, trained.horizon_weights)),
        "gate.kind": "constant" if gate.func.__name__ == "constant_gate" else None,
        "gate.temperature": seen.make_gate_fn.temperature,
        "gate.reward": trained.gate_reward,
        "gate.relative": seen.make_gate_fn.relative,
        "gate.gap": {True: "mean", False: "sample"}[seen.make_gate_fn.of_mean],
        "gate.std_decay": (trained.moments_decay, seen.make_update_fn.moments_decay),
        "gate.value": gate.keywords["value"],
        "reward_weight": trained.reward_weight,
        "shaping_weight": trained.shaping_weight,
        "reward_loss.kind": "hinge" if trained.reward_loss_fn.func.__name__ == "hinge_reward" else None,
        "reward_loss.margin": trained.reward_loss_fn.keywords["margin"],
        "rewards.first.weight": trained.combine_fn.keywords["weights"]["first"],
        **{f"optimizer.{name}": value for name, value in vars(seen.make_optimizer).items() if name != "args"},
        "optimizer.accumulation_steps": (
            seen.make_update_fn.accumulation_steps,
            seen.make_teach_fn.accumulation_steps,
        ),
        "lora.rank": (seen.init_adapters.rank, 12 / adapters[0].scale),
        "lora.alpha": adapters[0].scale * 8,
        "lora.targets": seen.init_adapters.targets,
        "lora.base_dtype": {True: "int8", False: ""}[made.base_is_int8],
        "frozen_dtype": made.frozen_dtype.name,
        "decoder_parts": (decoded[1], whole[1]),
        "reward_parts": parts[1],
    }


def arrivals_in_models(config, monkeypatch):
    seen = Recorder(monkeypatch)
    seen.put(models, "open_pipeline", "the opened pipeline")
    monkeypatch.setattr(models, "makes_videos", lambda pipeline: False)
    seen.put(models, "judged_frames", lambda pipeline, count: count)
    seen.put(models, "with_stored_embeds", "the pipeline with embeddings")
    seen.put(opening, "open_rewards", {})
    monkeypatch.setattr(models, "resolve_path", lambda path: path)
    opened = models.open_models(config, "the device")
    assert opened.pipeline == "the pipeline with embeddings" and seen.open_pipeline.device == "the device"
    sections = [call.args[0][call.args[1]] for call in seen.calls["open_rewards"]]
    assert seen.calls["open_rewards"][1].frames == 0  # what is monitored judges whole videos
    return {
        "pretrained": (seen.open_pipeline.args[0], seen.with_stored_embeds.source),
        **vars(seen.open_pipeline.options),
        "reward_frames": (seen.judged_frames.args[1], seen.calls["open_rewards"][0].frames),
        "prompt_embeds": seen.with_stored_embeds.args[1],
        "compute_dtype": (seen.open_pipeline.dtype.name, seen.calls["open_rewards"][0].dtype.name),
        "rewards.first.kind": sections[0].first.kind,
        "rewards.first.path": sections[0].first.path,
        "monitor.judge.kind": sections[1].judge.kind,
        "monitor.judge.path": sections[1].judge.path,
    }


def arrivals_in_program(config, monkeypatch):
    seen = Recorder(monkeypatch)
    experiment = SimpleNamespace(
        pipeline=SimpleNamespace(image_shape=lambda: (2, 2, 3), latent_shape=(2, 2, 3)),
        abstract_state=lambda: {},
        frozen_params=lambda: {},
        make_reward_inputs=lambda prompts: None,
        make_monitor_inputs=lambda prompts: None,
    )
    mesh = make_mesh(mesh_sizes(), jax.devices()[:1])
    seen.put(program, "find_prompts", lambda path, **_: ["c"] if path == "the other prompts" else ["a", "b"])
    seen.put(program, "make_mesh", lambda *_: mesh)
    seen.put(program, "validate_batch")
    seen.put(program, "open_models")
    seen.put(program, "expect_stored")
    seen.put(program, "make_experiment", experiment)
    seen.put(program, "load_reference")
    seen.put(program.placement, "param_sharding")
    monkeypatch.setattr(program, "resolve_path", lambda path: path)
    made = program.Program(config)
    batches = {call.field: call for call in reversed(seen.calls["validate_batch"])}
    assert seen.make_mesh.args[0] is config.mesh
    chosen, unseen = made.evaluation_set, made.heldout_set.prompts
    again = np.random.default_rng(VALUES["evaluation.seed"]).permutation(2)
    noise = jax.random.normal(jax.random.key(VALUES["evaluation.seed"]), chosen.noise.shape)
    same = [["a", "b"][i] for i in again] == chosen.prompts[:2] and np.array_equal(noise, chosen.noise)
    return {
        "prompts": seen.calls["find_prompts"][0].args[0],
        "heldout_prompts": seen.calls["find_prompts"][1].args[0] if set(unseen) == {"c"} else None,
        "batch_size": (batches["batch_size"].batch_size, made.rows[-1] + 1),
        "optimizer.accumulation_steps": batches["batch_size"].parts,
        "reference": seen.load_reference.args[0],
        "prompt_embeds": seen.expect_stored.args[0]
        if seen.expect_stored.args[1] == ["a", "b", "c"]
        else None,
        "evaluation.num_prompts": len(chosen.prompts),
        "evaluation.batch_size": (batches["evaluation.batch_size"].batch_size, chosen.batch_size),
        "evaluation.seed": VALUES["evaluation.seed"] if same else None,
        "sharding": seen.calls["param_sharding"][0].args[2],
    }


class _Ends(Exception):
    """Raised where the loop would begin."""


def arrivals_in_loop(config, monkeypatch):
    seen = Recorder(monkeypatch)

    def ends(*_, **__):
        raise _Ends

    manager = SimpleNamespace(latest_step=lambda: None)
    logs = SimpleNamespace(folder=None)
    seen.put(loop, "make_prompt_iterator", SimpleNamespace(set_state=None))
    seen.put(loop, "claim")
    seen.put(loop, "keep_config")
    seen.put(loop, "locked", lambda *_, **__: contextlib.nullcontext())
    seen.put(loop, "open_logs", lambda *_, **__: contextlib.nullcontext(logs))
    seen.put(loop.checkpoint, "open_manager", lambda *_, **__: contextlib.nullcontext(manager))
    seen.put(loop.checkpoint, "restore")
    seen.put(loop, "Rounds")
    seen.put(loop, "open_loggers", lambda *_, **__: contextlib.nullcontext())
    seen.put(loop, "Logbook", lambda *_, **__: contextlib.nullcontext())
    seen.put(loop, "Sheets", ends)
    state = SimpleNamespace(step=0)
    run = SimpleNamespace(
        prompts=["a"],
        rows=None,
        place_rows=None,
        experiment=SimpleNamespace(teacher_moves=True),
        placed_state=None,
        init_state=lambda: state,
        describe=str,
        update=None,
        render_fns=None,
        compile_seconds=0.0,
    )
    with pytest.raises(_Ends):
        loop.train(run, config, "the folder")
    targets = teacher.open_targets(config, run)
    return {
        "seed": seen.make_prompt_iterator.seed,
        "batch_size": seen.make_prompt_iterator.batch_size,
        "num_updates": seen.Rounds.num_updates,
        "teacher.reuse_after": (seen.Rounds.length, 5 if targets._store is not None else None),
        "teacher.ema_every": targets._moves_every,
        "checkpoint.every": seen.open_manager.every,
        "checkpoint.keep": seen.open_manager.keep,
        "samples.num": seen.Sheets.count,
        "loggers": tuple(seen.open_loggers.args[0].loggers),
    }


def arrivals_at_dates(config, _):
    first = {
        name: next(n for n in range(2, 97) if find(n))
        for name, find in {
            "log_every": lambda n: is_logged(config, n),
            "checkpoint.every": lambda n: find_due(config, n).saves,
            "samples.every": lambda n: find_due(config, n).draws,
        }.items()
    }
    assert find_due(config, 1) == Due(starts=True, draws=False, saves=False)
    last = find_due(config, 97)
    return first | {"num_updates": 97 if last.draws and last.saves and is_logged(config, 97) else None}


def arrivals_in_logbook(config, monkeypatch, tmp_path):
    seen = Recorder(monkeypatch)
    seen.put(logbook.hacking, "find_hacking", [])
    seen.put(logbook.figures, "save_sheet", [tmp_path / "sheet.png"])
    loggers = Loggers({}, tmp_path, say=print)
    settings = {"step": 0, "started": 0.0, "loggers": loggers, "saved": lambda: (None, None)}
    with logbook.Logbook(config, "w", tmp_path, **settings) as book:
        book.log_sheet(3, Sheet(np.zeros((2, 2, 3)), []), {"reward/student": 1.0})
        book.warn_of_hacking(3)
    tensorboard = list(tmp_path.glob("events*"))
    assert not tensorboard
    return {"hacking_patience": seen.find_hacking.patience}


def check(arrived):
    for field, found in arrived.items():
        several = isinstance(found, tuple) and not isinstance(VALUES[field], tuple)
        for value in found if several else (found,):
            wanted = VALUES[field]
            assert value == (pytest.approx(wanted) if isinstance(value, float) else wanted), field
    return set(arrived)


def test_every_field_arrives_where_it_belongs(config, monkeypatch, tmp_path):
    reached = set()
    for arrivals in (
        arrivals_in_setup,
        arrivals_in_models,
        arrivals_in_program,
        arrivals_in_loop,
        arrivals_at_dates,
        lambda *inputs: arrivals_in_logbook(*inputs, tmp_path),
    ):
        with monkeypatch.context() as patch:
            reached |= check(arrivals(config, patch))
    assert reached == set(VALUES) - ELSEWHERE
