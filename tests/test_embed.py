"""Stored prompt embeddings: the same run without text encoders."""

import dataclasses
import os
import re
import shutil

import jax
import numpy as np
import pytest

from rats_jax.errors import ConfigError
from rats_jax.files import new_folder
from rats_jax.pipelines.open import load_pipeline, open_pipeline
from rats_jax.pipelines.stored_embeds import with_stored_embeds, write_prompt_embeds
from rats_jax.training.models import describe_models, open_models
from rats_jax.training.program import Program
from tests.commands import call
from tests.tiny import PROMPTS, tiny_config


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


def test_prompts_without_an_embedding_are_refused_before_anything_is_opened(models, folder, tmp_path):
    unseen = tmp_path / "unseen.txt"
    unseen.write_text("an unseen one\nanother\n")
    given = {"prompt_embeds": str(folder), "reference": ""}
    lacks = f"prompt_embeds='{folder}': expected an embedding of every prompt, it has none of 'an unseen one'"
    for changes in ({"heldout_prompts": str(unseen)}, {"prompts": str(unseen)}):
        with pytest.raises(ConfigError, match=f"^{re.escape(lacks)} and 1 more$"):
            Program(tiny_config(models, **given, **changes, pretrained="/nowhere"))


def test_a_run_reads_no_embedding_before_it_is_wanted(models, folder, tmp_path):
    """Their rows may be larger than the memory."""
    damaged = shutil.copytree(folder, tmp_path / "embeds")
    rows = np.load(damaged / "cond_0.npy")
    np.save(damaged / "cond_0.npy", rows * np.nan)
    config = tiny_config(models, prompt_embeds=str(damaged), reference="")
    assert len(PROMPTS) <= config.num_updates * config.batch_size
    program = Program(config)
    with pytest.raises(ConfigError, match="expected a finite embedding"):
        program.experiment.make_batch(PROMPTS[:1])


def test_a_disk_that_fills_up_is_one_line(models, tmp_path):
    """A file that is mapped would end the process with a bus error."""
    resource = pytest.importorskip("resource")
    pipeline, out = open_pipeline(str(models / "pipeline")), tmp_path / "out"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, before[1]))
    try:
        with pytest.raises(ConfigError, match="^out='.*': expected a folder that can be written [(]File too"):
            with new_folder(out, field="out") as folder:
                write_prompt_embeds(folder, pipeline, PROMPTS, source="")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def other(change):
    """Give a change of a file of embeddings."""
    return lambda file: np.save(file, change(np.load(file)))


def rewrite(content):
    return lambda file: file.write_bytes(content)


NUMBERS, TEXTS = "expected floating point numbers of", "prompts.json: expected a list of texts as prompts"


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("prompts.json", rewrite(b"[1]"), TEXTS),
        ("prompts.json", rewrite(b'{"pretrained": "x", "prompts": [1]}'), TEXTS),
        ("prompts.json", rewrite(b'{"pretrained": "x"}'), TEXTS),
        (
            "prompts.json",
            rewrite(b'{"pretrained": "x", "prompts": ["cat"]}'),
            f"cond_0.npy: {NUMBERS} 1 rows",
        ),
        ("prompts.json", rewrite(b"["), "expected a folder that rats_jax.embed wrote (Expecting value"),
        ("cond_0.npy", rewrite(b""), "expected a folder that rats_jax.embed wrote (EOF"),
        ("cond_0.npy", rewrite(b"PK\3\4 an archive"), "(the magic string is not correct"),
        ("cond_0.npy", lambda file: os.truncate(file, 300), "(mmap length is greater than file size)"),
        ("cond_0.npy", other(lambda x: x[:-1]), f"cond_0.npy: {NUMBERS} 8 rows, found float32 of (7,)"),
        ("cond_0.npy", other(lambda x: x.astype(int)), f"cond_0.npy: {NUMBERS} 8 rows, found int64"),
        ("cond_0.npy", other(lambda x: x.astype(str)), f"cond_0.npy: {NUMBERS} 8 rows, found <U32"),
        ("cond_0.npy", other(lambda x: x * np.nan), "prompt='cat': expected a finite embedding"),
        ("uncond_0.npy", other(lambda x: x * np.inf), "prompt='': expected a finite embedding"),
        ("uncond_0.npy", other(lambda x: np.repeat(x, 2, axis=0)), f"uncond_0.npy: {NUMBERS} 1 rows"),
    ],
)
def test_damaged_embeddings_are_one_line(models, folder, tmp_path, file, damage, message):
    damaged = shutil.copytree(folder, tmp_path / "embeds")
    damage(damaged / file)
    pipeline = open_pipeline(str(models / "pipeline"))
    with pytest.raises(ConfigError) as caught:
        with_stored_embeds(pipeline, damaged, source=str(models / "pipeline")).tokenize(["cat"])
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"prompt_embeds={str(damaged)!r}: ")


def test_the_command_writes_them_and_does_not_overwrite(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("cat\ndog\ncat\n")
    output = tmp_path / "embeds"
    arguments = ["--config=configs/emoji_cpu.py", f"--config.prompts={prompts}", f"--out={output}"]
    for returncode in (0, 1):
        result = call("embed", *arguments)
        assert result.returncode == returncode, result.stderr
    assert "expected a folder that is not there yet" in result.stderr
    assert np.load(output / "cond_0.npy").shape[0] == 2
