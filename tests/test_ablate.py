"""Comparing variants: what is planned, what is compared, and a whole comparison from the command line."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rats_jax.ablation import plan as planning
from rats_jax.ablation.curves import summarise
from rats_jax.ablation.run import _identity, run_all, share_out, write
from rats_jax.ablation.table import TEACHER, UNTRAINED, compare, draw, format_tables
from rats_jax.config.flags import load_config
from rats_jax.errors import ConfigError
from tests.commands import ROOT, assert_one_line, call
from tests.tiny import tiny_config, write_config

CONFIG = ROOT / "configs" / "emoji_ablation.py"


def tiny_comparison(models):
    config = load_config(CONFIG)
    config.base = tiny_config(models, num_updates=2, checkpoint__every=2)
    config.base.samples.every = config.base.evaluation.num_prompts = 0
    config.student_steps, config.seeds = (2,), (0, 1)
    config.variants = (("RATS", {}), ("reward-only", {"gate.kind": "constant", "gate.value": 0.0}))
    config.evaluation.update({"num_prompts": 6, "num_seeds": 2, "batch_size": 8, "num_resamples": 100})
    config.evaluation.prompts = (("training", ""), ("other", str(models / "other.txt"), 1))
    (models / "other.txt").write_text("a blue dog\ntwo green pears\n")
    return config


def plan(**changes):
    config = load_config(CONFIG)
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return planning.plan(config, Path("comparison"))


@pytest.mark.parametrize(
    "name", ["emoji_ablation", "emoji_gates", "emoji_teachers", "scenes_ablation", "scenes_teachers"]
)
def test_every_comparison_that_ships_can_be_planned(name):
    config = load_config(ROOT / "configs" / f"{name}.py")
    jobs = planning.plan(config, Path("comparison"))
    trained = len(config.variants) * len(config.seeds) * len(config.student_steps)
    assert [job.variant for job in jobs[:2]] == [TEACHER, UNTRAINED] and len(jobs) >= trained


def test_every_variant_meets_every_number_of_steps_and_every_seed():
    jobs = plan()
    config = load_config(CONFIG)
    assert len({job.folder for job in jobs}) == len(jobs)
    trained = [job for job in jobs if job.seed >= 0]
    full = [
        (name, k, s) for name, _, *only in config.variants if not only for k in (3, 5, 8) for s in range(3)
    ]
    assert {(job.variant, job.num_steps, job.seed) for job in trained} >= set(full)
    assert len(trained) == len(full) + 6  # and one variant with two numbers of steps
    assert [(job.variant, job.num_steps) for job in jobs if job.seed < 0] == [
        (TEACHER, 50),
        *((UNTRAINED, k) for k in (3, 5, 8)),
    ]
    runs = {(job.variant, job.num_steps, job.seed): json.loads(job.config) for job in jobs}
    rats, one = runs["RATS", 5, 2], runs["reward gradient: last step", 5, 2]
    assert (rats["seed"], rats["student"]["num_steps"], rats["student"]["reward_gradient_steps"]) == (2, 5, 5)
    assert one["student"]["reward_gradient_steps"] == 1
    assert runs["static distillation", 3, 0]["reward_weight"] == 0.0
    # Runs of a seed share a frozen teacher, if it is the same one; a moving one has no targets.
    assert rats["teacher"]["targets"] == one["teacher"]["targets"] != runs["RATS", 5, 1]["teacher"]["targets"]
    assert runs["moving teacher", 5, 2]["teacher"]["targets"] == ""
    others = plan(variants=(("50 steps", {}), ("20 steps", {"teacher.num_steps": 20})))
    folders = {json.loads(job.config)["teacher"]["targets"] for job in others if job.seed >= 0}
    assert len(folders) == 2 * len(config.student_steps) * len(config.seeds)


def test_runs_that_share_a_teachers_targets_stay_in_one_process():
    jobs = [job for job in plan() if job.seed >= 0]
    alone, shared = share_out(jobs, 1), share_out(jobs, 2)
    assert sorted(sum(alone, [])) == sorted(sum(shared, [])) == sorted(jobs)
    assert all(len({(job.variant, job.num_steps) for job in share}) == 1 for share in alone)
    targets = [[json.loads(job.config)["teacher"]["targets"] for job in share] for share in shared]
    assert all(len(set(names)) == 1 for names in targets)
    frozen = [names[0] for names in targets if names[0]]
    assert len(frozen) == len(set(frozen)) > 9  # three seeds with three numbers of steps, at least
    assert all(len(names) == 1 for names in targets if not names[0])  # of a teacher that moves


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": ()}, "variants=(): expected at least one"),
        ({"variants": (("a", {}), ("A!", {}))}, "variants=['a', 'A!']: expected names that differ"),
        (
            {"variants": (("a", {"gate.kindd": "hard"}),)},
            "variants: 'a': gate.kindd='hard': expected a field; did you mean 'gate.kind'?",
        ),
        (
            {"variants": (("a", {"gate.kind": "soft"}),)},
            "variant 'a' with 3 steps: gate.kind='soft': expected one of 'sigmoid', 'hard', 'constant'",
        ),
        ({"variants": (("a", {}, (4,)),)}, "variants: 'a'=(4,): expected some of student_steps=(3, 5, 8)"),
        (
            {"variants": (("a", {}, (3,)), ("b", {}))},
            "variants: 'a'=(3,): expected all of student_steps=(3, 5, 8)",
        ),
        ({"student_steps": (3, 3)}, "student_steps=(3, 3): expected different numbers"),
        ({"seeds": ()}, "seeds=(): expected different numbers"),
        (
            {"evaluation__prompts": (("a", "", 51),)},
            "evaluation.prompts: 'a'=[51]: expected (title, file) or (title, file, steps), steps of the "
            "teacher's at most",
        ),
        (
            {"evaluation__prompts": (("a", ""), ("a", "", 2))},
            "evaluation.prompts=['a', 'a']: expected titles that differ",
        ),
        ({"base__heldout_reward": ""}, "base.heldout_reward='': expected the name of a reward in `monitor`"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_one_line(changes, message):
    with pytest.raises(ConfigError) as caught:
        plan(**changes)
    assert str(caught.value) == message


def made_up(gain, *, num_seeds, seed):
    """Scores of P prompts with two pictures each, `gain` above the teacher's on average."""
    base = np.random.default_rng(0).normal(28.0, 3.0, (64, 2))
    noise = np.random.default_rng(seed).normal(0.0, 0.2, (num_seeds, 64, 2))
    diversity = np.full((num_seeds, 64, 1), 0.1)
    return {
        "reward": np.full((num_seeds, 64, 2), 2.9 + gain),
        "eye": base + gain + noise,
        "diversity": diversity,
    }


