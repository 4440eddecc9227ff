"""The whole job on FLUX.1 and Stable Diffusion 3: adapters and all weights, resumed, on a mesh, exported."""

import dataclasses
import json
import re
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, FluxPipeline
from flax.traverse_util import flatten_dict

import rats_jax
from rats_jax.errors import ConfigError
from rats_jax.evaluation.evaluate import REPORT, evaluate
from rats_jax.pipelines import PIPELINES
from rats_jax.pipelines.base import Options
from rats_jax.pipelines.open import describe_pipeline, open_pipeline, options_of
from rats_jax.pipelines.published import PUBLISHED
from rats_jax.pipelines.stored_embeds import count_bytes, with_stored_embeds, write_prompt_embeds
from rats_jax.report.tables import TEACHER
from rats_jax.student import formats as exporting
from rats_jax.training.loop import train, train_and_evaluate
from rats_jax.training.program import Program
from rats_jax.workdir.checkpoint import open_manager
from rats_jax.workdir.metrics import read_metrics
from tests.pipelines.test_flows import draw_with_torch, scale_of
from tests.tiny import PROMPTS, mesh_sizes, tiny_config
from tests.torch_flows import KINDS, make_flow

LORA = "_to_[0-9]+/.*(to_[qkv]|to_out_0|add_[qkv]_proj|to_add_out|net_0/proj|net_2|proj_mlp|proj_out)$"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folders = {}
    for kind in KINDS:
        folders[kind] = tmp_path_factory.mktemp(kind) / "pipeline"
        make_flow(kind).save_pretrained(folders[kind], max_shard_size="60KB")
    return folders


def flow_config(models, folders, kind, **settings):
    scale = scale_of(kind)
    student = 1.0 if kind.startswith("sd3") else scale
    flow = {
        "pretrained": str(folders[kind]),
        "reference": "",
        "height": 16,
        "width": 16,
        "max_sequence_length": 12,
        "teacher__guidance_scale": scale,
        "teacher__timestep_spacing": "",
        "student__guidance_scale": student,
        "student__timestep_spacing": "",
        "lora__rank": 2,
        "lora__alpha": 4.0,
        "lora__targets": LORA,
        "num_updates": 2,
        "samples__every": 0,
        "checkpoint__every": 1,
        "evaluation__num_prompts": 0,
        "optimizer__learning_rate": 1e-2,
        "optimizer__warmup_updates": 0,
    }
    if student == scale:
        flow |= {"teacher__ema_decay": 0.9}
    return tiny_config(models, **(flow | settings))


@pytest.fixture(scope="module", params=["flux_dev", "sd3"])
def program(request, models, folders):
    """What runs of two updates of adapters share, on eight devices."""
    return request.param, Program(flow_config(models, folders, request.param))


@pytest.fixture(scope="module")
def run(program, tmp_path_factory):
    """An unbroken run."""
    kind, made = program
    workdir = tmp_path_factory.mktemp("runs") / kind
    return kind, workdir, train(made, made.config, workdir)


def load_state(workdir, step):
    with open_manager(workdir / "checkpoints", keep=9, every=1) as manager:
        return manager.restore(step)["state"]


@pytest.mark.slow
def test_adapters_are_trained_in_every_layer_of_every_stack(run):
    kind, workdir, summary = run
    steps = 3 * (1 if kind.startswith("flux") else 2)
    assert (summary["updates"], summary["nfe"], summary["teacher_nfe"]) == (2, 2, steps)
    assert all(np.isfinite(list(record.values())).all() for record in read_metrics(workdir))
    state = load_state(workdir, 2)
    ups = {path: leaf for path, leaf in flatten_dict(state["student"]).items() if path[-1] == "up"}
    assert len(ups) >= 12
    last = ["transformer_blocks_2_to_2"]  # of SD3, whose prompt nothing reads
    for path, up in ups.items():
        moved = np.abs(np.asarray(up)).max(axis=(1, 2)) > 0
        assert moved.all() or path[0] in last, path
    moves = kind.startswith("flux")
    assert bool(state["teacher"]) == moves


@pytest.mark.slow
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(run, program, models, folders, tmp_path):
    kind, workdir, _ = run
    train(program[1], flow_config(models, folders, kind, num_updates=1), tmp_path / "run")
    train_and_evaluate(flow_config(models, folders, kind), tmp_path / "run")
    chex.assert_trees_all_equal(load_state(tmp_path / "run", 2), load_state(workdir, 2))


