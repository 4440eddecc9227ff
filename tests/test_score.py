"""The command that scores a folder of pictures: against the rewards themselves, and bad input."""

import json

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from rats_jax.data.pairs import Pair, read_pairs
from rats_jax.data.pictures import read_picture
from rats_jax.evaluation import score
from rats_jax.evaluation.score import format_scores, score_pairs, summarise
from rats_jax.rewards import REWARDS
from tests.commands import assert_one_line, call
from tests.tiny import PROMPTS, read_reward, write_tiny_reward


@pytest.fixture
def folder(tmp_path):
    """Five pictures of two sizes, a prompt for each, and a reward's weights."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in range(5):
        size = (32, 32, 3) if i % 2 else (40, 24, 3)
        Image.fromarray(rng.integers(0, 255, size, np.uint8)).save(tmp_path / "images" / f"{i}.png")
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS[:5]))
    write_tiny_reward(tmp_path / "reward")
    return tmp_path


def run(folder, *arguments):
    return call("score", "--images=images", "--prompts=prompts.txt", *arguments, cwd=folder)


def test_scores_are_those_of_the_rewards_one_picture_at_a_time(folder):
    rewards = {
        "pickscore": read_reward(REWARDS["pickscore"].load(str(folder / "reward"))),
        "colour_target": read_reward(REWARDS["colour_target"].load("")),
    }
    pairs = read_pairs(folder / "images", folder / "prompts.txt")
    scores = score_pairs(rewards, pairs, batch_size=2)
    for name, reward in rewards.items():
        score_fn = jax.jit(reward.reward_fn)
        expected = [
            float(score_fn(reward.params, read_picture(p.file)[None], reward.prepare([p.prompt]))[0])
            for p in pairs
        ]
        np.testing.assert_allclose(scores[name], expected, rtol=1e-5, atol=1e-5)
        assert np.ptp(scores[name]) > 0.01


def test_what_is_not_finite_is_null_and_counted_apart(folder):
    pairs = read_pairs(folder / "images", folder / "prompts.txt")
    scores = {"good": np.arange(5.0), "bad": np.array([1.0, np.nan, 3.0, np.inf, 5.0])}
    summary = summarise(pairs, scores, {"good": "", "bad": "weights"})
    assert summary["rewards"]["bad"] == {"path": "weights", "mean": 3.0, "std": pytest.approx((8 / 3) ** 0.5)}
    assert summary["not_finite"] == {"bad": ["1.png", "3.png"]}
    assert [picture["bad"] for picture in summary["pictures"]] == [1.0, None, 3.0, None, 5.0]
    assert summary["pictures"][2] == {"file_name": "2.png", "prompt": PROMPTS[2], "good": 2.0, "bad": 3.0}
    json.dumps(summary, allow_nan=False)
    assert "nan" in format_scores(pairs, scores)


def test_deep_greys_and_other_suffixes_score_as_the_picture_that_they_show(folder):
    grey = np.add.outer(np.arange(48), 2 * np.arange(48)).astype(np.uint8)
    other = folder / "other"
    other.mkdir()
    for name, values in {
        "0.png": grey,
        "1.png": grey.astype(np.uint16) * 257,
        "2.tif": (grey.astype(np.uint16) * 257).astype(">u2"),
        "3.tif": grey.astype(np.int32) * 257,
        "4.tiff": grey.astype(np.float32) / 255,
        "5.TIF": grey.astype(np.float32),
        "6.ppm": grey,
    }.items():
        Image.fromarray(values).save(other / name)
    reward = {"pickscore": read_reward(REWARDS["pickscore"].load(str(folder / "reward")))}
    (folder / "one.txt").write_text(PROMPTS[0])
    scores = score_pairs(reward, read_pairs(other, folder / "one.txt"), batch_size=8)["pickscore"]
    assert len(scores) == 7 and np.ptp(scores) < 1e-5


def test_a_strip_is_scored_and_the_pictures_that_are_turned_go_by_the_size_that_is_shown(folder):
    images = folder / "images"
    Image.new("RGB", (60000, 1), "red").save(images / "5.png")
    exif = Image.Exif()
    exif[274] = 6
    with Image.open(images / "0.png") as picture:
        picture.transpose(Image.Transpose.ROTATE_90).save(images / "6.png", exif=exif)
    rewards = {
        "pickscore": read_reward(REWARDS["pickscore"].load(str(folder / "reward"))),
        "colour_target": read_reward(REWARDS["colour_target"].load("")),
    }
    (folder / "one.txt").write_text(PROMPTS[0])
    scores = score_pairs(rewards, read_pairs(images, folder / "one.txt"), batch_size=2)
    for values in scores.values():
        assert np.isfinite(values).all() and values[6] == pytest.approx(values[0], abs=1e-5)


def test_large_pictures_do_not_fill_up_a_batch(folder, monkeypatch):
    monkeypatch.setattr(score, "_FILLING", 32 * 32 - 1)
    shapes = []
    reward = REWARDS["colour_target"].load("")

    def reward_fn(params, images, prompt):
        shapes.append(images.shape)
        return reward.reward_fn(params, images, prompt)

    pairs = read_pairs(folder / "images", folder / "prompts.txt")
    scores = score_pairs({"a": read_reward(reward._replace(reward_fn=reward_fn))}, pairs, batch_size=8)
    assert sorted(set(shapes)) == [(2, 32, 32, 3), (8, 40, 24, 3)]
    np.testing.assert_allclose(
        scores["a"], score_pairs({"a": read_reward(reward)}, pairs, batch_size=1)["a"], 1e-5
    )


def test_names_of_any_characters_keep_the_table_whole(folder):
    names = ["a\nb.png", "c\udcff.png", "\u732b.png"]
    pairs = [Pair(folder / name, "a\u2028cat") for name in names]
    table = format_scores(pairs, {"r": np.zeros(3)})
    table.encode()
    assert len(table.splitlines()) == 6
    assert r"a\nb.png" in table and r"c\udcff.png" in table and "\u732b.png" in table
    json.dumps(summarise(pairs, {"r": np.zeros(3)}, {"r": ""})).encode()


@pytest.mark.slow
def test_the_command_writes_a_table_and_json(folder):
    done = run(folder, "--reward=pickscore=reward", "--reward=compressibility_proxy", "--out=out.json")
    assert done.returncode == 0, done.stderr
    summary = json.loads((folder / "out.json").read_text())
    table = {line.split()[0]: line.split()[-2:] for line in done.stdout.splitlines() if line.strip()}
    for picture in summary["pictures"]:
        shown = [f"{picture[name]:.4f}" for name in ("pickscore", "compressibility_proxy")]
        assert table[picture["file_name"]] == shown
    means = [summary["rewards"][name]["mean"] for name in ("pickscore", "compressibility_proxy")]
    np.testing.assert_allclose(np.float64(table["mean"]), means, atol=1e-4)
    assert len(summary["pictures"]) == 5 and summary["not_finite"] == {}


BAD = {
    "unknown reward": (["--reward=beauty"], "reward='beauty': expected one of aesthetic, clipscore,"),
    "a reward of videos": (
        ["--reward=viclip"],
        "reward='viclip': expected a reward of pictures, this one",
    ),
    "no weights there": (["--reward=pickscore=nowhere"], "reward=pickscore='nowhere': expected an existing"),
    "no path where one was begun": (["--reward=pickscore="], "reward=pickscore='': expected a path"),
    "a kind twice": (["--reward=clipscore"] * 2, "reward='clipscore': expected each kind once"),
    "a flag twice": (["--reward=colour_target", "--prompts=a"], "--prompts: expected once, it is given 2"),
    "a folder to write": (["--reward=colour_target", "--out=images"], "out='images': expected a file"),
    "no reward": ([], "flag --reward=None: Flag --reward must have a value other than None."),
    "a weight where there is none": (["--reward=colour_target=images"], "path='images': expected ''"),
    "no folder to write to": (["--reward=colour_target", "--out=a/b.json"], "out='a/b.json': expected"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(folder, case):
    arguments, message = BAD[case]
    assert_one_line(run(folder, *arguments), message)
    assert not (folder / "scores.json").exists()


@pytest.mark.slow
def test_what_the_command_passes_over_and_what_it_cannot_read_are_one_line_each(folder):
    (folder / "images" / "contact_sheet.png").write_bytes(b"")
    (folder / "images" / ".DS_Store").write_bytes(b"")
    done = run(folder, "--reward=colour_target")
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert "images='images': has 5 pictures; passed over 1 that are none, e.g. 'contact_sheet.png'" in line
    (folder / "images" / "contact_sheet.png").unlink()
    (folder / "images" / "3.png").write_bytes(b"<!DOCTYPE html>")
    done = run(folder, "--reward=colour_target")
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert "error: images='images/3.png': expected a readable picture (it begins with b'<!DOCTYPE" in line


@pytest.mark.slow
def test_scores_that_are_not_finite_end_in_an_error_and_are_written_all_the_same(folder):
    weights = load_file(folder / "reward" / "model.safetensors")
    weights["logit_scale"] = np.full_like(weights["logit_scale"], 1000.0)  # its exponential is infinite
    save_file(weights, folder / "reward" / "model.safetensors")
    done = run(folder, "--reward=pickscore=reward", "--reward=colour_target")
    assert done.returncode == 1
    assert "error: 5 scores are not finite: pickscore of '0.png', " in done.stderr
    summary = json.loads((folder / "scores.json").read_text())
    assert all(p["pickscore"] is None and p["colour_target"] < 0 for p in summary["pictures"])
    assert summary["rewards"]["pickscore"]["mean"] is None