def outcome():
    teacher = made_up(0.0, num_seeds=1, seed=1)
    copies = {name: np.repeat(values, 3, axis=0) for name, values in teacher.items()}
    scores = {
        (TEACHER, 50): teacher,
        (UNTRAINED, 3): made_up(-0.5, num_seeds=1, seed=2),
        ("RATS", 3): made_up(0.3, num_seeds=3, seed=3),
        ("tau | 9", 3): made_up(0.3, num_seeds=3, seed=4),
        ("better", 3): made_up(0.6, num_seeds=3, seed=5),
        ("worse", 3): copies,
    }
    measures = ["reward", "eye", "diversity"]
    options = {"judge": "eye", "measures": measures, "against": "RATS", "num_resamples": 500, "seed": 0}
    return compare(scores, **options), scores


def test_the_comparison_by_hand():
    result, scores = outcome()
    rows = {row["variant"]: row for row in result["rows"]}
    assert list(rows) == [UNTRAINED, "RATS", "tau | 9", "better", "worse"]
    eye = {name: row["measures"]["eye"] for name, row in rows.items()}
    gap = scores["RATS", 3]["eye"] - scores[TEACHER, 50]["eye"]
    assert eye["RATS"]["to_teacher"]["mean"] == pytest.approx(gap.mean())
    assert eye["RATS"]["mean"] == pytest.approx(scores["RATS", 3]["eye"].mean())
    assert rows["RATS"]["win_rate"] == pytest.approx((gap > 0).mean())
    interval = eye["RATS"]["to_teacher"]
    assert 0.2 < interval["low"] < gap.mean() < interval["high"] < 0.4
    assert eye["RATS"]["to_variant"] is None and eye[UNTRAINED]["to_variant"] is None
    assert eye["tau | 9"]["to_variant"]["low"] < 0 < eye["tau | 9"]["to_variant"]["high"]
    assert rows["worse"]["win_rate"] == 0.5 and eye["worse"]["to_teacher"]["mean"] == 0.0
    assert rows["worse"]["measures"]["reward"]["to_variant"]["mean"] == pytest.approx(-0.3)
    assert result["teacher"] == {
        "num_steps": 50,
        "measures": {name: pytest.approx(scores[TEACHER, 50][name].mean()) for name in scores[TEACHER, 50]},
    }


