"""Words that were learned, as by textual inversion: in what is written of a pipeline, and in its check."""

import json
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rats_jax.errors import ExportError
from rats_jax.paths import resolve_path
from rats_jax.pipelines.open import load_pipeline
from rats_jax.student import formats
from tests.tiny import change_json

WORD, ROW = "<cat-toy>", 1432


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """Add a word to the embedded pipeline, and a row of 7s for it to the text encoder."""
    folder = tmp_path_factory.mktemp("learned") / "pipeline"
    shutil.copytree(resolve_path("assets/emoji/pipeline"), folder)
    (folder / "tokenizer" / "added_tokens.json").write_text(json.dumps({WORD: ROW}))
    file = folder / "text_encoder" / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if name.endswith("token_embedding.weight"))
    table = weights[name]
    file.unlink()
    save_file(weights | {name: np.concatenate([table, np.full_like(table[:1], 7)])}, file)
    change_json(folder / "text_encoder" / "config.json", vocab_size=ROW + 1)
    return folder


def test_they_are_written_with_their_rows(learned, tmp_path):
    pipeline = load_pipeline(learned)
    assert pipeline.learned_words == (WORD,)
    pipeline.write(tmp_path, pipeline.network, timestep_spacing="", dtype=np.float32)
    written = load_pipeline(tmp_path)
    assert written.learned_words == (WORD,)
    found = [np.asarray(leaf) for leaf in tokens_of(written)]
    assert ROW in found[0][0]
    for ours, theirs in zip(tokens_of(pipeline), found, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    table = (
        written.text_encoder["text_encoder"]
        if "text_encoder" in written.text_encoder
        else written.text_encoder
    )
    assert (table["text_model"]["embeddings"]["token_embedding"]["embedding"][ROW] == 7).all()


def tokens_of(pipeline):
    return jax.tree.leaves(pipeline.tokenize([f"a {WORD} cat"]))


def test_an_export_that_lost_one_is_refused(learned, tmp_path, monkeypatch):
    pipeline = load_pipeline(learned)
    lost = load_pipeline("assets/emoji/pipeline")
    model = SimpleNamespace(pipeline=pipeline)
    assert formats._prompt(model).startswith(WORD + " ")
    monkeypatch.setattr(formats, "load", lambda folder, dtype: SimpleNamespace(pipeline=lost))
    with pytest.raises(ExportError, match=f"reads the learned word '{WORD}' otherwise; nothing is kept"):
        formats._read_diffusers(model, tmp_path)
