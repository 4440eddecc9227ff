"""The table: distances against a slow loop, fixed prompts and noise, averages of made-up pictures."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from rats_jax.errors import ConfigError
from rats_jax.evaluation.reference import Reference, load_reference, reference_distance
from rats_jax.method.contracts import Contestant, FrozenFns
from rats_jax.report.run_table import format_table
from rats_jax.training.table import (
    EvaluationSet,
    Pictures,
    make_contestant_fn,
    make_evaluation_set,
    make_judge_fn,
    render_set,
    summarise,
)
from rats_jax.types import FrozenParams, Trajectory

CAPTIONS = ["cat", "dog", "red apple"]
IMAGE_SHAPE = (4, 4, 3)


def images(count, seed=0):
    return np.random.default_rng(seed).uniform(size=(count, 4, 4, 3)).astype(np.float32)


@pytest.fixture
def reference():
    return Reference(images(3), CAPTIONS)


def test_distances_match_a_slow_loop(reference):
    prompts, pictures = ["dog", "cat", "dog", "red apple"], images(4, seed=1)
    pictures[1] = reference.images[2]  # an apple where a cat was asked for: far from its own, near another
    own, nearest = reference_distance(pictures, prompts, reference)
    for n, (picture, prompt) in enumerate(zip(pictures.astype(np.float64), prompts, strict=True)):
        errors = {}
        for caption, real in zip(CAPTIONS, reference.images.astype(np.float64), strict=True):
            errors[caption] = sum((picture[i] - real[i]) ** 2 for i in np.ndindex(real.shape)) / real.size
        assert own[n] == pytest.approx(errors[prompt], rel=1e-5)
        assert nearest[n] == pytest.approx(min(errors.values()), rel=1e-5, abs=1e-9)
    assert nearest[1] == 0 < own[1]


def toy_experiment(heldout=True):
    """Rewards that read the prompt: its length (trained) and its negative (held out)."""

    monitored = ["heldout"] if heldout else []

    def prepare(prompts):
        return np.array([len(p) for p in prompts], np.float32)

    return SimpleNamespace(
        pipeline=SimpleNamespace(latent_shape=(4, 4, 3)),
        fns=FrozenFns(
            encode_fn=lambda params, prompt: prompt,
            decode_fn=None,
            score_fn=lambda params, pictures, prompt: {"first": prompt + jnp.mean(pictures, axis=(1, 2, 3))},
        ),
        make_batch=lambda prompts: SimpleNamespace(prompt=prepare(prompts), reward=prepare(prompts)),
        decode_whole_fn=lambda params, latents: params * latents,
        monitor_fn=lambda params, pictures, prompt: {name: params[name] * prompt[name] for name in monitored},
        make_monitor_inputs=lambda prompts: {name: prepare(prompts) for name in monitored},
    )


def settings(**changes):
    return SimpleNamespace(**({"batch_size": 3, "seed": 5} | changes))


def test_the_set_depends_on_its_settings_alone():
    prompts = [*CAPTIONS, "ice cream"]
    first, second = (make_evaluation_set(toy_experiment(), prompts, settings(), count=7) for _ in range(2))
    assert first.prompts == second.prompts and first.batch_size == 3
    np.testing.assert_array_equal(first.noise, second.noise)
    assert first.noise.shape == (7, 4, 4, 3) and first.noise.dtype == np.float32
    assert set(first.prompts[:4]) == set(prompts)  # every prompt once before any comes again
    assert first.prompts[4:] == first.prompts[:3] and not np.array_equal(first.noise[0], first.noise[4])
    other = make_evaluation_set(toy_experiment(), prompts, settings(seed=6), count=7)
    assert not np.array_equal(other.noise, first.noise)
    few = make_evaluation_set(toy_experiment(), [str(i) for i in range(99)], settings(), count=7).prompts
    assert len(few) == 7 and few != [str(i) for i in range(7)]  # a sample of the file, not its head
    sheets = make_evaluation_set(toy_experiment(), prompts, settings(), count=3)
    assert sheets.prompts == first.prompts[:3]  # a sheet shows what the table begins with
    np.testing.assert_array_equal(sheets.noise, first.noise[:3])


@pytest.mark.parametrize("heldout", [True, False])
def test_a_set_is_rendered_in_whole_batches_and_cut(heldout):
    experiment = toy_experiment(heldout)
    contestant = Contestant(
        params_fn=lambda base, params: base * params,
        rollout_fn=lambda params, noise, embeds: Trajectory(params * noise, noise[None]),
    )
    sample, judge = make_contestant_fn(experiment, contestant), make_judge_fn(experiment)
    frozen = FrozenParams(jnp.float32(1.0), None, jnp.float32(0.5), {})
    sizes = []

    def bound(params, batch, heldout_prompt, noise):
        sizes.append(len(noise))
        latents = sample(params, frozen, batch, noise)
        return judge(frozen, {"heldout": jnp.float32(-1)}, batch, heldout_prompt, latents)

    evaluation_set = make_evaluation_set(experiment, CAPTIONS, settings(), count=7)
    pictures = render_set(experiment, bound, jnp.float32(4), evaluation_set)
    assert sizes == [3, 3, 3]  # one compilation: the last batch of one is filled up
    expected = np.clip(0.5 * 4 * evaluation_set.noise, 0, 1)
    lengths = np.array([len(p) for p in evaluation_set.prompts])
    np.testing.assert_allclose(pictures.images, expected, rtol=1e-6)
    np.testing.assert_allclose(pictures.latents, 4 * evaluation_set.noise, rtol=1e-6)
    np.testing.assert_allclose(pictures.scores["first"], lengths + expected.mean(axis=(1, 2, 3)), rtol=1e-5)
    if heldout:
        np.testing.assert_array_equal(pictures.scores["heldout"], -lengths)
    else:
        assert set(pictures.scores) == {"first"}


def test_a_set_smaller_than_its_batch_is_rendered():
    experiment = toy_experiment()
    evaluation_set = EvaluationSet(["cat", "dog"], np.zeros((2, 4, 4, 3), np.float32), 5)
    result = render_set(
        experiment, lambda p, b, h, noise: Pictures(noise, noise, {"r": b.reward}), None, evaluation_set
    )
    assert result.images.shape == (2, 4, 4, 3) and result.scores["r"].tolist() == [3, 3]


def contestants(heldout=True):
    def pictures(shift, scores):
        judged = {"judge": np.array(scores, np.float32)} if heldout else {}
        pixels = np.clip(images(3) + shift, 0, None)
        return Pictures(pixels, pixels, {"half": np.array([0.0, 0.5, 1.0]) + shift / 2} | judged)

    return {
        "teacher": pictures(0.0, [1, 1, 1]),
        "untrained": pictures(0.5, [0, 0, 2]),
        "untrained_cfg": pictures(0.2, [1, 1, 1]),
        "student": pictures(0.1, [2, 2, 0]),
    }


def summary_of(pictures, reference):
    heldout = "judge" if "judge" in pictures["student"].scores else ""
    return summarise(pictures, CAPTIONS, lambda s: 2 * s["half"], heldout=heldout, reference=reference)


def test_the_summary_by_hand(reference):
    summary = summary_of(contestants(), reference)
    order = ["teacher", "untrained", "untrained_cfg", "student"]
    expected = {
        "reward": [1.0, 1.5, 1.2, 1.1],
        "heldout_reward": [1.0, 2 / 3, 1.0, 4 / 3],
        "reference_distance": [0.0, 0.25, 0.04, 0.01],
        "heldout_win_rate": [0.5, 1 / 3, 0.5, 2 / 3],
    }
    for score, values in expected.items():
        assert list(summary[score]) == order
        assert list(summary[score].values()) == pytest.approx(values, abs=1e-6)
        assert all(type(value) is float for value in summary[score].values())
    assert summary["rewards"]["judge"] == summary["heldout_reward"]
    assert list(summary["rewards"]["half"].values()) == pytest.approx([0.5, 0.75, 0.6, 0.55])
    nearest, own = summary["nearest_reference_distance"], summary["reference_distance"]
    assert all(nearest[name] <= own[name] for name in order)


def test_accuracy_is_what_the_judge_of_contents_says():
    summary = summarise(
        contestants(), CAPTIONS, lambda s: s["half"], heldout="", accuracy="judge", reference=None
    )
    assert list(summary["accuracy"].values()) == pytest.approx([1.0, 2 / 3, 1.0, 4 / 3])
    table = format_table(summary | {"nfe": 4, "teacher_nfe": 100, "guided_nfe": 8})
    assert table.splitlines()[0].split() == ["reward", "accuracy"]


@pytest.mark.parametrize("num_frames", [1, 3])
def test_motion_is_measured_of_videos(num_frames):
    """Of frames that brighten by what the contestant says; one frame is a picture, which has none."""

    def pictures(change):
        frames = np.float32(change) * np.arange(num_frames, dtype=np.float32)
        videos = np.broadcast_to(frames[:, None, None, None], (3, num_frames, 4, 4, 3))
        return Pictures(videos, videos, {"half": np.zeros(3, np.float32)})

    changes = {"teacher": 0.1, "untrained": 0.0, "untrained_cfg": 0.2, "student": 0.3}
    summary = summary_of({who: pictures(change) for who, change in changes.items()}, None)
    table = format_table(summary | {"nfe": 4, "teacher_nfe": 100, "guided_nfe": 8})
    if num_frames == 1:
        assert set(summary["motion"].values()) == {None} and "motion" not in table
    else:
        assert summary["motion"] == pytest.approx(changes)
        assert table.splitlines()[0].split() == ["reward", "motion"]


def test_what_cannot_be_measured_is_none_and_leaves_the_table():
    summary = summary_of(contestants(heldout=False), None)
    distances = ("reference_distance", "nearest_reference_distance")
    for score in ("heldout_reward", "heldout_win_rate", "accuracy", "motion", *distances):
        assert set(summary[score].values()) == {None}
    table = format_table(summary | {"nfe": 4, "teacher_nfe": 100, "guided_nfe": 8})
    assert table.splitlines()[0].split() == ["reward"]


def test_the_table_by_hand(reference):
    numbers = {"nfe": 4, "teacher_nfe": 100, "guided_nfe": 8}
    lines = format_table(summary_of(contestants(), reference) | numbers).splitlines()
    assert lines[0].split("  ")[-1] == "to nearest" and len({len(line) for line in lines}) == 1
    rows = {line.rsplit(maxsplit=5)[0].strip(): line.split()[-5:] for line in lines[1:]}
    assert list(rows) == [
        "teacher, 100 evaluations",
        "untrained, 4 evaluations",
        "untrained with guidance, 8 evaluations",
        "student, 4 evaluations",
    ]
    assert rows["student, 4 evaluations"][:4] == ["1.1000", "1.3333", "0.6667", "0.0100"]


def test_one_untrained_model_is_one_row(reference):
    alike = contestants()
    alike["untrained_cfg"] = alike["untrained"]
    for guided, rows in ((4, 3), (8, 4)):  # as many evaluations, or twice as many
        numbers = {"nfe": 4, "teacher_nfe": 50, "guided_nfe": guided}
        assert len(format_table(summary_of(alike, reference) | numbers).splitlines()) == 1 + rows
    numbers = {"nfe": 4, "teacher_nfe": 50, "guided_nfe": 4}
    assert "with guidance" in format_table(summary_of(contestants(), reference) | numbers)


def test_a_reference_is_read(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), np.uint8)
    np.savez_compressed(tmp_path / "reference.npz", images=pixels, captions=np.array(CAPTIONS))
    reference = load_reference(tmp_path / "reference.npz", ["dog", "cat", "dog"], IMAGE_SHAPE)
    assert reference.captions == CAPTIONS and reference.images.dtype == np.float32
    np.testing.assert_allclose(reference.images * 255, pixels, rtol=1e-6)


def test_a_reference_without_a_prompt_s_picture_is_named(tmp_path):
    file = tmp_path / "reference.npz"
    np.savez(file, images=np.zeros((3, 4, 4, 3), np.uint8), captions=np.array(CAPTIONS))
    with pytest.raises(ConfigError, match=r"^reference='.*npz': has no picture for 2 prompts, e.g. 'bee'$"):
        load_reference(file, ["cat", "zebra", "bee"], IMAGE_SHAPE)


def test_a_reference_of_another_size_is_named(tmp_path):
    file = tmp_path / "reference.npz"
    np.savez(file, images=np.zeros((3, 4, 4, 3), np.uint8), captions=np.array(CAPTIONS))
    with pytest.raises(ConfigError, match=r"images are \(3, 4, 4, 3\), expected \(3, 8, 8, 3\)$"):
        load_reference(file, CAPTIONS, (8, 8, 3))


def test_a_reference_that_is_not_of_bytes_is_named(tmp_path):
    file = tmp_path / "reference.npz"
    np.savez(file, images=np.ones((3, 4, 4, 3), np.float32), captions=np.array(CAPTIONS))
    with pytest.raises(ConfigError, match=r"npz': its images are float32, expected uint8$"):
        load_reference(file, CAPTIONS, IMAGE_SHAPE)


def test_any_damage_to_a_reference_is_one_line(tmp_path):
    rng, file = np.random.default_rng(0), tmp_path / "reference.npz"
    pixels = rng.integers(0, 256, (3, 4, 4, 3), np.uint8)
    np.savez_compressed(file, images=pixels, captions=np.array(CAPTIONS))
    whole = np.frombuffer(file.read_bytes(), np.uint8)
    for _ in range(300):
        content = whole.copy()
        content[rng.integers(0, len(content), 3)] = rng.integers(0, 256, 3)
        file.write_bytes(content[: rng.integers(len(content) // 2, len(content) + 1)].tobytes())
        try:
            load_reference(file, CAPTIONS, IMAGE_SHAPE)
        except ConfigError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("damage", ["absent", "text", "cut", "other", "array", "pickle"])
def test_a_reference_that_cannot_be_read_is_one_line(tmp_path, damage):
    file = tmp_path / "reference.npz"
    np.savez(file, images=np.zeros((3, 4, 4, 3), np.uint8), captions=np.array(CAPTIONS))
    whole = file.read_bytes()
    if damage == "absent":
        file.unlink()
    elif damage == "text":
        file.write_text("cat\ndog\n")
    elif damage == "cut":
        file.write_bytes(whole[: len(whole) // 2])
    elif damage == "other":
        np.savez(file, pictures=np.zeros(3))
    elif damage == "array":
        with file.open("wb") as stream:
            np.save(stream, np.zeros(3))
    else:
        np.savez(file, images=np.zeros((3, 4, 4, 3)), captions=np.array(CAPTIONS, object))
    with pytest.raises(ConfigError, match=r"^reference='.*npz': expected an .npz with images") as caught:
        load_reference(file, CAPTIONS, IMAGE_SHAPE)
    assert "\n" not in str(caught.value)