def test_the_tables_and_the_figure_show_every_row(tmp_path):
    result, _ = outcome()
    means, differences = (table.splitlines() for table in format_tables(result).split("\n\n"))
    assert len(means) == 2 + 1 + 5 and all(line.count("|") - line.count("\\|") == 7 for line in means)
    assert re.fullmatch(r"\| RATS \| 3 \| 3.200 ▲ \| 28\.\d{3} ▲ \| 0.100 \| \d+% \|", means[4])
    assert re.match(r"\| untrained \| 3 \| 2.400 ▼ \| 27\.\d{3} ▼ \| 0.100 \|", means[3])
    assert differences[0] == "| RATS against | steps | trained sum | eye | diversity |"
    names = [line.split(" | ")[0].removeprefix("| ") for line in differences[2:]]
    assert names == ["tau \\| 9", "better", "worse"]
    number = r"[+-]\d\.\d{3}"
    interval = rf"{number} \[{number}, {number}\]"
    unknown = r"undecided \+0.000 \[\+0.000, \+0.000\]"
    assert re.fullmatch(rf".* \| {unknown} \| undecided {interval} \| {unknown} \|", differences[2])
    assert re.search(rf"\| 3 \| lost -0.300 .* \| lost {interval} \| {unknown} \|$", differences[3])
    assert re.search(rf"\| 3 \| \*\*won \+0.300 .*\*\* \| \*\*won {interval}\*\* \|", differences[4])
    narrow = {"mean": -0.0012, "low": -0.002, "high": -0.0004}
    result["rows"][-1]["measures"]["eye"]["to_variant"] = narrow
    assert "| **won +0.0012 [+0.0004, +0.0020]** |" in format_tables(result)
    for row in result["rows"]:  # neither more nor less motion is better
        row["measures"]["motion"] = row["measures"].pop("diversity") | {
            "to_teacher": narrow,
            "to_variant": narrow,
        }
    result["teacher"]["measures"]["motion"] = result["teacher"]["measures"].pop("diversity")
    means, differences = format_tables(result).split("\n\n")
    assert re.search(r"\| RATS \| 3 \|.* \| 0.100 \| \d+% \|", means)
    assert "▲ | 0.100 |" in means and differences.endswith("| +0.0012 [+0.0004, +0.0020] |")
    draw({"training": result, "held-out": result}, tmp_path / "ablation.png")
    assert Image.open(tmp_path / "ablation.png").width > 300


