"""A LoRA student in bfloat16: its adapters stay beside the weights, as in the training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

import rats_jax
from rats_jax.evaluation.contestants import open_entries
from rats_jax.networks.lora import Adapted, init_adapters, merge_adapters
from rats_jax.pipelines.open import load_pipeline, open_pipeline
from rats_jax.student.formats import export_student
from rats_jax.training.setup import make_denoise_fn
from rats_jax.types import PromptEmbeds
from tests.finished import write_run
from tests.tiny import tiny_config

LORA = {"rank": 4, "alpha": 8.0, "targets": "to_q|to_v|to_out_0|conv1"}
PROMPT = ["black cat"]


@pytest.fixture(scope="module")
def run(models, tmp_path_factory):
    """Of adapters that add little to most weights: less than the last bit of a weight in bfloat16."""
    config = tiny_config(models, **{f"lora__{name}": value for name, value in LORA.items()})
    network = load_pipeline(models / "pipeline").network
    flat = flatten_dict(init_adapters(network, targets=LORA["targets"], rank=4, seed=0))
    rng = np.random.default_rng(1)
    adapters = unflatten_dict(
        {
            k: v if k[-1] == "down" else 1e-4 * rng.normal(size=v.shape).astype(np.float32)
            for k, v in flat.items()
        }
    )
    return write_run(tmp_path_factory.mktemp("lora") / "run", config, adapters), config, adapters


@pytest.fixture(scope="module")
def student(run):
    return rats_jax.load(str(run[0]), dtype="bfloat16")


def test_the_network_is_that_of_the_training(run, student, models):
    _, config, adapters = run
    pipeline = open_pipeline(str(models / "pipeline"), dtype=jnp.bfloat16)
    base = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf.astype(jnp.bfloat16))), pipeline.network)
    rng = np.random.default_rng(2)
    latents, embeds = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 8, 8, 4), (2, 8, 32)))
    inputs = latents, jnp.int32(501), PromptEmbeds(embeds, embeds)
    trained = jax.jit(make_denoise_fn(config, pipeline, 1.0))(Adapted(base, adapters), *inputs)
    drawn = jax.jit(student.pipeline.guided_fn(1.0))(student.pipeline.network, *inputs)
    np.testing.assert_array_equal(np.asarray(drawn), np.asarray(trained))


def test_merged_in_bfloat16_most_weights_would_be_those_of_the_base(run, student):
    _, config, adapters = run
    base = student.pipeline.network.base
    merged = merge_adapters(base, adapters, scale=config.lora.alpha / config.lora.rank, dtype=jnp.bfloat16)
    pairs = zip(flatten_dict(base).items(), flatten_dict(merged).values(), strict=True)
    changed = {path[:-1] for path in flatten_dict(adapters)}
    same = [
        np.mean(old == new) for (path, old), new in pairs if path[:-1] in changed and path[-1] == "kernel"
    ]
    assert 0.5 < np.mean(same) < 1.0


@pytest.mark.slow
def test_without_its_adapters_it_is_the_untrained_model(run, student, models):
    entries = open_entries(student, student.origin, num_steps=[2], others={}, dtype="bfloat16")
    (untrained,) = (entry.model for entry in entries if entry.contestant == "untrained")
    original = rats_jax.load(str(models / "pipeline"), dtype="bfloat16")
    latents, options = student.make_noise([3]), {"num_steps": 2, "guidance_scale": 1.0}
    expected = original(PROMPT, latents=latents, **options)
    drawn = untrained(PROMPT, latents=latents, **options)
    np.testing.assert_allclose(drawn, expected, atol=0.02)
    assert np.abs(student(PROMPT, latents=latents, **options) - drawn).max() > 0
    placed = [model._placed() for model in (student, untrained)]  # one copy for both, but of the adapters
    assert all(mine is theirs for mine, theirs in zip(placed[0][1:], placed[1][1:], strict=True))
    assert placed[0][0].base is placed[1][0].base and placed[0][0].adapters is not placed[1][0].adapters


@pytest.mark.slow
@pytest.mark.parametrize("format", ["diffusers", "lora"])
def test_it_is_exported_as_one_in_float32_is(run, student, tmp_path, format):
    export_student(student, tmp_path / "half", format=format, dtype="bfloat16")
    export_student(rats_jax.load(str(run[0])), tmp_path / "whole", format=format, dtype="bfloat16")
    names = [file.relative_to(tmp_path / "whole") for file in (tmp_path / "whole").rglob("*.safetensors")]
    assert names
    for name in names:
        assert (tmp_path / "half" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
