"""The job on a model of videos: adapters of Wan2.1 trained on frames, on eight devices, and resumed."""

import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict
from PIL import Image
from safetensors.numpy import load_file

import rats_jax
from rats_jax.ablation import plan as planning
from rats_jax.ablation import run as comparing
from rats_jax.config.flags import load_config
from rats_jax.errors import ConfigError
from rats_jax.evaluation.evaluate import REPORT, evaluate
from rats_jax.pipelines.wan import native_name
from rats_jax.student.adapters import COMFYUI_FILE, LORA_FILE
from rats_jax.student.formats import export_student
from rats_jax.student.model import draw_folder
from rats_jax.training.loop import train
from rats_jax.training.program import Program
from rats_jax.workdir.checkpoint import open_manager
from rats_jax.workdir.metrics import read_metrics
from tests.tiny import PROMPTS, mesh_sizes, tiny_config
from tests.torch_wan import make_wan


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wan") / "pipeline"
    make_wan("unipc").save_pretrained(folder)
    return folder


def video_config(models, folder, **settings):
    """Two updates, whose rewards see the first frame of 5: the smallest program. Sheets show whole clips."""
    own = {
        "pretrained": str(folder),
        "reference": "",
        "height": 16,
        "width": 16,
        "num_frames": 5,
        "num_decoded_latents": 1,
        "reward_frames": 1,
        "negative_prompt": "blurred",
        "max_sequence_length": 12,
        "teacher__guidance_scale": 4.0,
        "teacher__timestep_spacing": "",
        "student__guidance_scale": 1.0,
        "student__timestep_spacing": "",
        "lora__rank": 2,
        "lora__alpha": 4.0,
        "lora__targets": "attn[12]/to_|net_0/proj|net_2",
        "num_updates": 2,
        "samples__every": 2,
        "samples__num": 2,
        "checkpoint__every": 1,
        "evaluation__num_prompts": 0,
        "optimizer__learning_rate": 1e-2,
        "optimizer__warmup_updates": 0,
    }
    return tiny_config(models, **(own | settings))


@pytest.fixture(scope="module")
def program(models, folder):
    return Program(video_config(models, folder))


@pytest.fixture(scope="module")
def run(program, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "wan"
    return workdir, train(program, program.config, workdir)


def load_state(workdir, step):
    with open_manager(workdir / "checkpoints", keep=9, every=1) as manager:
        return manager.restore(step)["state"]


@pytest.mark.slow
def test_adapters_are_trained_in_every_layer_and_whole_clips_are_drawn(run):
    workdir, summary = run
    assert (summary["updates"], summary["nfe"], summary["teacher_nfe"]) == (2, 2, 6)
    assert all(np.isfinite(list(record.values())).all() for record in read_metrics(workdir))
    ups = {path: leaf for path, leaf in flatten_dict(load_state(workdir, 2)["student"]).items()}
    moved = [np.abs(np.asarray(leaf)).max(axis=(1, 2)) > 0 for path, leaf in ups.items() if path[-1] == "up"]
    assert len(moved) == 10 and np.all(moved)
    student = rats_jax.load(str(workdir))
    videos = student(PROMPTS[:1], seed=3)
    assert videos.shape == (1, 5, 16, 16, 3) and student.pipeline.negative_prompt == "blurred"
    before = rats_jax.load(str(workdir), step=1).pipeline.network
    other = student.with_network(before, guidance_scale=student.guidance_scale)(PROMPTS[:1], seed=3)
    assert np.abs(videos - other).max() > 1e-4


@pytest.mark.slow
def test_sheets_show_strips_and_play_and_what_moves_is_measured(run):
    workdir, _ = run
    assert sorted(file.name for file in (workdir / "samples").iterdir()) == [
        *("step_000000.png", "step_000000.webp", "step_000002.png", "step_000002.webp")
    ]
    with Image.open(workdir / "samples" / "step_000002.webp") as sheet:
        assert sheet.n_frames == 5
    records = read_metrics(workdir / "samples.jsonl")
    expected = {f"guard/motion/{who}" for who in ("student", "teacher")} | {"guard/diversity/student"}
    assert all(expected <= set(record) and record["guard/motion/teacher"] > 0 for record in records)
    teacher = [record["guard/motion/teacher"] for record in records]
    student = [record["guard/motion/student"] for record in records]
    assert teacher[0] == teacher[1] and student[0] != student[1]


@pytest.mark.slow
def test_the_student_draws_files_that_play(run, tmp_path):
    student = rats_jax.load(str(run[0]))
    options = {"num_steps": None, "guidance_scale": None, "batch_size": 1}
    draw_folder(student, tmp_path, PROMPTS[:2], seeds=[5], **options)
    names = ["00000.webp", "00001.webp", "contact_sheet.png", "prompts.jsonl"]
    assert sorted(file.name for file in tmp_path.iterdir()) == names
    lines = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    assert [line["file_name"] for line in lines] == names[:2]
    with Image.open(tmp_path / names[1]) as video:
        assert (video.n_frames, video.size) == (5, (16, 16))
        said = json.loads(video.getexif()[0x010E])
        frames = []
        for i in range(5):
            video.seek(i)
            frames.append(np.asarray(video.convert("RGB"), np.float32))
    assert said == {"prompt": PROMPTS[1], "seed": "5", "model": student.title, "num_steps": "2"} | {
        "guidance_scale": "1.0"
    }
    (expected,) = student(PROMPTS[1:2], seed=5)
    assert np.abs(np.stack(frames) / 255 - expected).mean() < 0.05  # WebP loses a little


@pytest.mark.slow
@pytest.mark.parametrize("video_format", ["mp4", "vbench"])
def test_the_student_draws_mp4_files(run, tmp_path, video_format):
    av = pytest.importorskip("av")
    student = rats_jax.load(str(run[0]))
    options = {"num_steps": None, "guidance_scale": None, "batch_size": 1, "video_format": video_format}
    draw_folder(student, tmp_path, PROMPTS[:2], seeds=[5, 6], **options)
    names = [json.loads(line)["file_name"] for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    assert (
        names
        == {
            "mp4": [f"{i:05d}.mp4" for i in range(4)],
            "vbench": [f"vbench/{prompt}-{i}.mp4" for prompt in PROMPTS[:2] for i in range(2)],
        }[video_format]
    )
    assert sorted(names) == sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.mp4"))
    with av.open(str(tmp_path / names[1])) as video:
        said = json.loads(video.metadata["comment"])
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])
    (expected,) = student(PROMPTS[:1], seed=6)
    assert (said["prompt"], said["seed"]) == (PROMPTS[0], "6") and frames.shape == expected.shape
    assert np.abs(frames / 255 - expected).mean() < 0.08  # colours have half the size


