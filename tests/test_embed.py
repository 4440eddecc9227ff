"""Stored prompt embeddings: the same run without text encoders."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from rats_jax.errors import ConfigError
from rats_jax.pipelines.open import load_pipeline, open_pipeline
from rats_jax.pipelines.stored_embeds import with_stored_embeds, write_prompt_embeds
from rats_jax.training.models import describe_models, open_models
from tests.tiny import PROMPTS, tiny_config

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def folder(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("embeds") / "embeds"
    source = str(models / "pipeline")
    count = write_prompt_embeds(folder, open_pipeline(source), [*PROMPTS, PROMPTS[0]], source=source)
    assert count == len(PROMPTS)
    return folder


def test_they_are_what_the_text_encoder_gives(models, folder):
    pipeline = load_pipeline(models / "pipeline")
    stored = with_stored_embeds(pipeline, folder, source=str(models / "pipeline"))
    asked = [PROMPTS[3], PROMPTS[0], PROMPTS[3]]
    expected = pipeline.encode_fn(pipeline.text_encoder, pipeline.tokenize(asked))
    actual = stored.encode_fn(stored.text_encoder, stored.tokenize(asked))
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_what_is_compiled_for_is_what_is_run(models, folder):
    config = tiny_config(models, prompt_embeds=str(folder))
    described, opened = describe_models(config).pipeline, open_models(config).pipeline
    shapes = [
        jax.tree.map(lambda x: tuple(x.shape), (p.text_encoder, p.tokenize(PROMPTS[:2])))
        for p in (described, opened)
    ]
    assert shapes[0] == shapes[1]


def test_what_does_not_belong_to_the_run_is_refused(models, folder, tmp_path):
    pipeline = open_pipeline(str(models / "pipeline"))
    with pytest.raises(ConfigError, match="expected embeddings of pretrained='other', these are of"):
        with_stored_embeds(pipeline, folder, source="other")
    with pytest.raises(ConfigError, match="expected a folder that rats_jax.embed wrote"):
        with_stored_embeds(pipeline, tmp_path, source="other")
    guided = dataclasses.replace(pipeline, negative_prompt="blurred")
    with pytest.raises(
        ConfigError, match="expected embeddings with negative_prompt='blurred', these are with ''"
    ):
        with_stored_embeds(guided, folder, source=str(models / "pipeline"))
    stored = with_stored_embeds(pipeline, folder, source=str(models / "pipeline"))
    with pytest.raises(ConfigError, match="has no embedding of the prompt 'an unseen one'"):
        stored.tokenize(["cat", "an unseen one"])


def test_the_command_writes_them_and_does_not_overwrite(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("cat\ndog\ncat\n")
    output = tmp_path / "embeds"
    arguments = ["--config=configs/emoji_cpu.py", f"--config.prompts={prompts}", f"--out={output}"]
    for returncode in (0, 1):
        result = subprocess.run(
            [sys.executable, "-m", "rats_jax.embed", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert result.returncode == returncode, result.stderr
    assert "expected a folder that is not there yet" in result.stderr
    assert np.load(output / "cond_0.npy").shape[0] == 2
