"""Pictures from a run, from a folder, from the command line."""

import dataclasses
import shutil
from io import FileIO

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import rats_jax
from rats_jax.data.prompts import read_records
from rats_jax.diffusion.rollout import rollout
from rats_jax.diffusion.sampler import ddim_step
from rats_jax.errors import ConfigError, WeightsError
from rats_jax.networks.lora import Adapted, init_adapters, with_adapters
from rats_jax.pipelines.open import load_pipeline
from rats_jax.report import figures
from rats_jax.student.formats import export_student
from rats_jax.student.load import load_pretrained
from rats_jax.student.model import _listed, count_drawn, draw_folder
from tests.commands import assert_one_line, call
from tests.finished import write_run
from tests.tiny import PROMPTS, flags_with, random_params, tiny_config


@pytest.fixture(scope="module")
def run(models, tmp_path_factory):
    """A run whose student is another network than the pretrained one."""
    config = tiny_config(models)
    student = random_params(load_pipeline(models / "pipeline").network, seed=9)
    return write_run(tmp_path_factory.mktemp("runs") / "run", config, student, steps=(2, 4)), student


@pytest.fixture(scope="module")
def student(run):
    return rats_jax.load(str(run[0]))


def by_hand(models, unet, prompts, noise, *, num_steps, scale, denoise_fn=None):
    pipeline = load_pipeline(models / "pipeline")
    path = rollout(
        denoise_fn or pipeline.guided_fn(scale),
        unet,
        noise,
        pipeline.encode_fn(pipeline.text_encoder, pipeline.tokenize(prompts)),
        grid=pipeline.grid_fn(num_steps, ""),
        prediction_type="v_prediction",
        step_fn=ddim_step,
        gradient_steps=num_steps,
        remat="none",
        unroll=False,
    )
    return np.clip(pipeline.decode_fn(pipeline.decoder, path.latents), 0.0, 1.0)


@pytest.mark.slow
def test_it_draws_what_a_rollout_of_the_student_gives(models, run, student):
    noise = student.make_noise(range(3))
    assert (student.num_steps, student.guidance_scale) == (2, 1.0)
    for steps, scale in ((2, 1.0), (2, 2.5), (3, 1.0)):
        expected = by_hand(models, run[1], PROMPTS[:3], noise, num_steps=steps, scale=scale)
        images = student(PROMPTS[:3], num_steps=steps, latents=noise, guidance_scale=scale)
        assert images.shape == (3, 32, 32, 3) and images.dtype == np.float32
        np.testing.assert_allclose(images, expected, atol=1e-4)


@pytest.mark.slow
def test_a_picture_depends_on_its_own_seed_and_prompt_alone(student):
    images = student(PROMPTS[:3], seed=5)
    np.testing.assert_allclose(student(PROMPTS[1], seed=6)[0], images[1], atol=1e-5)
    np.testing.assert_array_equal(student(PROMPTS[:3], seed=5), images)
    assert np.abs(student(PROMPTS[:3], seed=8) - images).mean() > 1e-3


@pytest.mark.slow
def test_one_program_serves_all_prompts_seeds_and_guidance_scales(student):
    program = student.compile(batch_size=3)
    programs = dict(student._programs)
    for i, scale in enumerate((1.0, 1.5, 7.0)):
        student(PROMPTS[i : i + 3], seed=i, guidance_scale=scale)
    assert student._programs == programs and program in programs.values()


@pytest.mark.slow
def test_adapters_are_merged_into_the_network(models, tmp_path):
    pipeline = load_pipeline(models / "pipeline")
    settings = {"lora__rank": 3, "lora__alpha": 6.0, "lora__targets": "to_q|conv1|proj_in"}
    adapters = init_adapters(pipeline.network, targets=settings["lora__targets"], rank=3, seed=0)
    adapters = jax.tree.map(lambda x: np.random.default_rng(x.size).normal(size=x.shape) / 4, adapters)
    adapters = jax.tree.map(lambda x: x.astype(np.float32), adapters)
    run = write_run(tmp_path / "run", tiny_config(models, **settings), adapters)
    student = rats_jax.load(str(run))
    noise = student.make_noise([0, 1])
    expected = by_hand(
        models,
        Adapted(pipeline.network, adapters),
        PROMPTS[:2],
        noise,
        num_steps=2,
        scale=1.0,
        denoise_fn=with_adapters(pipeline.guided_fn(1.0), scale=2.0),
    )
    np.testing.assert_allclose(student(PROMPTS[:2], latents=noise), expected, atol=2e-4)
    assert (
        np.abs(by_hand(models, pipeline.network, PROMPTS[:2], noise, num_steps=2, scale=1.0) - expected).max()
        > 0.05
    )


