"""What is exported draws the pictures of the student where this package is not: PyTorch, peft, plain JAX."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from PIL import Image
from safetensors.numpy import load_file

import rats_jax
from rats_jax.config.flags import load_config
from rats_jax.diffusion.grid import make_grid
from rats_jax.errors import ConfigError, ExportError
from rats_jax.evaluate import parse_contestants
from rats_jax.networks.lora import init_adapters
from rats_jax.pipelines import PIPELINES, write_flax
from rats_jax.pipelines.base import Parts
from rats_jax.pipelines.open import load_pipeline
from rats_jax.student import formats as exporting
from tests import hub as stand_in
from tests.commands import ROOT, assert_one_line, call
from tests.finished import write_run
from tests.tiny import PROMPTS, SCHEDULER, UNET, VAE, flags_with, random_params, tiny_config
from tests.torch_pipelines import make_original

EMOJI = ROOT / "rats_jax" / "assets" / "emoji" / "pipeline"
NAMES = ["black cat", "red apple"]


def perturbed(tree, *, share):
    """Move every weight by a share of its own deviation, as training would."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: (x + share * x.std() * rng.normal(size=x.shape)).astype(np.float32), tree)


def draw_with_torch(pipeline, noise, *, prompts, steps, scale=1.0):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        prompts,
        num_inference_steps=steps,
        guidance_scale=scale,
        latents=torch.tensor(noise.transpose(0, 3, 1, 2)),
        output_type="np",
    ).images


def difference(one, two):
    return 255 * np.abs(np.asarray(one) - np.asarray(two)).mean()


@pytest.fixture(scope="module")
def emoji(tmp_path_factory):
    """The embedded default's run, with a student that is not the pretrained network."""
    config = load_config(ROOT / "configs" / "emoji_cpu.py")
    unet = perturbed(load_pipeline("assets/emoji/pipeline").network, share=0.05)
    return write_run(tmp_path_factory.mktemp("emoji") / "run", config, unet)


@pytest.fixture(scope="module")
def hub():
    with stand_in.serving() as hub:
        yield hub


@pytest.fixture(scope="module")
def exported(emoji, hub, tmp_path_factory):
    """The run's student in a folder, and as me/student on the hub."""
    folder = tmp_path_factory.mktemp("exported")
    out = folder / "student"
    result = call(
        "export",
        f"--workdir={emoji}",
        f"--out={out}",
        "--push=me/student",
        env=os.environ | hub.environment(folder / "home"),
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert "read back, it draws the student's picture to 0.000/255" in result.stdout
    assert result.stdout.splitlines()[-2:] == [str(out), f"{hub.address}/me/student"]
    return out


@pytest.mark.slow
def test_the_hub_gives_the_student_back_by_its_id(exported, hub, tmp_path):
    pushed = hub.repositories["me/student"]
    files = {str(file.relative_to(exported)) for file in exported.rglob("*") if file.is_file()}
    assert pushed["private"] is True and set(pushed["files"]) == files
    assert b'DiffusionPipeline.from_pretrained("me/student")' in pushed["files"]["README.md"]
    arguments = ["--model=me/student", "--prompt=black cat", f"--out={tmp_path / 'cats'}"]
    result = call("generate", *arguments, env=os.environ | hub.environment(tmp_path / "home"))
    assert result.returncode == 0, result.stderr[-3000:]
    with Image.open(tmp_path / "cats" / "00000.png") as picture:
        drawn = np.asarray(picture)
    np.testing.assert_array_equal(drawn, np.round(rats_jax.load(str(exported))(["black cat"])[0] * 255))
    assert parse_contestants(["theirs=me/student"], taken=()) == {"theirs": ("me/student", None)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--push=student"], "push='student': expected a repository as 'owner/name'"),
        (["--push=me/student"], "push='me/student': expected a token that may write, from `hf auth login`"),
        (["--public"], "public=True: expected --push=OWNER/NAME beside it"),
        (["--push=me/student", "--out=tests"], "out='tests': expected a folder that is not there yet"),
    ],
)
def test_a_push_that_cannot_be_is_refused_before_the_work(tmp_path, arguments, message):
    (tmp_path / "run").mkdir()
    given = [f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'out'}"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    result = call(
        "export", *flags_with(given, arguments), env=environment | {"HF_HOME": str(tmp_path / "home")}
    )
    assert_one_line(result, message)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_pytorch_opens_the_folder_and_draws_the_same_pictures(emoji, exported):
    student, pipeline = rats_jax.load(str(emoji)), DiffusionPipeline.from_pretrained(exported)
    assert type(pipeline.scheduler) is DDIMScheduler
    noise = student.make_noise([0, 1])
    for steps in (3, 4, 5, 8):
        ours = student(NAMES, num_steps=steps, latents=noise)
        theirs = draw_with_torch(pipeline, noise, prompts=NAMES, steps=steps)
        # Three steps do not divide 1000 timesteps, and diffusers lands one off: docs/design.md.
        assert difference(theirs, ours) < (0.5 if steps == 3 else 0.01)
    ours = student(NAMES, num_steps=4, latents=noise, guidance_scale=2.0)
    assert difference(draw_with_torch(pipeline, noise, prompts=NAMES, steps=4, scale=2.0), ours) < 0.01
    untrained = draw_with_torch(DiffusionPipeline.from_pretrained(EMOJI), noise, prompts=NAMES, steps=4)
    assert difference(untrained, student(NAMES, latents=noise)) > 1