@pytest.mark.slow
def test_a_report_judges_every_contestant_by_the_evaluations_of_its_family(run, tmp_path):
    kind, workdir, _ = run
    options = {"prompts": "", "others": {}, "seed": 0, "batch_size": 8, "dtype": "float32", "command": ""}
    counts = {"num_steps": [1, 2], "num_prompts": 4, "num_seeds": 1}
    said = []
    evaluate(str(workdir), tmp_path, step=None, say=said.append, **counts, **options)
    (table,) = said
    rows = json.loads((tmp_path / REPORT).read_text())["rows"]
    nfe = {(row["contestant"], row["num_steps"]): row["nfe"] for row in rows}
    guided = 1 if kind.startswith("flux") else 2
    assert nfe[TEACHER, 3] == 3 * guided and nfe["student", 2] == nfe["untrained", 2] == 2
    assert len(table.splitlines()) == 2 + len(rows) and len(rows) == (5 if guided == 1 else 7)
    heldout = {name: row["measures"]["heldout"]["mean"] for name, row in zip(nfe, rows, strict=True)}
    assert heldout["student", 2] != heldout["untrained", 2]


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    kind, workdir, _ = run
    student, folder = rats_jax.load(str(workdir)), tmp_path_factory.mktemp("exported") / kind
    for format in ("diffusers", "lora", "jax") if kind == "flux_dev" else ("diffusers", "lora"):
        (folder / format).mkdir(parents=True)
        exporting.export_student(student, folder / format, format=format, dtype="float32")
    noise = student.make_noise([0, 1])
    return kind, student, folder, noise, student(PROMPTS[:2], latents=noise)


@pytest.mark.slow
def test_pytorch_opens_the_exports_and_draws_the_same_pictures(exported, folders, tmp_path):
    kind, student, folder, noise, ours = exported
    whole = DiffusionPipeline.from_pretrained(folder / "diffusers")
    adapted = DiffusionPipeline.from_pretrained(folders[kind])
    options = {"num_inference_steps": 2, "guidance_scale": student.guidance_scale}
    options |= {"height": 16, "width": 16, "max_sequence_length": 12}
    untrained = draw_with_torch(adapted, noise, PROMPTS[:2], **options)
    assert np.abs(untrained - ours).max() > 5e-3
    adapted.load_lora_weights(folder / "lora")
    for pipeline in (whole, adapted):
        theirs = draw_with_torch(pipeline, noise, PROMPTS[:2], **options)
        np.testing.assert_allclose(theirs, ours, atol=2e-3)
    again = rats_jax.load(str(folder / "diffusers"))
    np.testing.assert_array_equal(again(PROMPTS[:2], latents=noise), ours)
    assert {file.name for file in (folder / "lora").iterdir()} == {
        *("pytorch_lora_weights.safetensors", "README.md", "rats_jax.json")
    }
    with pytest.raises(ConfigError, match="format='flax': Flax diffusers had no pipeline of the kind"):
        exporting.export_student(student, tmp_path, format="flax", dtype="float32")


def example_of(folder):
    card = (folder / "README.md").read_text()
    return re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)[0].replace("THIS_FOLDER", str(folder))


@pytest.mark.slow
def test_the_card_says_how_to_draw_with_pytorch(exported):
    kind, _, folder, noise, ours = exported
    latents = torch.from_numpy(np.array(noise.transpose(0, 3, 1, 2)))
    if kind == "flux_dev":
        latents = FluxPipeline._pack_latents(latents, *latents.shape)
    for format in ("diffusers", "lora"):
        scope = {"latents": latents}
        given = f"prompt={PROMPTS[:2]}, latents=latents, output_type='np', num_inference_steps="
        example = example_of(folder / format)
        exec(re.sub(r'"a photo of a red apple", num_inference_steps=', given, example), scope)
        np.testing.assert_allclose(scope["images"], ours, atol=2e-3)


@pytest.mark.slow
def test_the_card_says_how_to_draw_with_the_program(exported):
    kind, student, folder, _, _ = exported
    if kind != "flux_dev":
        pytest.skip("the program of one family: it takes long")
    program = "import sys\nsys.modules['rats_jax'] = None\n" + example_of(folder / "jax")
    program += "np.savez('out.npz', images=images, noise=noise, prompts=prompts)\n"
    subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder / "jax",
        env={"JAX_PLATFORMS": "cpu", "PATH": ""},
        check=True,
        timeout=300,
    )
    with np.load(folder / "jax" / "out.npz") as result:
        expected = student(list(result["prompts"]), latents=result["noise"])
        np.testing.assert_allclose(result["images"], expected, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "rank"), [("flux_dev", 2), ("sd3", 0)])
def test_a_mesh_makes_the_update_of_one_device(models, folders, kind, rank, monkeypatch):
    """Tensor and fsdp split the stacked weights: the same gradient and the same new weights."""
    monkeypatch.setattr("rats_jax.parallel.placement._SMALLEST_SPLIT", 8)
    states = []
    for mesh in ({"data": 1}, {"fsdp": 2, "tensor": 2, "data": 2}):
        devices = int(np.prod(list(mesh.values())))
        monkeypatch.setattr(jax, "devices", lambda *_, n=devices: jax.local_devices()[:n])
        config = flow_config(models, folders, kind, lora__rank=rank, mesh=mesh_sizes(**mesh))
        config.optimizer.learning_rate = 1e-3
        program = Program(config)
        state = program.init_state()
        kernels = [
            leaf.sharding.spec
            for path, leaf in jax.tree_util.tree_leaves_with_path(program.frozen.base)
            if "to_q" in jax.tree_util.keystr(path)
        ]
        if devices > 1:
            assert all(tuple(spec) == (None, "fsdp", "tensor") for spec in kernels if len(spec) == 3)
            assert any(len(spec) == 3 for spec in kernels)
        batch = program.place_batch(np.arange(8))
        state, metrics = program.update(state, program.frozen, batch, jax.random.key(1))
        states.append((jax.device_get(state.student), {k: float(v) for k, v in metrics.items()}))
    (one, metrics), *others = states
    for student, other in others:
        for name in ("loss/total", "reward/student", "reward/teacher", "loss/shape", "grad/norm"):
            np.testing.assert_allclose(other[name], metrics[name], rtol=2e-4)
        chex.assert_trees_all_close(student, one, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["flux_schnell", "sd3"])