LATENTS = np.zeros((1, 8, 8, 4))
GUIDANCE = r"expected a number >= 1 \(1 is no guidance\)$"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": []}, r"^prompts=\[\]: expected at least one$"),
        ({"prompts": None}, "^prompts=None: expected a text or a list of texts$"),
        ({"prompts": 5}, "^prompts=5: expected a text or a list of texts$"),
        ({"prompts": b"cat"}, "^prompts=b'cat': expected a text or a list of texts$"),
        ({"prompts": {"cat"}}, "^prompts={'cat'}: expected a text or a list of texts$"),
        ({"prompts": {"cat": 1}}, "expected a text or a list of texts$"),
        ({"prompts": ["cat", " "]}, r"^prompts\[1\]: expected a prompt, found a blank text"),
        ({"prompts": ["cat", 3]}, r"^prompts\[1\]: expected a text, found 3"),
        ({"prompts": [["cat"]]}, r"^prompts\[0\]: expected a text, found \['cat'\]"),
        ({"prompts": "cat \ud83d"}, r"^prompts\[0\]: expected a text of whole characters"),
        ({"num_steps": 0}, "^num_steps=0: expected an integer >= 1$"),
        ({"num_steps": 2.0}, r"^num_steps=2\.0: expected an integer >= 1$"),
        ({"num_steps": True}, "^num_steps=True: expected an integer >= 1$"),
        ({"num_steps": "2"}, "^num_steps='2': expected an integer >= 1$"),
        ({"num_steps": 2000}, "^num_steps=2000: "),
        ({"guidance_scale": 0.5}, rf"^guidance_scale=0\.5: {GUIDANCE}"),
        ({"guidance_scale": float("nan")}, f"^guidance_scale=nan: {GUIDANCE}"),
        ({"guidance_scale": float("inf")}, f"^guidance_scale=inf: {GUIDANCE}"),
        ({"guidance_scale": "3"}, f"^guidance_scale='3': {GUIDANCE}"),
        ({"guidance_scale": [3.0]}, rf"^guidance_scale=\[3\.0\]: {GUIDANCE}"),
        ({"seed": -1}, "^seed=-1: expected an integer from 0 to 4294967295$"),
        ({"seed": 2**32}, "^seed=4294967296: expected an integer from 0 to 4294967295$"),
        ({"prompts": ["cat"] * 3, "seed": 2**32 - 2}, "expected an integer from 0 to 4294967293$"),
        ({"seed": 1.5}, r"^seed=1\.5: expected an integer"),
        ({"seed": None}, "^seed=None: expected an integer"),
        ({"latents": np.zeros((2, 8, 8, 4))}, r"^latents.shape=.*: expected \(1, 8, 8, 4\)"),
        ({"latents": "noise"}, "^latents: expected an array of numbers "),
        ({"latents": [[1, 2], [3]]}, "^latents: expected an array of numbers "),
        ({"latents": LATENTS + 1j}, r"^latents: expected an array of numbers \(they are complex\)$"),
        (
            {"latents": LATENTS + np.inf},
            "^latents='256 of 256 are nan or infinite': expected finite numbers$",
        ),
    ],
)
def test_what_a_call_gets_wrong_is_one_line(student, arguments, message):
    programs = dict(student._programs)
    with pytest.raises(ConfigError, match=message) as error:
        student(**({"prompts": "cat"} | arguments))
    assert "\n" not in str(error.value) and student._programs == programs


@pytest.mark.slow
def test_numbers_of_other_libraries_are_numbers(student):
    expected = student(["cat", "dog"], num_steps=2, seed=3, guidance_scale=2.0)
    numbers = {"num_steps": np.int64(2), "seed": np.uint32(3), "guidance_scale": jax.numpy.float32(2)}
    for prompts in (("cat", "dog"), np.array(["cat", "dog"]), (text for text in ("cat", "dog"))):
        np.testing.assert_array_equal(student(prompts, **numbers), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step": 3}, "^step=3: expected one of the checkpoints 2, 4"),
        ({"step": 2.0}, r"^step=2\.0: expected an integer >= 0$"),
        ({"step": True}, "^step=True: expected an integer >= 0$"),
        ({"dtype": "float8"}, "^dtype='float8': expected 'float32' or 'bfloat16'$"),
        ({"dtype": np.float32}, "^dtype=<class 'numpy.float32'>: expected 'float32' or 'bfloat16'$"),
        ({"height": -8}, "^height=-8: expected an integer >= 0$"),
        ({"height": 8_000_000}, "^height=8000000: expected a multiple of 4 up to 16384, or 0"),
        ({"width": 32.0}, r"^width=32\.0: expected an integer >= 0$"),
        ({"max_sequence_length": "77"}, "^max_sequence_length='77': expected an integer >= 0$"),
        ({"num_frames": 5.0}, r"^num_frames=5\.0: expected an integer >= 0$"),
        ({"flow_shift": True}, "^flow_shift=True: expected a number >= 0$"),
        ({"negative_prompt": None}, "^negative_prompt=None: expected a text$"),
        ({"num_frames": 5}, "^num_frames=5: expected 0: a StableDiffusionPipeline has no such choice$"),
        ({"path": None}, "^path=None: expected a folder or a hub id$"),
        ({"path": ""}, "^path='': expected a folder or a hub id$"),
        ({"path": b"runs"}, "^path=b'runs': expected a folder or a hub id$"),
        ({"path": "assets/emoji/pipeline", "step": 3}, "^step=3: expected none"),
    ],
)
def test_what_a_load_gets_wrong_is_one_line(run, arguments, message):
    with pytest.raises(ConfigError, match=message):
        rats_jax.load(**({"path": str(run[0])} | arguments))