def test_pictures_are_no_mp4(models, tmp_path):
    options = {"num_steps": 1, "guidance_scale": 1.0, "batch_size": 1, "video_format": "mp4"}
    with pytest.raises(ConfigError, match="^video-format='mp4': expected 'webp': this model makes pictures$"):
        draw_folder(rats_jax.load(str(models / "pipeline")), tmp_path, PROMPTS[:1], seeds=[0], **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(run, program, models, folder, tmp_path):
    train(program, video_config(models, folder, num_updates=1), tmp_path / "run")
    train(program, program.config, tmp_path / "run")
    chex.assert_trees_all_equal(load_state(tmp_path / "run", 2), load_state(run[0], 2))


@pytest.mark.slow
def test_one_device_makes_the_update_of_eight(program, models, folder, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda *_: jax.local_devices()[:1])
    one = Program(video_config(models, folder, mesh=mesh_sizes(data=1)))
    found = []
    for made, devices in ((program, 8), (one, 1)):
        assert len(jax.tree.leaves(made.frozen.base)[0].sharding.device_set) == devices
        batch = made.place_batch(np.arange(8))
        state, metrics = made.update(made.init_state(), made.frozen, batch, jax.random.key(1))
        found.append((jax.device_get(state.student), {k: float(v) for k, v in metrics.items()}))
    (student, metrics), (other, same) = found
    for name in ("loss/total", "reward/student", "reward/teacher", "loss/shape", "grad/norm"):
        assert same[name] == pytest.approx(metrics[name], rel=2e-4)
    chex.assert_trees_all_close(other, student, atol=2e-3)  # a fifth of the first step of Adam
    assert any(np.abs(leaf).max() > 5e-3 for path, leaf in flatten_dict(student).items() if path[-1] == "up")


@pytest.mark.slow
def test_a_report_judges_frames_and_motion_and_plays(run, tmp_path):
    options = {"prompts": "", "others": {}, "seed": 0, "batch_size": 4, "command": "", "dtype": "float32"}
    counts = {"num_steps": [1], "num_prompts": 2, "num_seeds": 2}
    options["vbench"] = find_spec("av") is not None
    evaluate(str(run[0]), tmp_path, step=None, say=lambda text: None, **counts, **options)
    report = json.loads((tmp_path / REPORT).read_text())
    assert set(report["measures"]) >= {"pickscore_emoji", "heldout", "diversity", "motion"}
    teacher, *others = report["rows"]
    assert all(row["measures"]["motion"]["mean"] > 0 for row in report["rows"])
    assert len({row["measures"]["motion"]["mean"] for row in report["rows"]}) == len(report["rows"])
    assert (teacher["nfe"], {row["nfe"] for row in others}) == (6, {1, 2})
    folders = ["student_1_steps", "teacher_3_steps", "untrained_1_steps", "untrained_guided_1_steps"]
    found = sorted(tmp_path.glob("vbench/*")) if options["vbench"] else folders
    assert [getattr(folder, "name", folder) for folder in found] == folders
    for folder in found if options["vbench"] else ():
        files = sorted(file.name for file in folder.iterdir())
        assert len(files) == 4 and {re.fullmatch(r"(.*)-[01]\.mp4", file)[1] for file in files} < set(PROMPTS)
    with Image.open(tmp_path / "pictures_student.webp") as sheet:
        size, count = sheet.size, sheet.n_frames
    page = (tmp_path / "report.html").read_text()
    assert count == 5 and page.count("data:image/webp") == 3
    assert f'alt="Pictures: student" width="{size[0]}" height="{size[1]}"' in page


@pytest.mark.slow
def test_a_comparison_judges_whole_clips(run, program, tmp_path, monkeypatch):
    config = load_config(Path(__file__).parents[1] / "configs" / "emoji_ablation.py")
    config.base = program.config
    config.student_steps, config.seeds, config.variants = (2,), (0,), (("RATS", {}),)
    config.evaluation.update({"num_prompts": 2, "num_seeds": 2, "batch_size": 4, "num_resamples": 20})
    config.evaluation.prompts = (("training", ""),)
    # The run that is at hand stands in for the one that it would train.
    monkeypatch.setattr(comparing, "_program", lambda config: None)
    monkeypatch.setattr(comparing, "train", lambda _, __, to: shutil.copytree(run[0], to, dirs_exist_ok=True))
    jobs, said = planning.plan(config, tmp_path), []
    comparing.run_all(jobs, config, processes=1, say=said.append)
    comparing.write(jobs, config, tmp_path, say=said.append)
    scores = {job.variant: np.load(job.folder / "scores.npz") for job in jobs}
    for found in scores.values():
        assert found["training/heldout"].shape == found["training/motion"].shape == (2, 2)
        assert found["training/diversity"].shape == (2, 1) and np.all(found["training/motion"] > 0)
    assert np.abs(scores["RATS"]["training/heldout"] - scores["teacher"]["training/heldout"]).max() > 1e-4
    head, _, *rows = (tmp_path / "ablation.md").read_text().splitlines()[2:7]
    assert head.endswith("| diversity | motion | beats the teacher |")
    assert [row.split(" | ")[0] for row in rows] == ["| teacher", "| untrained", "| RATS"]


@pytest.mark.slow
def test_what_knows_pictures_alone_refuses_the_run(run, tmp_path):
    for format, message in (
        ("jax", "^format='jax': workdir='.*': expected a model of pictures: this one makes videos"),
        ("flax", "^format='flax': Flax diffusers had no pipeline of the kind of"),
    ):
        with pytest.raises(ConfigError, match=message):
            export_student(rats_jax.load(str(run[0])), tmp_path, format=format, dtype="float32")


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    student, folder = rats_jax.load(str(run[0])), tmp_path_factory.mktemp("exported")
    for format in ("diffusers", "lora"):
        (folder / format).mkdir()
        export_student(student, folder / format, format=format, dtype="float32")
    noise = student.make_noise([7])
    return folder, noise, student(PROMPTS[:1], latents=noise)


def draw_as_the_card_says(folder, noise, file=None):
    """Run the example of a card from a given noise, with another file of adapters or that of the card."""
    card = (folder / "README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    example = example.replace("THIS_FOLDER", str(folder)).replace("a photo of a red apple", PROMPTS[0])
    example = example.replace("guidance_scale=", "output_type='np', latents=latents, guidance_scale=")
    if file:
        example = example.replace(LORA_FILE, file)
    scope = {"latents": torch.from_numpy(np.moveaxis(noise, -1, 1).copy())}
    exec(example, scope)
    return scope["frames"]


@pytest.mark.slow
def test_pytorch_opens_the_exports_and_draws_the_same_frames(exported, folder):
    out, noise, ours = exported
    assert "pipeline_tag: text-to-video" in (out / "diffusers" / "README.md").read_text()
    np.testing.assert_allclose(draw_as_the_card_says(out / "diffusers", noise), ours, atol=2e-3)
    for file in (LORA_FILE, COMFYUI_FILE):
        np.testing.assert_allclose(draw_as_the_card_says(out / "lora", noise, file), ours, atol=2e-3)
    names = set(load_file(out / "lora" / COMFYUI_FILE))
    assert "diffusion_model.blocks.1.cross_attn.o.lora_B.weight" in names
    assert {name.split(".lora_")[0].rpartition("blocks.")[2][2:] for name in names} == {
        *(f"{kind}_attn.{layer}" for kind in ("self", "cross") for layer in "qkvo"),
        *("ffn.0", "ffn.2"),
    }
    untrained = rats_jax.load(str(folder), height=16, width=16, num_frames=5, max_sequence_length=12)
    before = untrained(PROMPTS[:1], latents=noise, num_steps=2, guidance_scale=1.0)
    assert np.abs(before - ours).max() > 1e-3


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ("blocks.11.attn1.to_q", "blocks.11.self_attn.q"),
        ("blocks.0.attn2.to_out.0", "blocks.0.cross_attn.o"),
        ("blocks.0.ffn.net.0.proj", "blocks.0.ffn.0"),
        ("blocks.0.ffn.net.2", "blocks.0.ffn.2"),
        ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
        ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
        ("condition_embedder.time_proj", "time_projection.1"),
        ("patch_embedding", "patch_embedding"),
        ("proj_out", "head.head"),
    ],
)
def test_layers_have_the_names_of_their_makers(layer, expected):
    assert native_name(layer) == expected