def test_stored_embeddings_take_the_place_of_the_encoders(models, folders, kind, tmp_path):
    config = flow_config(models, folders, kind)
    options, source = options_of(config), config.pretrained
    pipeline = open_pipeline(source, dtype=jnp.bfloat16, options=options)
    embeds = tmp_path / "embeds"
    write_prompt_embeds(embeds, pipeline, PROMPTS, source=source, dtype=jnp.bfloat16)
    written = sum(np.load(file).nbytes for file in embeds.glob("cond_*.npy"))
    assert written == count_bytes(pipeline, PROMPTS, dtype=jnp.bfloat16)
    stored = with_stored_embeds(pipeline, embeds, source=source)
    params = jax.tree.map(lambda leaf: np.asarray(leaf.astype(jnp.bfloat16)), pipeline.text_encoder)
    expected = jax.jit(pipeline.encode_fn)(params, pipeline.tokenize(PROMPTS[2:5]))
    actual = stored.encode_fn(stored.text_encoder, stored.tokenize(PROMPTS[2:5]))
    chex.assert_trees_all_close(
        *(jax.tree.map(lambda x: np.asarray(x, np.float32), tree) for tree in (actual, expected)), atol=0.05
    )
    shorter = open_pipeline(source, options=dataclasses.replace(options, max_sequence_length=8))
    with pytest.raises(ConfigError, match="expected cond of shapes .*another max_sequence_length"):
        with_stored_embeds(shorter, embeds, source=source)


def test_what_a_flow_cannot_do_is_one_line(models, folders):
    for kind, settings, message in (
        ("flux_dev", {"height": 18}, "^height=18: expected a multiple of 4 up to 16384, or 0"),
        ("flux_dev", {"lora__targets": "to_nowhere"}, "^lora.targets='to_nowhere': expected an expression"),
        ("flux_dev", {"student__timestep_spacing": "trailing"}, "timestep_spacing is 'trailing', expected"),
        ("flux_schnell", {"teacher__guidance_scale": 2.0}, "^teacher.guidance_scale=2.0: expected 1"),
        (
            "sd3",
            {"lora__rank": 0, "optimizer__weight_decay": 0.1},
            "^optimizer.weight_decay=0.1: expected 0 w",
        ),
        ("sd3", {"sampler": "euler"}, "^sampler='euler': expected 'ddim': the levels of pretrained=.* begin"),
        ("sd3", {"student__num_steps": 4, "teacher__num_steps": 3}, "^student.num_steps=4: expected at most"),
        ("sd3", {"max_sequence_length": 600}, "^max_sequence_length=600: expected from 1 to 512"),
    ):
        config = flow_config(models, folders, kind, **({"teacher__ema_decay": 1.0} | settings))
        with pytest.raises(ConfigError, match=message):
            Program(config)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("black-forest-labs/FLUX.1-dev", 11.901e9),
        ("black-forest-labs/FLUX.1-schnell", 11.891e9),
        ("stabilityai/stable-diffusion-3-medium-diffusers", 2.028e9 + 56.6e6),
        ("stabilityai/stable-diffusion-3.5-medium", 2.243e9 + 226.5e6),
        ("stabilityai/stable-diffusion-3.5-large", 8.057e9 + 89.7e6),
    ],
)
def test_the_published_models_have_the_published_number_of_weights(name, expected):
    files = PUBLISHED[name]
    network = PIPELINES[files["model_index.json"]["_class_name"]].networks["transformer"]
    params = network.from_config(files["transformer/config.json"]).abstract_params()
    np.testing.assert_allclose(sum(leaf.size for leaf in jax.tree.leaves(params)), expected, rtol=1e-3)


def test_flux_is_opened_by_its_name_alone():
    pipeline = describe_pipeline("black-forest-labs/FLUX.1-dev", options=Options(width=768))
    assert pipeline.latent_shape == (64, 96, 16)
    assert pipeline.tokenize(["a"])["text_encoder_2"].shape == (1, 512)
    encoder = sum(leaf.size for leaf in jax.tree.leaves(pipeline.text_encoder["text_encoder_2"]))
    np.testing.assert_allclose(encoder, 4.762e9, rtol=1e-3)
