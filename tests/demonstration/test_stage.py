"""What stands on the stage: pictures, scores, costs; what is compiled, and what is said of a prompt."""

import math

import jax
import numpy as np
import pytest

import rats_jax
from rats_jax.demonstration.scores import Scorer
from rats_jax.demonstration.stage import Drawn, describe, open_stage
from rats_jax.errors import ConfigError
from rats_jax.evaluation.fixed_set import Contest, Judges
from rats_jax.pipelines.open import load_pipeline
from rats_jax.rewards import find_reward, make_score_fn
from rats_jax.student.load import load_pretrained
from rats_jax.types import RewardModel
from tests.demonstration.fakes import fake_stage
from tests.finished import write_run
from tests.tiny import PROMPTS, random_params, read_reward, tiny_config


@pytest.fixture(scope="module")
def config(models):
    return tiny_config(models, teacher__guidance_scale=2.0)


@pytest.fixture(scope="module")
def run(models, config, tmp_path_factory):
    student = random_params(load_pipeline(models / "pipeline").network, seed=9)
    return write_run(tmp_path_factory.mktemp("runs") / "run", config, student)


@pytest.fixture(scope="module")
def stage(run):
    return open_stage(str(run), step=None, dtype="float32")


@pytest.mark.slow
def test_all_draw_what_the_models_draw_from_the_same_noise(stage, run, config, models):
    drawn = {one.name: one for one in stage.draw("cat", seed=5, num_steps=3, guidance_scale=1.5)}
    assert list(drawn) == ["teacher", "untrained", "student"]
    asked = {name: (one.num_steps, one.guidance_scale, one.nfe) for name, one in drawn.items()}
    assert asked == {"teacher": (3, 2.0, 6), "untrained": (3, 1.5, 6), "student": (3, 1.5, 6)}
    start = load_pretrained(config, role="student")
    expected = {"teacher": (start, 2.0), "untrained": (start, 1.5), "student": (rats_jax.load(str(run)), 1.5)}
    for name, (model, scale) in expected.items():
        picture = model("cat", seed=5, num_steps=3, guidance_scale=scale)[0]
        np.testing.assert_allclose(drawn[name].result, picture, atol=1e-5)
        reward = read_reward(find_reward("pickscore").load(str(models / "heldout")))
        score = reward.reward_fn(reward.params, picture[None], reward.prepare(["cat"]))
        assert drawn[name].scores["heldout"] == pytest.approx(float(score[0]), abs=1e-3)
        assert list(drawn[name].scores) == ["reward", *config.rewards, *config.monitor]
        assert drawn[name].milliseconds > 0 and drawn[name].notes == ()


@pytest.mark.slow
def test_nothing_is_traced_where_the_steps_were_seen(stage):
    compiled = []

    def listen(name, seconds, **_):
        if name.startswith("/jax/core/compile"):
            compiled.append(name)

    for steps in (2, 3):
        stage.draw("cat", seed=0, num_steps=steps, guidance_scale=1.0)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for i, steps in enumerate((2, 3, 2, 3)):
            drawn = stage.draw(PROMPTS[i], seed=i, num_steps=steps, guidance_scale=1.0 + i)
            assert [one.compile_seconds for one in drawn] == [0.0] * 3
        assert compiled == []
        drawn = stage.draw("cat", seed=0, num_steps=4, guidance_scale=1.0)
        assert compiled and drawn[1].compile_seconds > 0
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.slow
def test_a_prompt_that_is_cut_is_said(stage):
    drawn = stage.draw("cat " * 20, seed=0, num_steps=2, guidance_scale=1.0)
    assert all(len(one.notes) >= 1 and "are longer than the 8 tokens" in one.notes[0] for one in drawn)
    stage.draw("dog", seed=0, num_steps=2, guidance_scale=1.0)
    again = stage.draw("cat " * 20, seed=1, num_steps=2, guidance_scale=1.0)
    assert {note for one in drawn for note in one.notes} <= set(again[0].notes)


@pytest.mark.slow
def test_a_pipeline_draws_alone_and_without_rewards(models):
    stage = open_stage(str(models / "pipeline"), step=None, dtype="float32")
    (drawn,) = stage.draw("cat", seed=0, num_steps=2, guidance_scale=1.0)
    assert (drawn.name, drawn.scores, stage.prompts) == ("model", {}, [])
    assert drawn.result.shape == (32, 32, 3)


