"""Every flag of every command another value, and where it arrives; what computes is replaced by recorders."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import rats_jax
from rats_jax import files, rewards
from rats_jax.data import prompts as prompt_files
from rats_jax.demonstration import page, serve
from rats_jax.evaluation import evaluate, score
from rats_jax.parallel import cache, cores, environment
from rats_jax.pipelines import open as opening
from rats_jax.pipelines import stored_embeds
from rats_jax.pipelines.base import Options
from rats_jax.pretraining import clips_stages, emoji_stages, scenes_stages
from rats_jax.report import mp4
from rats_jax.student import formats, model, share
from rats_jax.types import RewardModel
from rats_jax.verification import pytorch, report
from tests.commands import ROOT, run_here
from tests.recorder import Recorder


@pytest.fixture
def recorder(monkeypatch):
    """Keeps calls; nothing looks for devices or changes how this process compiles."""
    recorder = Recorder(monkeypatch)
    for name in ("open_environment", "check_variables", "check_devices"):
        recorder.put(environment, name)
    recorder.put(cache, "keep_compiled")
    recorder.put(cores, "use_cores_as_devices")
    return recorder


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder, which paths are relative to."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_generate(recorder, here):
    recorder.put(rats_jax, "load", "the model")
    recorder.put(model, "draw_folder", 1.0)
    recorder.put(mp4, "expect_format")
    (here / "prompts.txt").write_text("a dog")
    run_here(
        "generate",
        *("--model=owner/name", "--prompt=a cat", "--prompts-file=prompts.txt", "--out=out", "--step=2"),
        *("--num-steps=3", "--guidance-scale=1.5", "--num-images=4", "--seed=5", "--batch-size=6"),
        *("--dtype=bfloat16", "--height=48", "--width=112", "--num-frames=9", "--max-sequence-length=13"),
        "--video-format=mp4",
    )
    sizes = {"height": 48, "width": 112, "num_frames": 9, "max_sequence_length": 13}
    assert recorder.once("load") == (("owner/name",), {"step": 2, "dtype": "bfloat16"} | sizes)
    (drawn, folder, prompts), options = recorder.once("draw_folder")
    assert (drawn, prompts) == ("the model", ["a cat", "a dog"]) and folder.parent == Path()
    assert options == {
        "seeds": range(5, 9),
        "num_steps": 3,
        "guidance_scale": 1.5,
        "batch_size": 6,
        "video_format": "mp4",
    }
    assert recorder.once("expect_format") == (("mp4", ["a cat", "a dog"], 4), {})
    assert recorder.once("use_cores_as_devices") == (([6],), {})
    assert (here / "out").is_dir()


def test_verify(recorder, here, monkeypatch):
    for name in ("USE_TORCH", "XLA_PYTHON_CLIENT_PREALLOCATE"):
        monkeypatch.setenv(name, "0")
    recorder.put(pytorch, "import_packages", {})
    recorder.put(report, "verify", ("the report", []))
    run_here(
        "verify",
        *("--model=owner/name", "--original=owner/original", "--reward=pickscore=owner/reward"),
        *("--dtype=bfloat16", "--device=cuda", "--height=48", "--width=112", "--num-frames=9"),
        "--max-sequence-length=13",
    )
    assert recorder.once("import_packages") == (("cuda",), {})
    options = Options(height=48, width=112, num_frames=9, max_sequence_length=13)
    assert recorder.once("verify") == (
        ("owner/name", {"pickscore": "owner/reward"}),
        {"original": "owner/original", "options": options, "dtype": "bfloat16", "device": "cuda"},
    )


def test_evaluate(recorder, here):
    recorder.put(evaluate, "evaluate")
    (here / "run").mkdir()
    (here / "prompts.txt").write_text("a dog")
    run_here(
        "evaluate",
        *("--workdir=run", "--step=2", "--num-steps=4,3", "--num-prompts=5", "--seeds=6", "--out=out"),
        *("--prompts=prompts.txt", "--contestant=theirs=owner/name,guidance_scale=1.5", "--seed=7"),
        *("--batch-size=8", "--dtype=bfloat16", "--vbench"),
    )
    (workdir, folder), options = recorder.once("evaluate")
    assert workdir == "run" and folder.parent == Path() and (here / "out").is_dir()
    assert options.pop("command").startswith("python ") and callable(options.pop("say"))
    assert options == {
        "step": 2,
        "num_steps": [3, 4],
        "num_prompts": 5,
        "num_seeds": 6,
        "prompts": "prompts.txt",
        "others": {"theirs": ("owner/name", 1.5)},
        "seed": 7,
        "batch_size": 8,
        "dtype": "bfloat16",
        "vbench": True,
    }
    assert recorder.once("use_cores_as_devices") == (([8],), {})


def test_score(recorder, here, monkeypatch):
    reward = RewardModel(lambda *_: None, {}, list)
    monkeypatch.setattr(rewards, "find_reward", lambda kind, field: Kind(recorder, reward))
    recorder.put(score, "score_pairs", {"pickscore": np.zeros(1)})
    (here / "pictures").mkdir()
    Image.new("RGB", (8, 8)).save(here / "pictures" / "0.png")
    (here / "prompts.txt").write_text("a dog")
    run_here(
        "score",
        *("--reward=pickscore=owner/reward", "--images=pictures", "--prompts=prompts.txt"),
        *("--out=scores.json", "--batch-size=3", "--dtype=bfloat16"),
    )
    assert recorder.once("load") == (("owner/reward",), {"dtype": "bfloat16"})
    (given, pairs), options = recorder.once("score_pairs")
    assert given == {"pickscore": reward} and options == {"batch_size": 3}
    assert [(pair.file.name, pair.prompt) for pair in pairs] == [("0.png", "a dog")]
    assert (here / "scores.json").is_file()


class Kind:
    """A kind of reward of pictures."""

    of_videos = False

    def __init__(self, recorder, reward):
        self.load = None
        recorder.put(self, "load", reward)


@pytest.mark.parametrize(("dtype", "compute"), [("bfloat16", "bfloat16"), ("float16", "float32")])
@pytest.mark.parametrize(("flags", "private"), [(["--public"], False), ([], True)])
def test_export(recorder, here, dtype, compute, flags, private):
    recorder.put(rats_jax, "load", "the model")
    recorder.put(formats, "count_bytes", 12345)
    recorder.put(files, "expect_room")
    recorder.put(formats, "export_student", 0.0)
    recorder.put(share, "open_repository", "the address")
    recorder.put(share, "push")
    (here / "run").mkdir()
    given = "--workdir=run", "--out=out", "--format=jax", f"--dtype={dtype}", "--step=2"
    run_here("export", *given, "--push=owner/name", *flags)
    assert recorder.once("open_repository") == (("owner/name",), {"private": private})
    assert recorder.once("load") == (("run",), {"step": 2, "dtype": compute})
    assert recorder.once("count_bytes") == (("the model", dtype), {})
    assert recorder.once("expect_room")[0] == (Path("out"), 12345)
    (exported, folder), options = recorder.once("export_student")
    assert exported == "the model" and folder.parent == Path()
    assert options == {"format": "jax", "dtype": dtype, "place": "owner/name"}
    assert recorder.once("push")[0] == ("owner/name", Path("out"))


def test_demo(recorder, here):
    recorder.put(page, "expect_gradio")
    recorder.put(serve, "serve")
    given = "--model=owner/name", "--step=2", "--dtype=bfloat16", "--host=0.0.0.0", "--port=1234"
    run_here("demo", *given)
    arguments, options = recorder.once("serve")
    assert arguments == ("owner/name",) and callable(options.pop("say"))
    assert options == {"step": 2, "dtype": "bfloat16", "host": "0.0.0.0", "port": 1234}


def test_embed(recorder, here, monkeypatch):
    monkeypatch.setattr(prompt_files, "find_prompts", lambda path, field="prompts": [f"{field} of {path}"])
    recorder.put(opening, "open_pipeline", "the pipeline")
    recorder.put(opening, "options_of", "the options")
    recorder.put(stored_embeds, "count_bytes", 12345)
    recorder.put(files, "expect_room")
    recorder.put(stored_embeds, "write_prompt_embeds", 2)
    for name in ("prompts.txt", "heldout.txt"):
        (here / name).write_text("a dog")
    run_here(
        "embed",
        *(f"--config={ROOT / 'configs' / 'emoji_cpu.py'}", "--out=out", "--config.pretrained=owner/name"),
        *("--config.prompts=prompts.txt", "--config.heldout_prompts=heldout.txt"),
        *("--config.compute_dtype=bfloat16", "--config.frozen_dtype=float32"),
    )
    prompts = ["prompts of prompts.txt", "heldout_prompts of heldout.txt"]
    assert recorder.once("open_pipeline") == (
        ("owner/name",),
        {"dtype": "bfloat16", "options": "the options"},
    )
    assert recorder.once("count_bytes") == (("the pipeline", prompts), {"dtype": "float32"})
    assert recorder.once("expect_room")[0] == (Path("out"), 12345)
    (folder, *rest), options = recorder.once("write_prompt_embeds")
    assert folder.parent == Path() and rest == ["the pipeline", prompts]
    assert options == {"source": "owner/name", "dtype": "float32"}
    assert (here / "out").is_dir()


def refused(capsys, *line):
    """The only line that a command ends with."""
    with pytest.raises(SystemExit) as ended:
        run_here(*line)
    (message,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 1
    return message.removeprefix("error: ")


def test_an_export_that_the_disk_has_no_room_for_is_refused(recorder, here, monkeypatch, capsys):
    arrays = {"a": np.zeros((50, 10)), "b": np.zeros(100)}
    pipeline = SimpleNamespace(network=arrays, text_encoder=arrays, decoder={"c": np.zeros(300)})
    recorder.put(rats_jax, "load", SimpleNamespace(pipeline=pipeline))
    recorder.put(formats, "export_student", 0.0)
    monkeypatch.setattr(files, "free_bytes", lambda folder: 0)
    (here / "run").mkdir()
    given = "--workdir=run", "--out=out", "--dtype=bfloat16"
    expected = "out='out': expected a disk with 0.0 MB free for the weights, it has 0.0 MB"
    assert refused(capsys, "export", *given) == expected
    assert "export_student" not in recorder.calls and [file.name for file in here.iterdir()] == ["run"]
    run_here("export", *given, "--format=lora")  # has no such weights
    assert recorder.once("export_student")


WORLDS = {"emoji": emoji_stages, "scenes": scenes_stages, "clips": clips_stages}


@pytest.fixture
def ran(recorder, monkeypatch):
    """What stages ran, in order, as world, stage, the config's world and the folder; none does anything."""
    ran = []
    for world, module in WORLDS.items():
        stages = {
            stage: lambda config, workdir, row=(world, stage): ran.append((*row, config.world, workdir))
            for stage in module.STAGES
        }
        monkeypatch.setattr(module, "STAGES", stages)
    return ran


def config_of(world):
    return f"--config={ROOT / 'configs' / f'{world}_pretrain.py'}"


@pytest.mark.parametrize("world", WORLDS)
def test_pretrain(ran, here, world):
    run_here("pretrain", config_of(world), "--workdir=run")
    assert ran == [(world, stage, world, Path("run")) for stage in WORLDS[world].STAGES]
    ran.clear()
    _, second, *_, last = WORLDS[world].STAGES
    run_here("pretrain", config_of(world), "--workdir=run", f"--stages={last},{second}")
    assert [stage for _, stage, *_ in ran] == [last, second]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.world=moon", "world='moon': expected one of emoji, scenes, clips"),
        ("--stages=vae,sun", "stages='sun': expected each of vae, pipeline, reward, heldout_reward, "),
        ("--stages=vae,check,vae", "stages='vae': expected each of vae, pipeline, reward, "),
    ],
)
def test_worlds_and_stages_that_are_not_there_are_refused(ran, here, capsys, flag, message):
    assert refused(capsys, "pretrain", config_of("emoji"), "--workdir=run", flag).startswith(message)
    assert not ran and not list(here.iterdir())