def test_training_is_summed_up_over_its_seeds():
    updates = np.arange(1, 61)
    student = np.stack([updates / 30.0, updates / 120.0])  # the second never catches up
    teacher = np.ones((2, 60))
    curves = {"student": student, "teacher": teacher, "gap": teacher - student, "updates": updates}
    curves["gate"] = 1.0 - student / 2.0
    (row,) = summarise({("RATS", 3): curves})
    assert (row["variant"], row["num_steps"]) == ("RATS", 3) and row["leads"] == [40, None]
    assert row["gap"][0] == pytest.approx((curves["gap"][:, :20]).mean())
    assert row["gap"][1] == pytest.approx((curves["gap"][:, 40:]).mean())
    assert row["mean_gate"] == pytest.approx(curves["gate"].mean())
    assert row["gate"][0] > row["mean_gate"] > row["gate"][1]
    noisy = curves | {"gap": np.random.default_rng(0).normal(0, 0.5, (2, 60))}
    assert summarise({("RATS", 3): noisy})[0]["gap_deviation"] == pytest.approx(0.5, rel=0.2)


def command(*arguments):
    done = call("ablate", *map(str, arguments))
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_a_comparison_goes_on_where_it_stopped(models, tmp_path):
    config, workdir, said = tiny_comparison(models), tmp_path / "comparison", []
    jobs = planning.plan(config, workdir)

    def compare_all():
        run_all(jobs, config, processes=1, say=said.append)
        write(jobs, config, workdir, say=said.append)
        return said[-1]

    shown = compare_all()
    table = (workdir / "ablation.md").read_text()
    assert table.strip() in shown and re.fullmatch(
        r"RATS, 2 steps, seeds 0, 1: \d+ s; \d of \d, 0\.\d\d hours left", said[2]
    )
    parts = re.split(r"^(?:Prompts, )?(\w+):$", table, flags=re.MULTILINE)[1:]
    assert parts[::2] == ["training", "other", "Training"]
    names = [line.split("|")[1].strip() for line in parts[3].split("\n\n")[1].splitlines()[2:]]
    assert names == ["teacher", "untrained", "RATS", "reward-only"]
    assert parts[1] != parts[3] and "diversity" in parts[1] and "| never, never |" in parts[5]
    result = json.loads((workdir / "ablation.json").read_text())
    assert result["num_updates"] == 2 and result["cost"]["cpu_seconds"] > 0
    assert Image.open(workdir / "ablation_curves.png").width > 300
    scores = [np.load(workdir / "rats" / "steps_2" / f"seed_{seed}" / "scores.npz") for seed in (0, 1)]
    heldout = [score["training/heldout"] for score in scores]
    assert heldout[0].shape == (6, 2) and np.any(heldout[0] != heldout[1])
    assert scores[0]["other/heldout"].shape == (2, 2) and scores[0]["other/diversity"].shape == (2, 1)
    assert len(list((workdir / "targets").glob("*/*.safetensors"))) == 4  # two seeds of two updates

    # What is lost is made again, by two processes of the command, and nothing else is; the table is the same.
    write_config(tmp_path / "tiny.py", config)
    for file in workdir.glob("teacher/*/scores.npz"), workdir.glob("untrained/*/scores.npz"):
        next(file).unlink()
    arguments = [f"--config={tmp_path / 'tiny.py'}", f"--workdir={workdir}"]
    code, out, err = command(*arguments, "--jobs=2")
    assert code == 0, err
    assert "4 of 6 were done before" in out and "RATS, 2 steps, seeds" not in out
    assert (workdir / "ablation.md").read_text() == table

    code, _, err = command(*arguments, "--config.base.num_updates=3")
    assert code == 1 and err.splitlines()[-1].startswith("error: base.num_updates=3: expected the same as in")