def test_what_loading_and_saving_get_wrong_is_one_line(models, student, tmp_path):
    config = tiny_config(models)
    for refuse, message in (
        (lambda: rats_jax.load(str(models)), "lacks 'model_index.json'"),
        (lambda: load_pretrained(config, role="judge"), "^role='judge': expected 'student' or 'teacher'$"),
        (lambda: load_pretrained(config, role="student", dtype="half"), "^dtype='half': expected 'float32' "),
        (lambda: student.compile(batch_size=0), "^batch_size=0: expected an integer >= 1$"),
        (lambda: student.make_noise([0, 2.5]), r"^seed=2\.5: expected an integer"),
        (
            lambda: export_student(student, tmp_path, format="onnx", dtype="float32"),
            "^format='onnx': expected one of diffusers, flax, lora, jax$",
        ),
        (
            lambda: export_student(student, tmp_path, format="jax", dtype="int8"),
            "^dtype='int8': expected one of float32, float16, bfloat16$",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            refuse()
    assert list(tmp_path.iterdir()) == []


def scaled(tree, factor):
    return jax.tree.map(lambda leaf: leaf * np.float32(factor), tree)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["network", "text_encoder", "decoder"])
def test_a_picture_that_is_not_finite_is_no_picture(student, part):
    """Finite weights whose products are not; a decoder that gives infinity gave white pictures."""
    weights = scaled(getattr(student.pipeline, part), 1e38 if part == "decoder" else 1e30)
    pipeline = dataclasses.replace(student.pipeline, **{part: weights})
    broken = dataclasses.replace(student, pipeline=pipeline, _weights=[])
    message = "^guidance_scale=1, num_steps=2: 2 of 2 pictures of '.*' have nan or infinity, that of 'cat' is"
    with pytest.raises(ConfigError, match=message):
        broken(["cat", "dog"])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named_when_they_are_loaded(models, run, tmp_path, bad):
    shutil.copytree(models / "pipeline", tmp_path / "pipeline")
    file = tmp_path / "pipeline" / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if name.startswith("decoder.conv_out"))
    weights[name].reshape(-1)[0] = bad
    save_file(weights, file)
    with pytest.raises(WeightsError, match=f"^weights '{file}', '{name}': expected finite numbers"):
        rats_jax.load(str(tmp_path / "pipeline"))

    student = jax.tree.map(np.copy, run[1])
    student["conv_in"]["bias"][0] = bad
    write_run(tmp_path / "run", tiny_config(models), student)
    message = "finite weights in the checkpoint of update 4, conv_in/bias has nan or infinity"
    with pytest.raises(ConfigError, match=f"^workdir='{tmp_path / 'run'}': expected {message}"):
        rats_jax.load(str(tmp_path / "run"))


def test_a_run_without_checkpoints_is_refused(models, tmp_path):
    write_run(tmp_path / "run", tiny_config(models), {}, steps=())
    with pytest.raises(ConfigError, match="expected a run with checkpoints, it has none"):
        rats_jax.load(str(tmp_path / "run"))


