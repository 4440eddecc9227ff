"""Prompt embeddings that were computed once and stored, in place of the text encoders."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.data.batches import filled_batches
from rats_jax.errors import ConfigError
from rats_jax.pipelines.base import Pipeline
from rats_jax.types import Params, PromptEmbeds, PromptInputs
from rats_jax.weights.stored import read_all

_BATCH = 16


def write_prompt_embeds(folder: Path, pipeline: Pipeline, prompts: Sequence[str], *, source: str) -> int:
    """Compute the embeddings of prompts and store them.

    Args:
        folder: gets prompts.json and, for each array of the embeddings, cond_I.npy [N, ...] and uncond_I.npy
            [1, ...], float16 if the text encoders compute in bfloat16, else float32.
        pipeline: from `open_pipeline`.
        prompts: texts; doubles are stored once.
        source: what the model is called in the config, to be found again.

    Returns:
        N, the number of different prompts.
    """
    texts = list(dict.fromkeys(prompts))
    params = jax.device_put(read_all(pipeline.text_encoder))
    encode = jax.jit(pipeline.encode_fn)
    folder.mkdir(parents=True, exist_ok=True)
    files: list[np.ndarray] = []
    for rows, kept in filled_batches(len(texts), _BATCH):
        embeds: PromptEmbeds = encode(params, pipeline.tokenize([texts[i] for i in rows]))
        if not files:
            for i, (x, empty) in enumerate(zip(*map(_leaves, embeds), strict=True)):
                files.append(_create(folder / f"cond_{i}.npy", len(texts), x))
                np.save(folder / f"uncond_{i}.npy", np.asarray(empty[:1]).astype(_stored_dtype(x.dtype)))
        for file, x in zip(files, _leaves(embeds.cond), strict=True):
            file[rows[kept]] = np.asarray(x)[kept].astype(file.dtype)
    (folder / "prompts.json").write_text(json.dumps({"pretrained": source, "prompts": texts}))
    return len(texts)


def with_stored_embeds(pipeline: Pipeline, folder: Path, *, source: str) -> Pipeline:
    """Read stored embeddings instead of running the text encoders.

    Args:
        pipeline: from `open_pipeline`.
        folder: from `write_prompt_embeds`.
        source: what the model is called in the config.

    Returns:
        A pipeline whose prompt inputs are embeddings, read from disk when they are wanted, and whose text
        encoder is those of no prompt.

    Raises:
        ConfigError: the folder is none, or of another model; later, a prompt that is not in it.
    """
    try:
        index = json.loads((folder / "prompts.json").read_text())
        count = len(list(folder.glob("cond_*.npy")))
        cond = [np.load(folder / f"cond_{i}.npy", mmap_mode="r") for i in range(count)]
        uncond = [np.load(folder / f"uncond_{i}.npy") for i in range(count)]
        rows = {hashlib.sha256(text.encode()).digest(): i for i, text in enumerate(index["prompts"])}
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"prompt_embeds={str(folder)!r}: expected a folder that rats_jax.embed wrote ({reason})"
        ) from None
    if index["pretrained"] != source:
        raise ConfigError(
            f"prompt_embeds={str(folder)!r}: expected embeddings of pretrained={source!r}, these are of "
            f"{index['pretrained']!r}"
        )

    def find(prompts: list[str]) -> PromptInputs:
        found = [rows.get(hashlib.sha256(prompt.encode()).digest()) for prompt in prompts]
        missing = [prompt for prompt, row in zip(prompts, found, strict=True) if row is None]
        if missing:
            raise ConfigError(f"prompt_embeds={str(folder)!r}: has no embedding of the prompt {missing[0]!r}")
        return jax.tree.unflatten(_structure(pipeline), [np.stack([x[row] for row in found]) for x in cond])

    return _replace_encoder(pipeline, find, jax.tree.unflatten(_structure(pipeline), uncond))


def with_abstract_embeds(pipeline: Pipeline) -> Pipeline:
    """Do what `with_stored_embeds` does with shapes alone, for `describe_pipeline`."""
    embeds = _abstract_embeds(pipeline)

    def find(prompts: list[str]) -> PromptInputs:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((len(prompts), *x.shape[1:]), x.dtype), embeds)

    return _replace_encoder(pipeline, find, embeds)


def _replace_encoder(pipeline: Pipeline, find: Callable[[list[str]], PromptInputs], uncond: Any) -> Pipeline:
    def encode_fn(params: Params, prompt: PromptInputs) -> PromptEmbeds:
        cond = jax.tree.map(lambda x, like: x.astype(like.dtype), prompt, params)
        return PromptEmbeds(cond, jax.tree.map(lambda x, like: jnp.broadcast_to(x, like.shape), params, cond))

    return dataclasses.replace(pipeline, encode_fn=encode_fn, tokenize=find, text_encoder=uncond)


def _abstract_embeds(pipeline: Pipeline) -> Any:
    text_encoder = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), pipeline.text_encoder)
    return jax.eval_shape(pipeline.encode_fn, text_encoder, pipeline.tokenize([""])).cond


def _structure(pipeline: Pipeline) -> Any:
    return jax.tree.structure(_abstract_embeds(pipeline))


def _leaves(tree: Any) -> list[Any]:
    return jax.tree.leaves(tree)


def _stored_dtype(dtype: Any) -> Any:
    # NumPy's files know no bfloat16; float16 holds embeddings more exactly than it.
    return np.float16 if dtype == jnp.bfloat16 else np.float32


def _create(file: Path, count: int, like: Any) -> np.ndarray:
    shape = (count, *like.shape[1:])
    return np.lib.format.open_memmap(file, mode="w+", dtype=_stored_dtype(like.dtype), shape=shape)