@pytest.mark.slow
def test_the_folder_says_what_it_is_and_loads_here(emoji, exported):
    student, again = rats_jax.load(str(emoji)), rats_jax.load(str(exported))
    assert (again.num_steps, again.guidance_scale) == (4, 1.0)
    np.testing.assert_array_equal(again(NAMES, seed=3), student(NAMES, seed=3))
    card = (exported / "README.md").read_text()
    for text in (
        "| base model | assets/emoji/pipeline |",
        "license: ",
        "| prompts | assets/emoji/prompts.txt |",
        "| rewards | compressibility (`compressibility_proxy`, weight 0.2), pickscore_emoji (`pickscore`",
        "| updates | 4 |",
        "num_inference_steps=4, guidance_scale=1",
    ):
        assert text in card, text
    settings = json.loads((exported / "rats_jax.json").read_text())
    assert settings["update"] == 4 and settings["config"]["teacher"]["num_steps"] == 50


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_every_kind_of_pipeline_goes_back_to_where_it_came_from(models, tmp_path, kind):
    make_original(kind).save_pretrained(tmp_path / "pipeline")
    unet = perturbed(load_pipeline(tmp_path / "pipeline").network, share=0.1)
    settings = {"student__num_steps": 4, "student__timestep_spacing": "trailing"}
    config = tiny_config(models, pretrained=str(tmp_path / "pipeline"), **settings)
    student = rats_jax.load(str(write_run(tmp_path / "run", config, unet)))
    (tmp_path / "out").mkdir()
    exporting.export_student(student, tmp_path / "out", format="diffusers", dtype="float32")
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "out")
    noise, prompts = student.make_noise([0]), ["two red apples"]
    ours = student(prompts, latents=noise, guidance_scale=3.0)
    theirs = draw_with_torch(pipeline, noise, prompts=prompts, steps=4, scale=3.0)
    assert theirs.std() > 0.1 and difference(theirs, ours) < 0.01
    if kind == "sdxl":
        (tmp_path / "jax").mkdir()
        exporting.export_student(student, tmp_path / "jax", format="jax", dtype="float32")


def draw_with_flax(folder, noise, *, prompts, steps, scale):
    """Open a folder with the Flax classes of diffusers and draw, as the card says."""
    module = pytest.importorskip("diffusers.pipelines.pipeline_flax_utils", reason="diffusers has no Flax")
    pipeline, params = module.FlaxDiffusionPipeline.from_pretrained(folder)
    ids, latents = pipeline.prepare_inputs(prompts), jnp.asarray(noise.transpose(0, 3, 1, 2))
    key = jax.random.key(0)
    scale = jnp.float32(scale)  # a Python float works for one prompt alone
    return pipeline(ids, params, key, num_inference_steps=steps, guidance_scale=scale, latents=latents).images


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "spacing", "steps"), [("sd1", "trailing", 4), ("sd2", "leading", 5), ("sdxl", "trailing", 4)]
)
def test_flax_opens_the_folder_and_draws_the_same_pictures(models, tmp_path, kind, spacing, steps):
    make_original(kind).save_pretrained(tmp_path / "pipeline")
    unet = perturbed(load_pipeline(tmp_path / "pipeline").network, share=0.1)
    settings = {"student__num_steps": steps, "student__timestep_spacing": spacing}
    config = tiny_config(models, pretrained=str(tmp_path / "pipeline"), **settings)
    student = rats_jax.load(str(write_run(tmp_path / "run", config, unet)))
    (tmp_path / "out").mkdir()
    exporting.export_student(student, tmp_path / "out", format="flax", dtype="float32")
    noise, prompts = student.make_noise([0, 1]), ["two red apples", "a photo of a cat"]
    ours = student(prompts, latents=noise, guidance_scale=3.0)
    theirs = draw_with_flax(tmp_path / "out", noise, prompts=prompts, steps=steps, scale=3.0)
    # Theirs approximates the feed-forward's GELU, and adds more to the variance of some norms.
    assert theirs.std() > 0.1 and difference(theirs, ours) < 0.01


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "unet",
            {"norm_num_groups": 16},
            "norm_num_groups=16: expected 32, as FlaxUNet2DConditionModel does",
        ),
        ("unet", {"norm_eps": 1e-6}, "norm_eps=1e-06: expected 1e-05, as"),
        ("unet", {"act_fn": "gelu"}, "act_fn='gelu': expected 'silu' or 'swish' of FlaxUNet2D"),
        ("unet", {"layers_per_block": [1]}, r"layers_per_block=\[1\]: expected an integer >= 1 of FlaxUNet"),
        ("unet", {"attention_head_dim": 3}, r"attention_head_dim=3: expected divisors of block_out_channels"),
        ("unet", {"time_embedding_dim": 64}, "time_embedding_dim=64: expected null or 128 of FlaxUNet"),
        ("vae", {"shift_factor": 0.1}, "shift_factor=0.1: expected None, as FlaxAutoencoderKL does not"),
        ("vae", {"use_quant_conv": False}, "use_quant_conv=False: expected True, as FlaxAutoencoderKL"),
        ("text_encoder", {"hidden_act": "mish"}, "hidden_act='mish': expected 'quick_gelu' or"),
    ],
)
def test_what_flax_does_not_compute_is_not_exported_to_it(file, change, message):
    network = PIPELINES["StableDiffusionPipeline"].networks[file]
    config = {"unet": UNET, "vae": VAE, "text_encoder": {}}[file]
    flax_class = write_flax._flax_class(network.from_config(config))
    flax_class.check(config)
    with pytest.raises(ValueError, match=f"^{message}"):
        flax_class.check(config | change)