def test_milliseconds_hold_neither_the_compilation_nor_the_first_run():
    stage = fake_stage()
    teacher, student = stage.draw(" cat ", seed=1, num_steps=4, guidance_scale=2.0)
    for one, steps, scale in ((teacher, 9, 3.0), (student, 4, 2.0)):
        assert (one.milliseconds, one.compile_seconds) == (500.0, 30.0)
        model = stage.entries[one is student].model
        assert model.calls == [("compile", steps), ("cat", steps, scale), ("cat", steps, scale)]
        assert (one.num_steps, one.guidance_scale, one.nfe) == (steps, scale, 2 * steps)
    np.testing.assert_array_equal(teacher.result, student.result)


def test_what_a_model_drew_last_is_not_drawn_again():
    stage = fake_stage()
    first, _ = stage.draw("cat", seed=1, num_steps=4, guidance_scale=2.0)
    calls = [list(entry.model.calls) for entry in stage.entries]
    kept, other = stage.draw("cat", seed=1, num_steps=4, guidance_scale=2.5)
    assert kept.milliseconds == first.milliseconds and kept.result is first.result
    assert kept.compile_seconds == 0.0
    assert stage.entries[0].model.calls == calls[0]
    assert stage.entries[1].model.calls == [*calls[1], ("cat", 4, 2.5)] and other.compile_seconds == 0.0
    stage.draw("cat", seed=2, num_steps=4, guidance_scale=2.5)
    assert len(stage.entries[0].model.calls) == len(calls[0]) + 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": " "}, r"^prompts\[0\]: expected a prompt, found a blank text"),
        ({"prompt": None}, "^prompts=None: expected a text"),
        ({"prompt": "x" * 2001}, r"^prompt='x+\.\.\.': expected at most 2000 letters$"),
        ({"num_steps": 0}, "^num_steps=0: expected an integer >= 1$"),
        ({"num_steps": 2.5}, r"^num_steps=2\.5: expected an integer >= 1$"),
        ({"guidance_scale": 0.5}, r"^guidance_scale=0\.5: expected a number >= 1"),
        ({"guidance_scale": math.nan}, "^guidance_scale=nan: expected a number >= 1"),
    ],
)
def test_what_is_asked_wrongly_is_one_line(arguments, message):
    stage = fake_stage()
    with pytest.raises(ConfigError, match=message):
        stage.draw(**({"prompt": "cat", "seed": 0, "num_steps": 4, "guidance_scale": 1.0} | arguments))
    assert not any(entry.model.calls for entry in stage.entries)


def _refuse(prompts):
    raise ConfigError(f"prompt {prompts[0]!r}: expected a thing that it knows")


@pytest.mark.parametrize("refusing", ["monitored", "trained", "both"])
def test_a_reward_that_cannot_judge_a_prompt_leaves_the_others(refusing):
    def mean(params, images, prompt):
        return params + images.mean((1, 2, 3))

    def blank(texts):
        return np.zeros(len(texts))

    rewards = {
        name: RewardModel(mean, np.float32(i), _refuse if refusing in (name, "both") else blank)
        for i, name in enumerate(("trained", "monitored"))
    }
    score = jax.jit(make_score_fn({name: mean for name in rewards}))
    judges = Judges(rewards, {"trained": 2.0}, score, {name: r.params for name, r in rewards.items()})
    images = np.full((1, 1, 2, 2, 3), 0.25, np.float32)
    scores, refused = Scorer(judges).score(Contest(["cow"], images), images)
    everything = {"reward": 0.5, "trained": 0.25, "monitored": 1.25}
    left = {
        "monitored": ("reward", "trained"),
        "trained": ("monitored",),
        "both": (),
    }
    assert scores == {name: everything[name] for name in left[refusing]}
    names = ("trained", "monitored") if refusing == "both" else (refusing,)
    line = "prompt 'cow': expected a thing that it knows"
    assert refused == [f"no score of {name}: {line}" for name in names]


def test_a_description_has_scores_evaluations_and_milliseconds():
    picture, scores = np.zeros((2, 2, 3)), {"reward": 2.9384, "held_out": math.nan}
    drawn = Drawn("student", picture, scores, (), 4, 1.5, 8, 23.4, 0.0)
    lines = describe(drawn, device="cpu").split("  \n")
    assert lines == [
        "4 steps, guidance 1.5",
        "reward **2.938**",
        "held_out is not finite",
        "8 evaluations, **23 ms** on cpu",
    ]
    one = Drawn("model", picture, {}, (), 1, 1.0, 1, 5.0, 2.04)
    lines = describe(one, device="cpu").split("  \n")
    assert lines == ["1 step, guidance 1", "1 evaluation, **5 ms** on cpu", "compiled first, in 2.0 s"]