def test_prompts_of_the_comparison_are_read_before_anything_is_trained(tmp_path):
    config = load_config(CONFIG)
    (tmp_path / "half.jsonl").write_text('{"prompt": "\\ud83d"}')
    config.evaluation.prompts = (("training", ""), ("other", str(tmp_path / "half.jsonl")))
    jobs = planning.plan(config, tmp_path / "comparison")
    with pytest.raises(ConfigError, match="half.jsonl:1': expected a JSON object .half a character"):
        run_all(jobs, config, processes=1, say=print)
    assert not (tmp_path / "comparison").exists()
    run_all([], config, processes=1, say=print)  # nothing is left to do: they need not be there any more


def test_scores_of_before_a_field_came_are_of_the_same_comparison(tmp_path):
    config, said = load_config(CONFIG), []
    job = planning.plan(config, tmp_path)[0]
    job.folder.mkdir(parents=True)
    np.savez(job.folder / "scores.npz")
    base = json.loads(job.config)
    del base["loggers"], base["teacher"]["targets"]
    evaluation = {
        name: config.evaluation.to_dict()[name] for name in ("num_prompts", "num_seeds", "prompts", "seed")
    }

    def go_on():
        identity = json.dumps({"base": base, "evaluation": evaluation})
        (job.folder / "job.json").write_text(identity)
        run_all([job], config, processes=1, say=said.append)

    del base["gate"]["gap"], base["num_frames"]
    go_on()
    assert said == ["1 of 1 were done before"]
    base["num_frames"] = 5
    with pytest.raises(ConfigError, match="base.num_frames=0: expected the same as in .*, 5, or another"):
        go_on()


def test_scores_of_a_file_that_was_edited_since_are_refused(tmp_path):
    config, file = load_config(CONFIG), tmp_path / "mine.txt"
    config.evaluation.prompts = (("mine", str(file)),)
    file.write_text("a cat\n")
    job = planning.plan(config, tmp_path)[0]
    job.folder.mkdir(parents=True)
    np.savez(job.folder / "scores.npz")
    (job.folder / "job.json").write_text(json.dumps(_identity(job, config.evaluation.to_dict())))
    run_all([job], config, processes=1, say=print)
    file.write_text("a dog\n")
    with pytest.raises(ConfigError, match=f"^files.{file}='.*': expected the same as in '{job.folder}'"):
        run_all([job], config, processes=1, say=print)
    file.unlink()
    run_all([job], config, processes=1, say=print)  # nothing reads it any more


@pytest.mark.parametrize("content", [None, "", "{", "[]", "[" * 100_000])
def test_a_damaged_file_of_a_finished_job_is_named(tmp_path, content):
    config = load_config(CONFIG)
    job = planning.plan(config, tmp_path)[0]
    job.folder.mkdir(parents=True)
    np.savez(job.folder / "scores.npz")
    if content is not None:
        (job.folder / "job.json").write_text(content)
    with pytest.raises(ConfigError, match="job.json': expected what a job wrote, as JSON [(]"):
        run_all([job], config, processes=1, say=print)


@pytest.mark.parametrize("content", [None, b"", b"text", b"PK\3\4 cut", "other arrays"])
def test_damaged_scores_are_named(tmp_path, content):
    config = load_config(CONFIG)
    jobs = planning.plan(config, tmp_path)[:1]
    jobs[0].folder.mkdir(parents=True)
    file = jobs[0].folder / "scores.npz"
    if content == "other arrays":
        np.savez(file, other=np.zeros(2))
    elif content is not None:
        file.write_bytes(content)
    with pytest.raises(
        ConfigError, match="scores.npz': expected the scores that a job wrote [(].*[)]; without"
    ):
        write(jobs, config, tmp_path, say=print)


def test_bad_flags_are_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for arguments, message in (
        ([f"--workdir={tmp_path / 'file'}"], f"workdir='{tmp_path / 'file'}': expected a folder, it is a fi"),
        ([f"--workdir={tmp_path / 'new'}", "--jobs=9999"], "jobs=9999: expected at most the"),
    ):
        assert_one_line(call("ablate", f"--config={CONFIG}", *arguments), message)
    assert not (tmp_path / "new").exists()
