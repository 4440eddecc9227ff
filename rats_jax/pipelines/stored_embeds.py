"""Prompt embeddings that were computed once and stored, in place of the text encoders."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.data.batches import filled_batches
from rats_jax.errors import ConfigError, expect, reason_of
from rats_jax.pipelines.base import Pipeline
from rats_jax.progress import tracked
from rats_jax.texts import parse_whole_json, read_text
from rats_jax.types import Params, PromptEmbeds, PromptInputs
from rats_jax.weights.stored import is_finite

_BATCH = 16


def write_prompt_embeds(
    folder: Path, pipeline: Pipeline, prompts: Sequence[str], *, source: str, dtype: Any = jnp.float32
) -> int:
    """Compute the embeddings of prompts and store them.

    Args:
        folder: gets prompts.json and, for each array of the embeddings, cond_I.npy [N, ...] and uncond_I.npy
            [1, ...] of the negative prompt, which a model without guidance away from one has none of;
            float32, or, if the text encoders compute in bfloat16, its bits as uint16.
        pipeline: from `open_pipeline`.
        prompts: texts; doubles are stored once.
        source: what the model is called in the config, to be found again.
        dtype: that the weights of the text encoders are kept in.

    Returns:
        N, the number of different prompts.

    Raises:
        ConfigError: an embedding is not finite.
    """
    texts = list(dict.fromkeys(prompts))
    params = jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf.astype(dtype))), pipeline.text_encoder)
    encode = jax.jit(pipeline.encode_fn)
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as opened:
        files: list[BinaryIO] = []
        batches = list(filled_batches(len(texts), _BATCH))
        for rows, kept in tracked(batches, title="embedding", unit="batch", leave=False):
            embeds: PromptEmbeds = encode(params, pipeline.tokenize([texts[i] for i in rows]))
            _check_finite(_leaves(embeds.cond), [texts[i] for i in rows], "prompts")
            _check_finite([x[:1] for x in _leaves(embeds.uncond)], [""], "prompts")
            if not files:
                for i, x in enumerate(_leaves(embeds.cond)):
                    files.append(opened.enter_context((folder / f"cond_{i}.npy").open("wb")))
                    _write_header(files[-1], len(texts), _as_stored(x))
                for i, empty in enumerate(_leaves(embeds.uncond)):
                    np.save(folder / f"uncond_{i}.npy", _as_stored(empty[:1]))
            for file, x in zip(files, _leaves(embeds.cond), strict=True):
                file.write(_as_stored(x)[kept].tobytes())  # the rows of a batch follow those of the last
    index = {"pretrained": source, "negative_prompt": pipeline.negative_prompt, "prompts": texts}
    (folder / "prompts.json").write_text(json.dumps(index))
    return len(texts)


def count_bytes(pipeline: Pipeline, prompts: Sequence[str], *, dtype: Any) -> int:
    """Say how many bytes `write_prompt_embeds` will store with weights of a dtype, computing nothing."""
    rows = _leaves(_abstract_embeds(pipeline, dtype).cond)
    return len(dict.fromkeys(prompts)) * sum(x.size * _as_stored(np.zeros(0, x.dtype)).itemsize for x in rows)


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
        ConfigError: the folder is none, damaged, or of another model; later, a prompt that is not in it, or
            whose embedding is not finite.
    """
    abstract = _abstract_embeds(pipeline)
    try:
        pretrained, negative, texts = _read_index(folder / "prompts.json")
        cond = [_read(file, rows=len(texts)) for file in _files(folder, "cond")]
        uncond = [_read(file, rows=1) for file in _files(folder, "uncond")]
        _check_finite(uncond, [""], f"prompt_embeds={str(folder)!r}: prompt")
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        raise _not_ours(folder, error) from None
    if pretrained != source:
        raise ConfigError(
            f"prompt_embeds={str(folder)!r}: expected embeddings of pretrained={source!r}, these are of "
            f"{pretrained!r}"
        )
    rows = {hashlib.sha256(text.encode()).digest(): i for i, text in enumerate(texts)}
    if negative != pipeline.negative_prompt:
        raise ConfigError(
            f"prompt_embeds={str(folder)!r}: expected embeddings with negative_prompt="
            f"{pipeline.negative_prompt!r}, these are with {negative!r}"
        )
    for what, stored, wanted in (("cond", cond, abstract.cond), ("uncond", uncond, abstract.uncond)):
        found, expected = [x.shape[1:] for x in stored], [x.shape[1:] for x in _leaves(wanted)]
        if found != expected:
            raise ConfigError(
                f"prompt_embeds={str(folder)!r}: expected {what} of shapes {expected}, these are {found} (of "
                "another max_sequence_length, or another model)"
            )

    def find(prompts: list[str]) -> PromptInputs:
        found = [rows.get(hashlib.sha256(prompt.encode()).digest()) for prompt in prompts]
        missing = [prompt for prompt, row in zip(prompts, found, strict=True) if row is None]
        if missing:
            raise ConfigError(f"prompt_embeds={str(folder)!r}: has no embedding of the prompt {missing[0]!r}")
        leaves = [np.stack([x[row] for row in found]) for x in cond]
        _check_finite(leaves, prompts, f"prompt_embeds={str(folder)!r}: prompt")
        return jax.tree.unflatten(jax.tree.structure(abstract.cond), leaves)

    empty = jax.tree.unflatten(jax.tree.structure(abstract.uncond), uncond)
    return _replace_encoder(pipeline, find, empty, abstract)