def test_the_rules_of_the_flax_classes_name_the_fields_that_these_read():
    for name, flax_class in write_flax._CLASSES.items():
        assert set(flax_class.ours) <= set(flax_class.theirs) and flax_class.dropped <= set(
            flax_class.ours
        ), name
        original = getattr(diffusers, flax_class.name, None)
        if original is None:
            pytest.skip("diffusers has no Flax")
        fields = set(original.__dataclass_fields__) & set(flax_class.theirs)
        # dropout is read in training alone; the others are refused, or said to mean nothing by the class.
        unread = {"num_attention_heads", "dropout", "addition_embed_type_num_heads"}
        assert fields - unread == set(flax_class.ours) - flax_class.dropped, name


@pytest.mark.parametrize(
    ("change", "steps", "expected"),
    [
        ({"timestep_spacing": "trailing"}, 4, 249),
        ({"timestep_spacing": "leading", "steps_offset": 1}, 3, 1),
        ({"timestep_spacing": "trailing"}, 3, "timestep_spacing='trailing': expected 'leading' of FlaxDDIM"),
        ({"timestep_spacing": "linspace"}, 4, "timestep_spacing='linspace': expected 'leading' of FlaxDDIM"),
        ({"rescale_betas_zero_snr": True}, 4, "rescale_betas_zero_snr=True: expected false of FlaxDDIM"),
    ],
)
def test_timesteps_are_those_of_flax_or_refused(change, steps, expected):
    parts = Parts("model", {}, {}, {}, {}, SCHEDULER | change)
    if isinstance(expected, str):
        with pytest.raises(ConfigError, match=f"^{expected}"):
            write_flax._make_scheduler(parts, steps, "")
        return
    scheduler = write_flax._make_scheduler(parts, steps, "")
    assert scheduler["steps_offset"] == expected
    for ours, theirs in zip(make_grid(scheduler, steps), make_grid(SCHEDULER | change, steps), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.fixture(scope="module")
def with_adapters(models, tmp_path_factory):
    """Make a run on a base whose scheduler says nothing but its class: its defaults are not those of DDIM."""
    base = tmp_path_factory.mktemp("base") / "pipeline"
    shutil.copytree(models / "pipeline", base)
    (base / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "PNDMScheduler"}')
    index = json.loads((base / "model_index.json").read_text()) | {
        "scheduler": ["diffusers", "PNDMScheduler"]
    }
    (base / "model_index.json").write_text(json.dumps(index))
    lora = {"rank": 3, "alpha": 6.0, "targets": "to_q|to_out_0|conv1|proj_in"}
    config = tiny_config(models, pretrained=str(base), **{f"lora__{name}": v for name, v in lora.items()})
    pipeline = load_pipeline(base)
    adapters = init_adapters(pipeline.network, targets=config.lora.targets, rank=3, seed=0)
    adapters = random_params(jax.tree.map(lambda x: np.zeros(x.shape), adapters), seed=1)
    return write_run(tmp_path_factory.mktemp("lora") / "run", config, adapters)


@pytest.mark.slow
def test_adapters_give_the_same_pictures_in_both_namings(with_adapters, tmp_path):
    student = rats_jax.load(str(with_adapters))
    exporting.export_student(student, tmp_path, format="lora", dtype="float32")
    noise = student.make_noise([0, 1])
    ours = student(PROMPTS[:2], latents=noise)
    pipeline = DiffusionPipeline.from_pretrained(student.origin.config.pretrained)
    # As the card says.
    assert 'DDIMScheduler.from_pretrained("THIS_FOLDER", subfolder="scheduler")' in (
        tmp_path / "README.md"
    ).read_text("utf-8")
    pipeline.scheduler = DDIMScheduler.from_pretrained(tmp_path, subfolder="scheduler")
    untrained = draw_with_torch(pipeline, noise, prompts=PROMPTS[:2], steps=2)
    assert difference(untrained, ours) > 5
    for folder, file in ((tmp_path, None), (tmp_path / "comfyui", "rats_lora.safetensors")):
        pipeline.load_lora_weights(folder, weight_name=file)
        assert difference(draw_with_torch(pipeline, noise, prompts=PROMPTS[:2], steps=2), ours) < 0.01
        pipeline.unload_lora_weights()
    names = set(load_file(tmp_path / "comfyui" / "rats_lora.safetensors"))
    prefix = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0"
    assert {f"{prefix}.lora_down.weight", f"{prefix}.lora_up.weight", f"{prefix}.alpha"} <= names


@pytest.mark.slow
def test_the_program_runs_without_this_package(models, tmp_path):
    unet = random_params(load_pipeline(models / "pipeline").network, seed=9)
    student = rats_jax.load(str(write_run(tmp_path / "run", tiny_config(models), unet)))
    folder = tmp_path / "out"
    folder.mkdir()
    exporting.export_student(student, folder, format="jax", dtype="float32")
    example = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)[0]
    program = "import sys\nsys.modules['rats_jax'] = None\n" + example
    program += "np.savez('out.npz', images=images, noise=noise, prompts=prompts)\n"
    environment = {"JAX_PLATFORMS": "cpu", "PATH": ""}
    subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, check=True, timeout=300)
    with np.load(folder / "out.npz") as drawn:
        expected = student(list(drawn["prompts"]), latents=drawn["noise"])
        assert difference(drawn["images"], expected) < 0.01


