"""Pipeline: all that the rest of the package knows of a text-to-image model, whatever its family."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from rats_jax.diffusion.grid import make_grid
from rats_jax.diffusion.scheduler_config import as_ddim
from rats_jax.errors import WeightsError
from rats_jax.types import Array, DecodeFn, DenoiseFn, EncodeFn, Grid, Params, PromptInputs

TokenizeFn = Callable[[list[str]], PromptInputs]
"""B prompts -> what `encode_fn` reads, pytree of NumPy [B, ...]."""
GuidedFn = Callable[[Array | float], DenoiseFn]
"""guidance scale, a number or traced -> the network with guidance, which reads PromptEmbeds."""


class WriteFn(Protocol):
    """Write the pipeline with other weights of its network, so that PyTorch diffusers opens the folder."""

    def __call__(self, folder: Path, network: Params, *, timestep_spacing: str, dtype: Any) -> None: ...


class WriteFlaxFn(Protocol):
    """Write the pipeline with other weights of its network, so that Flax diffusers opens the folder."""

    def __call__(
        self, folder: Path, network: Params, *, num_steps: int, timestep_spacing: str, dtype: Any
    ) -> None: ...


@dataclass(frozen=True)
class Pipeline:
    """A text-to-image model as pure functions, and where its weights are.

    Attributes:
        tokenize: prompts as arrays, computed once per prompt.
        encode_fn: the text encoders.
        decode_fn: latents to images [B, H, W, 3].
        guided_fn: the network with the guidance of its family; at a scale of exactly 1 there is none.
        evaluations: guidance scale -> network evaluations of a step.
        grid_fn: (number of steps, timestep spacing or "" for the pipeline's own) -> Grid; raises ValueError.
        prediction_type: 'epsilon', 'v_prediction', 'sample' or 'flow'.
        network, text_encoder, decoder: weights, trees of float32 leaves: shapes alone, StoredArray or NumPy,
            after `describe_pipeline`, `open_pipeline` and `load_pipeline`.
        latent_shape: (h, w, C) of one sample.
        write: of the export.
        write_flax: of the export in the last Flax release of diffusers; None where it had no such pipeline.
        network_name: the folder of the network, and what its adapters are called after.
    """

    tokenize: TokenizeFn
    encode_fn: EncodeFn
    decode_fn: DecodeFn
    guided_fn: GuidedFn
    evaluations: Callable[[float], int]
    grid_fn: Callable[[int, str], Grid]
    prediction_type: str
    network: Params
    text_encoder: Params
    decoder: Params
    latent_shape: tuple[int, ...]
    write: WriteFn
    write_flax: WriteFlaxFn | None
    network_name: str

    def image_shape(self) -> tuple[int, ...]:
        """Give (H, W, 3) of its pictures, computing nothing."""
        latents = jax.ShapeDtypeStruct((1, *self.latent_shape), np.float32)
        decoder = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self.decoder)
        return jax.eval_shape(self.decode_fn, decoder, latents).shape[1:]


@dataclass(frozen=True)
class Parts:
    """What the folder of a pipeline holds, for its family to put together.

    Attributes:
        source: folder or hub id.
        index: content of model_index.json.
        networks: linen modules by folder.
        weights: of each network.
        tokenize: by text encoder: prompts -> token ids [B, L] int32.
        scheduler_config: content of scheduler_config.json.
    """

    source: str
    index: Mapping[str, Any]
    networks: Mapping[str, Any]
    weights: Mapping[str, Params]
    tokenize: Mapping[str, Callable[[list[str]], np.ndarray]]
    scheduler_config: Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """A kind of pipeline.

    Attributes:
        networks: by folder, the class of each network: `from_config(config, *, dtype, kernels)` and
            `abstract_params()`.
        compose: parts -> Pipeline.
    """

    networks: Mapping[str, Any]
    compose: Callable[[Parts], Pipeline]


def make_diffusion_grid_fn(parts: Parts) -> Callable[[int, str], Grid]:
    """Compose `Pipeline.grid_fn` of a diffusion whose scheduler_config.json says where its timesteps lie."""

    def grid_fn(num_steps: int, timestep_spacing: str) -> Grid:
        config = parts.scheduler_config
        if timestep_spacing:
            config = as_ddim(config, timestep_spacing=timestep_spacing)
        return make_grid(config, num_steps)

    return grid_fn


def read_field(parts: Parts, file: str, read: Callable[..., Any], *arguments: Any) -> Any:
    """Read something of a config file; what it refuses names the file.

    Raises:
        WeightsError: in place of its ValueError.
    """
    return naming_file(f"{parts.source}/{file}", functools.partial(read, *arguments))


def naming_file(file: str, read: Callable[[], Any]) -> Any:
    """Run what reads a config file, and name the file in its ValueError.

    Raises:
        WeightsError: "'file': field=value: expected ...".
    """
    try:
        return read()
    except ValueError as error:
        raise WeightsError(f"{file!r}: {error}") from None