def expect_stored(folder: Path, prompts: Iterable[str]) -> None:
    """Check, before the work, that a folder has an embedding of every prompt; none is read.

    Raises:
        ConfigError: the folder is none, or lacks one; names the first.
    """
    try:
        stored = set(_read_index(folder / "prompts.json").texts)
    except (OSError, ValueError) as error:
        raise _not_ours(folder, error) from None
    missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in stored]
    if missing:
        raise ConfigError(
            f"prompt_embeds={str(folder)!r}: expected an embedding of every prompt, it has none of "
            f"{missing[0]!r}{f' and {len(missing) - 1} more' if missing[1:] else ''}"
        )


def with_abstract_embeds(pipeline: Pipeline) -> Pipeline:
    """Do what `with_stored_embeds` does with shapes alone, for `describe_pipeline`."""
    embeds = _abstract_embeds(pipeline)

    def find(prompts: list[str]) -> PromptInputs:
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((len(prompts), *x.shape[1:]), x.dtype), embeds.cond
        )

    return _replace_encoder(pipeline, find, embeds.uncond, embeds)


def _replace_encoder(
    pipeline: Pipeline, find: Callable[[list[str]], PromptInputs], empty: Any, abstract: PromptEmbeds
) -> Pipeline:
    """Let prompt inputs be embeddings, and the weights of the text encoder those of no prompt."""

    def encode_fn(params: Params, prompt: PromptInputs) -> PromptEmbeds:
        batch = _leaves(prompt)[0].shape[0]
        cond = jax.tree.map(lambda x, like: x.astype(like.dtype), prompt, abstract.cond)
        uncond = jax.tree.map(
            lambda x, like: jnp.broadcast_to(x.astype(like.dtype), (batch, *like.shape[1:])),
            params,
            abstract.uncond,
        )
        return PromptEmbeds(cond, uncond)

    return dataclasses.replace(pipeline, encode_fn=encode_fn, tokenize=find, text_encoder=empty)


def _abstract_embeds(pipeline: Pipeline, dtype: Any = None) -> PromptEmbeds:
    text_encoder = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, dtype or x.dtype), pipeline.text_encoder
    )
    return jax.eval_shape(pipeline.encode_fn, text_encoder, pipeline.tokenize([""]))


def _not_ours(folder: Path, error: Exception) -> ConfigError:
    return ConfigError(
        f"prompt_embeds={str(folder)!r}: expected a folder that rats_jax.embed wrote ({reason_of(error)})"
    )


def _leaves(tree: Any) -> list[Any]:
    return jax.tree.leaves(tree)


def _files(folder: Path, name: str) -> list[Path]:
    return [folder / f"{name}_{i}.npy" for i in range(len(list(folder.glob(f"{name}_*.npy"))))]


def _as_stored(x: Any) -> np.ndarray:
    """Give the numbers as they are stored: NumPy's files know no bfloat16, and float16 ends below T5's."""
    x = np.asarray(x)
    return x.view(np.uint16) if x.dtype == jnp.bfloat16 else x.astype(np.float32)


class _Index(NamedTuple):
    """What the model was called, the negative prompt, and the prompts of the rows."""

    pretrained: Any
    negative: Any
    texts: list[str]


def _read_index(file: Path) -> _Index:
    """Read prompts.json.

    Those of before name no negative prompt: it was the empty one. OSError or ValueError where there are no
    prompts.
    """
    index = parse_whole_json(read_text(file))
    texts = index.get("prompts") if isinstance(index, dict) else None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{file.name}: expected a list of texts as prompts")
    return _Index(index.get("pretrained"), index.get("negative_prompt", ""), texts)


def _read(file: Path, *, rows: int) -> np.ndarray:
    """Map a file of embeddings; those of before have float16. OSError or ValueError where it holds others."""
    x = np.lib.format.open_memmap(file, mode="r")
    if x.dtype not in (np.float32, np.float16, np.uint16) or x.shape[:1] != (rows,):
        found = f"{x.dtype} of {x.shape[:1]} rows"
        raise ValueError(f"{file.name}: expected floating point numbers of {rows} rows, found {found}")
    return x.view(jnp.bfloat16) if x.dtype == np.uint16 else x


def _write_header(file: BinaryIO, count: int, like: np.ndarray) -> None:
    """Begin a .npy file. It is not mapped: a full disk would end the process with a bus error."""
    header = {"descr": like.dtype.str, "fortran_order": False, "shape": (count, *like.shape[1:])}
    np.lib.format.write_array_header_1_0(file, header)


def _check_finite(leaves: Sequence[Any], prompts: Sequence[str], field: str) -> None:
    """Refuse embeddings [B, ...] of B prompts with numbers that are not finite; names a prompt."""
    for x in map(np.asarray, leaves):
        for row, prompt in zip(x, prompts, strict=True):
            expect(is_finite(row), field, prompt, "a finite embedding, it has nan or infinity")