@pytest.mark.slow
def test_an_export_that_draws_something_else_fails(models, tmp_path, monkeypatch):
    unet = random_params(load_pipeline(models / "pipeline").network, seed=9)
    student = rats_jax.load(str(write_run(tmp_path / "run", tiny_config(models), unet)))
    spoilt = dataclasses.replace(
        student, pipeline=dataclasses.replace(student.pipeline, network=jax.tree.map(np.zeros_like, unet))
    )
    write = exporting.FORMATS["diffusers"].write
    broken = exporting.FORMATS["diffusers"]._replace(write=lambda model, *rest: write(spoilt, *rest))
    monkeypatch.setitem(exporting.FORMATS, "diffusers", broken)
    (tmp_path / "out").mkdir()
    with pytest.raises(ExportError, match=r"differ by [\d.]+/255 on average, expected at most 2/255"):
        exporting.export_student(student, tmp_path / "out", format="diffusers", dtype="float32")


def test_what_cannot_be_exported_is_refused(models, tmp_path):
    unet = load_pipeline(models / "pipeline").network
    student = rats_jax.load(str(write_run(tmp_path / "run", tiny_config(models), unet)))
    with pytest.raises(ConfigError, match="expected a run with lora.rank > 0"):
        exporting.export_student(student, tmp_path, format="lora", dtype="float32")
    with pytest.raises(ConfigError, match="expected the work directory of a run"):
        exporting.export_student(
            rats_jax.load(str(models / "pipeline")), tmp_path, format="diffusers", dtype="float32"
        )


@pytest.mark.slow
def test_a_disk_that_is_full_ends_in_one_line_and_leaves_nothing(emoji, tmp_path):
    command = [sys.executable, "-m", "rats_jax.export", f"--workdir={emoji}", f"--out={tmp_path / 'out'}"]
    result = subprocess.run(
        ["bash", "-c", 'ulimit -f 300; exec "$@"', "-", *command],  # no file above 300 kB
        cwd=ROOT,
        env=os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 1, result.stderr[-2000:]
    assert re.search(r"out='.*/out': expected a folder that can be written \(.*too large", result.stderr)
    assert "Traceback" not in result.stderr and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out=tests"], "out='tests': expected a folder that is not there yet"),
        (["--workdir=tests"], "model 'tests' lacks 'model_index.json'"),
        (["--format=onnx"], "flag --format=onnx: value should be one of <diffusers|flax|lora|jax>"),
    ],
)
def test_bad_input_of_the_command_is_one_line_and_leaves_nothing(arguments, message, tmp_path):
    given = flags_with([f"--out={tmp_path / 'out'}", f"--workdir={tmp_path}"], arguments)
    assert_one_line(call("export", *given), message)
    assert list(tmp_path.iterdir()) == []
