"""Compiling for TPUs and GPUs that are not there: tiny models, and what is refused."""

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from flax.traverse_util import flatten_dict

from rats_jax.aot import trace as compiling
from rats_jax.aot.flops import count_flops
from rats_jax.aot.hlo import count_costs
from tests.tiny import UNET, tiny_config, write_config, write_tiny_models

ROOT = Path(__file__).parent.parent
COMPILERS = [Path(sys.prefix) / name for name in ("libtpu", "libcuda")]  # where the Makefile puts them
EMOJI = str(ROOT / "configs" / "emoji_cpu.py")
# As in configs/sd_tpu.py: what is trained is split, what is frozen is copied.
SPLIT = [
    "--config.mesh.data=1",
    "--config.mesh.fsdp=4",
    '--config.sharding=(("^(base|text_encoder|decoder|rewards)/", "copy"), ("", "largest"))',
]


def run(*arguments, compilers=COMPILERS):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [*compilers, ROOT]))}
    environment.pop("XLA_FLAGS", None)
    return subprocess.run(
        [sys.executable, "-m", "rats_jax.compile", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )


def without_towers(models, **changes):
    """A config whose reward has no network: less to compile."""
    config = tiny_config(models, **changes)
    del config.rewards.pickscore_emoji
    return config


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Of a network with kernels that are large enough to be split, over four chips."""
    folder = tmp_path_factory.mktemp("compile")
    write_tiny_models(folder, unet=UNET | {"block_out_channels": (128,)})
    config = tiny_config(folder, student__num_steps=4, teacher__num_steps=50)
    file = write_config(folder / "split.py", config)
    result = run(f"--config={file}", "--topology=v5e:2x2", f"--hlo={folder / 'program.txt'}", *SPLIT)
    assert result.returncode == 0, result.stderr[-3000:]
    return config, json.loads(result.stdout.splitlines()[-1]), (folder / "program.txt").read_text()


@pytest.mark.slow
def test_an_update_for_four_tpus_fits_and_does_no_hidden_work(compiled):
    _, report, _ = compiled
    assert report["fits"] and report["devices"] == 4
    assert report["total_bytes"] < report["chip_bytes"]
    assert 0.95 < report["flops_ratio"] < 1.15
    assert report["evaluations"] == {"teacher": 100, "student": 4}


@pytest.mark.slow
def test_the_student_is_split_as_the_rules_say(compiled):
    import jax

    from rats_jax.parallel.mesh import make_mesh
    from rats_jax.parallel.placement import param_sharding
    from rats_jax.training.models import describe_models
    from tests.tiny import mesh_sizes

    config, _, text = compiled
    held = shapes_of_arguments(text)
    unet = {
        "/".join(path): leaf
        for path, leaf in flatten_dict(describe_models(config, None).pipeline.network).items()
    }
    assert held["frozen.base"] == {path: leaf.shape for path, leaf in unet.items()}
    mesh = make_mesh(mesh_sizes(fsdp=4), jax.devices()[:4])
    shardings = param_sharding(mesh, unet, (("", "largest"),))
    for tree in ("state.student", "state.opt_state[1][0].mu", "state.opt_state[1][0].nu"):
        assert held[tree] == {path: shardings[path].shard_shape(leaf.shape) for path, leaf in unet.items()}
    split = [path for path, leaf in unet.items() if held["state.student"][path] != leaf.shape]
    assert split == [path for path, leaf in unet.items() if leaf.size > 2**16]


def shapes_of_arguments(text):
    """Read what a device holds of the arguments: {tree: {path of a leaf: shape}}."""
    held = defaultdict(dict)
    for line in text[text.index("\nENTRY") :].splitlines():
        # %x = f32[64]{...} parameter(7), ..., metadata={op_name="state.student[..conv_in..][..bias..]"}
        found = re.search(r"= \w+\[([\d,]*)\].* parameter\(.*op_name=\"(.*?)((\[\\'\w+\\'\])+)\"", line)
        if found:
            path = re.findall(r"\w+", found[3])
            held[found[2]]["/".join(path)] = tuple(int(n) for n in re.findall(r"\d+", found[1]))
    return held


@pytest.mark.slow
def test_no_frozen_network_is_gathered(compiled):
    _, report, text = compiled
    split = 4 * report["trained_parameters"]
    gathered = sum(c.bytes * c.times for c in count_costs(text).collectives if c.kind == "all-gather")
    # The student is gathered once for all its steps; a frozen network besides would show.
    assert 0.5 * split < gathered < 1.05 * split


@pytest.mark.slow
def test_a_dry_run_counts_without_compiling():
    result = run(f"--config={EMOJI}", "--topology=v5e:2x2", "--dry")
    assert result.returncode == 0, result.stderr[-3000:]
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["analytic_flops_per_device"] > 1e9 and "compile_seconds" not in report


@pytest.mark.slow
def test_what_does_not_fit_is_said_with_advice(models, tmp_path):
    config = write_config(tmp_path / "large.py", without_towers(models, batch_size=2**18))
    result = run(f"--config={config}", "--topology=v5e:2x2")
    assert result.returncode == 1
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["fits"] is False
    assert "--config.student.remat=step; --config.compute_dtype=bfloat16" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--topology=t4:8"],
            "topology='t4:8': expected CHIP:SHAPE, with a chip of v4, v5e, v5p, v6e, rtx3090",
        ),
        (["--topology=h100:0"], "topology='h100:0': expected GPU, GPU:NUMBER or GPU:MACHINESxNUMBER"),
        (["--topology=v5e:3x77"], "topology='v5e:3x77': expected one that libtpu knows"),
        (["--topology=v5e:2x2", "--config.mesh.data=2"], "mesh.data=2, .* number of devices, 4"),
        (["--topology=v5e:2x4", "--config.batch_size=12"], "batch_size=12: expected a multiple of 8"),
        (["--topology=v5e:2x2", "--config.pretrained=/nowhere"], "'/nowhere' is no file or folder"),
    ],
)
def test_bad_input_is_one_line_before_compilation(arguments, message):
    result = run(f"--config={EMOJI}", *arguments)
    assert result.returncode == 1 and re.search(message, result.stderr), result.stderr[-2000:]
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("topology", "compiler"),
    [
        ("v5e:2x2", "the package libtpu: .*'rats_jax.tpu.'"),
        ("h100", "jax's compiler for CUDA: .*'rats_jax.cuda.'"),
    ],
)
def test_without_a_compiler_it_says_what_to_install(topology, compiler):
    result = run(f"--config={EMOJI}", f"--topology={topology}", compilers=[])
    assert result.returncode == 1 and re.search(f"expected {compiler}", result.stderr)


@pytest.mark.slow
def test_an_update_for_two_gpus_does_no_hidden_work(models, tmp_path):
    """cuDNN's convolutions and their gradients, cuBLAS's or XLA's products: all are counted."""
    config = write_config(tmp_path / "tiny.py", without_towers(models, batch_size=4))
    result = run(f"--config={config}", "--topology=rtx4090:2", f"--hlo={tmp_path / 'program.txt'}")
    assert result.returncode == 0, result.stderr[-3000:]
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["fits"] and report["devices"] == 2 and report["chip_bytes"] == 24 * 10**9
    assert 0.95 < report["flops_ratio"] < 1.05
    assert 0 < report["total_bytes"] < 10**9 and report["estimated_seconds"]["at_least"] >= 0
    assert sum(report["moved_bytes"].values()) > report["argument_bytes"] > 0
    # Each of the two sums its gradients with the other's.
    assert report["collective_bytes"]["all-reduce"] >= 4 * report["trained_parameters"]
    assert "__cudnn$convBackwardFilter" in (tmp_path / "program.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"student__remat": "step"}, {"lora__rank": 2}])
def test_the_counted_update_is_its_evaluations_times_their_cost(models, changes):
    """A step of the student is a forward and a backward pass, and one more forward pass with remat."""
    import jax
    import jax.numpy as jnp

    from rats_jax.parallel.mesh import make_mesh
    from rats_jax.training.experiment import abstract
    from rats_jax.training.models import describe_models
    from rats_jax.training.setup import make_denoise_fn, make_experiment
    from tests.tiny import mesh_sizes

    config = tiny_config(models, batch_size=2, **changes)
    mesh = make_mesh(mesh_sizes(), jax.devices()[:1])
    experiment = make_experiment(config, describe_models(config, jax.devices()[0]), mesh)
    pipeline, fns, student = experiment.pipeline, experiment.fns, experiment.abstract_state().student
    frozen, batch = abstract(experiment.frozen_params()), compiling.abstract_batch(experiment, 2)
    latents = jax.ShapeDtypeStruct((2, *pipeline.latent_shape), jnp.float32)
    images = jax.ShapeDtypeStruct((2, *pipeline.image_shape()), jnp.float32)
    embeds = jax.eval_shape(fns.encode_fn, frozen.text_encoder, batch.prompt)
    step = latents, jax.ShapeDtypeStruct((), jnp.int32), embeds
    teacher_fn, student_fn = (
        make_denoise_fn(config, pipeline, config[role].guidance_scale) for role in ("teacher", "student")
    )

    def gradient(base, trained, *step):
        def total(trained, latents, *rest):
            return jnp.sum(student_fn(experiment.student.params_fn(base, trained), latents, *rest))

        return jax.grad(total, argnums=(0, 1))(trained, *step)

    def decoded(latents, params):
        return jnp.sum(fns.decode_fn(params, latents))

    def scored(images, params, prompt):
        return sum(map(jnp.sum, fns.score_fn(params, images, prompt).values()))

    forward = count_flops(student_fn, frozen.base, *step)
    judged = (decoded, latents, frozen.decoder), (scored, images, frozen.rewards, batch.reward)
    expected = (
        config.teacher.num_steps * count_flops(teacher_fn, frozen.base, *step)
        + config.student.num_steps * count_flops(gradient, frozen.base, student, *step)
        + (config.student.num_steps * forward if config.student.remat == "step" else 0)
        + count_flops(fns.encode_fn, frozen.text_encoder, batch.prompt)
        + sum(count_flops(f, *inputs) + count_flops(jax.grad(f), *inputs) for f, *inputs in judged)
    )
    counts = compiling.trace(config, jax.devices()[:1]).counts
    assert counts["analytic_flops_per_device"] == pytest.approx(expected, rel=0.03)