@pytest.mark.slow
def test_the_command_writes_pictures_that_say_what_they_are(run, student, tmp_path):
    (tmp_path / "prompts.txt").write_text("taxi\n")
    out = tmp_path / "new" / "out"
    arguments = [f"--model={run[0]}", "--prompt=cat face", f"--prompts-file={tmp_path / 'prompts.txt'}"]
    result = call("generate", *arguments, "--num-images=2", "--seed=3", "--batch-size=3", f"--out={out}")
    assert result.returncode == 0, result.stderr[-3000:]
    assert "4 pictures, " in result.stdout and " a second" in result.stdout
    jobs = [("cat face", 3), ("cat face", 4), ("taxi", 3), ("taxi", 4)]
    for i, (prompt, seed) in enumerate(jobs):
        with Image.open(out / f"{i:05d}.png") as picture:
            assert picture.info["prompt"] == prompt and picture.info["seed"] == str(seed)
            assert picture.info["num_steps"] == "2" and picture.info["model"] == f"{run[0]}, update 4"
            expected = student([prompt], seed=seed)[0]
            assert np.abs(np.asarray(picture) / 255 - expected).max() < 1 / 255
    records = [record for _, record in read_records(out / "prompts.jsonl")]
    assert [(r["prompt"], r["seed"]) for r in records] == jobs
    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.height > 2 * 128
    assert sorted(file.name for file in out.iterdir()) == [
        *(f"{i:05d}.png" for i in range(4)),
        "contact_sheet.png",
        "prompts.jsonl",
    ]


@pytest.mark.parametrize("failing", ["picture", "sheet"])
def test_pictures_that_a_full_disk_takes_are_listed_and_no_others(student, tmp_path, monkeypatch, failing):
    def fails(*_):
        raise OSError(28, "No space left on device")

    save, last = figures.save_result, "00003.png" if failing == "picture" else ""
    monkeypatch.setattr(figures, "save_result", lambda *x: fails() if x[1].name == last else save(*x))
    if failing == "sheet":
        monkeypatch.setattr(figures, "save_picture", fails)
    settings = {"seeds": [0, 1], "num_steps": None, "guidance_scale": None, "batch_size": 2}
    with pytest.raises(OSError, match="No space left"):
        draw_folder(student, tmp_path, PROMPTS[:3], **settings)
    count = 6 if failing == "sheet" else 3
    assert count_drawn(tmp_path) == count
    names = [record["file_name"] for _, record in read_records(tmp_path / "prompts.jsonl")]
    assert names == [f"{i:05d}.png" for i in range(count)]
    assert sorted(file.name for file in tmp_path.iterdir()) == [*names, "prompts.jsonl"]


def test_a_line_of_which_a_part_was_written_goes_again(tmp_path):
    class Full(FileIO):
        def write(self, content):
            return super().write(content[:5])

    file = tmp_path / "list"
    file.write_bytes(b"{}\n")
    with Full(file, "r+") as lines:
        lines.seek(3)
        with pytest.raises(OSError, match="No space left on device"), _listed(lines, {"file_name": "a.png"}):
            raise AssertionError
    assert file.read_bytes() == b"{}\n"


def test_a_model_whose_path_is_no_text_is_named_in_its_pictures(student, tmp_path):
    settings = {"seeds": [0], "num_steps": None, "guidance_scale": None, "batch_size": 1}
    draw_folder(dataclasses.replace(student, source="caf\udce9", origin=None), tmp_path, ["cat"], **settings)
    with Image.open(tmp_path / "00000.png") as picture:
        assert picture.info["model"] == "caf\\udce9"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt=cat", "--num-steps=0"], "flag --num-steps=0: 0 is not a positive integer"),
        (["--prompt=cat", "--guidance-scale=inf"], "guidance-scale=inf: expected a finite number >= 1"),
        (["--prompt=cat", "--guidance-scale=nan"], "guidance-scale=nan: expected a finite number >= 1"),
        (
            ["--prompt=cat", "--num-images=1000000000"],
            "num-images=1000000000: expected at most 100000 pictures",
        ),
        (["--prompt=cat", "--seed=4294967290", "--num-images=9"], "seed=4294967290: expected seeds of 9"),
        ([], "prompt=[]: expected at least one, from --prompt or --prompts-file"),
        (["--prompt=cat", "--prompt= "], "prompt=' ': expected a prompt, found a blank text"),
        (["--prompt=caf\udce9"], "prompt='caf\\udce9': expected a text of whole characters"),
        (["--prompts-file=setup.py"], "prompts-file='setup.py': expected text with one prompt per line"),
        (["--prompt=cat", "--out=tests"], "out='tests': expected a folder that is not there yet"),
        (["--prompt=cat", "--model=tests"], "model 'tests' lacks 'model_index.json'"),
        (
            ["--prompt=cat", "--out=/proc/none/out"],
            "out='/proc/none/out': expected a folder that can be written",
        ),
    ],
)
def test_bad_input_of_the_command_is_one_line_and_leaves_nothing(arguments, message, tmp_path):
    given = [f"--out={tmp_path / 'out'}", "--model=assets/emoji/pipeline"]
    assert_one_line(call("generate", *flags_with(given, arguments)), message)
    assert list(tmp_path.iterdir()) == []
