"""Pipeline: all that the rest of the package knows of a model of pictures or videos, whatever its family."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.diffusion.grid import make_grid
from rats_jax.diffusion.scheduler_config import as_ddim
from rats_jax.errors import WeightsError, expect
from rats_jax.fields import MOST_PIXELS
from rats_jax.networks.autoencoder_kl import AutoencoderKL
from rats_jax.types import Array, DecodeFn, DenoiseFn, EncodeFn, Grid, Params, PromptInputs
from rats_jax.weights.folder import naming_file

SCHEDULER_FILE = "scheduler/scheduler_config.json"

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
    """A model of pictures or videos of prompts as pure functions, and where its weights are.

    Attributes:
        tokenize: prompts as arrays, computed once per prompt.
        encode_fn: the text encoders.
        decode_fn: latents to images [B, H, W, 3] or videos [B, T, H, W, 3], of which a training may decode
            the first frames alone.
        guided_fn: the network with the guidance of its family: classifier-free, where at a scale of exactly 1
            there is none, or embedded, where the network is told the scale.
        evaluations: guidance scale -> network evaluations of a step; ValueError for a scale that the family
            does not have.
        grid_fn: (number of steps, timestep spacing or "" for the pipeline's own) -> Grid; raises ValueError.
        prediction_type: 'epsilon', 'v_prediction', 'sample' or 'flow'.
        network, text_encoder, decoder: weights, trees of float32 leaves: shapes alone, StoredArray or NumPy,
            after `describe_pipeline`, `open_pipeline` and `load_pipeline`.
        latent_shape: (h, w, C) of one sample, (t, h, w, C) of a video.
        write: of the export.
        write_flax: of the export in the last Flax release of diffusers; None where it had no such pipeline.
        network_name: the folder of the network, and what its adapters are called after.
        num_steps, guidance_scale: that it is sampled with where nobody says anything else.
        write_scheduler: (folder, *, timestep_spacing) writes the scheduler that a student is sampled with;
            None where it is that of the pipeline.
        exports_own_spacing: whether the timesteps of `grid_fn` without a spacing can be those of an export.
        has_constants: whether its network's weights hold constants, which no gradient moves.
        learned_words: that were added to the vocabularies of its tokenizers.
        negative_prompt: that guidance leads away from.
        decode_whole_fn: latents to whole videos; None where `decode_fn` gives no less.
        native_name: PyTorch name of a layer of its network -> the name that its makers gave it; None where
            ComfyUI reads the adapters of diffusers.
        float32_weights: regular expression, searched in the path of a weight of its network: those that are
            kept in float32 whatever the others are kept in; '' is none.
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
    num_steps: int = 50
    guidance_scale: float = 7.5
    write_scheduler: Callable[..., None] | None = None
    exports_own_spacing: bool = True
    has_constants: bool = False
    learned_words: tuple[str, ...] = ()
    negative_prompt: str = ""
    decode_whole_fn: DecodeFn | None = None
    native_name: Callable[[str], str] | None = None
    float32_weights: str = ""

    def expect_pictures(self, field: str, value: str) -> None:
        """Refuse a model of videos where only pictures are known.

        Raises:
            ConfigError: names the field that chose this model, and its value.
        """
        expect(not makes_videos(self), field, value, "a model of pictures: this one makes videos")

    def network_dtypes(self, dtype: Any) -> Params:
        """Give the dtype of each weight of its network where they are kept in `dtype`."""

        def choose(path: Any, _: Any) -> Any:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            kept = self.float32_weights and re.search(self.float32_weights, name)
            return np.dtype(np.float32) if kept else np.dtype(dtype)

        return jax.tree_util.tree_map_with_path(choose, self.network)

    def image_shape(self) -> tuple[int, ...]:
        """Give (H, W, 3) of its pictures or (T, H, W, 3) of its videos, computing nothing."""
        latents = jax.ShapeDtypeStruct((1, *self.latent_shape), np.float32)
        decoder = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self.decoder)
        return jax.eval_shape(self.decode_fn, decoder, latents).shape[1:]


@dataclass(frozen=True)
class Options:
    """What may be chosen of a pipeline before it is opened; 0 or '' leaves it as its family has it.

    Attributes:
        height, width: of its pictures, pixels.
        max_sequence_length: tokens of a prompt that a T5 encoder reads.
        num_frames: of its videos.
        flow_shift: of its noise levels, in place of the scheduler's.
        negative_prompt: that guidance leads away from.
        num_decoded_latents: of a video, those from the first on that are decoded; 0 is all.
    """

    height: int = 0
    width: int = 0
    max_sequence_length: int = 0
    num_frames: int = 0
    flow_shift: float = 0.0
    negative_prompt: str = ""
    num_decoded_latents: int = 0


OWN = Options()
"""Nothing is chosen."""
OPTIONS = tuple(field.name for field in fields(Options))
"""What may be chosen, by the names of config fields."""
VIDEO_OPTIONS = ("num_frames", "flow_shift", "negative_prompt", "num_decoded_latents")
"""Those that a family names if it has them, and that are refused otherwise."""


@dataclass(frozen=True)
class Parts:
    """What the folder of a pipeline holds, for its family to put together.

    Attributes:
        source: folder or hub id.
        index: content of model_index.json.
        networks: linen modules by folder; one that a family can do without may be absent.
        weights: of each network.
        tokenize: by text encoder: prompts -> token ids [B, L] int32.
        scheduler_config: content of scheduler_config.json.
        options: what was chosen.
    """

    source: str
    index: Mapping[str, Any]
    networks: Mapping[str, Any]
    weights: Mapping[str, Params]
    tokenize: Mapping[str, Callable[[list[str]], np.ndarray]]
    scheduler_config: Mapping[str, Any]
    options: Options = OWN

    def latent_size(self, own: tuple[int, int], downscale: int, *, multiple: int) -> tuple[int, int]:
        """Give height and width of the latents: the family's own, or of the picture that was chosen.

        Args:
            own: of the latents.
            downscale: pixels for each of them.
            multiple: which height and width of a picture must be of, pixels.

        Raises:
            ConfigError: a picture that is no multiple, or larger than MOST_PIXELS.
        """
        chosen = []
        for field, size in zip(("height", "width"), own, strict=True):
            pixels = getattr(self.options, field) or size * downscale
            fits = pixels % multiple == 0 and pixels <= MOST_PIXELS
            expected = f"a multiple of {multiple} up to {MOST_PIXELS}, or 0 for the model's own"
            expect(fits, field, pixels, expected)
            chosen.append(pixels // downscale)
        return chosen[0], chosen[1]


@dataclass(frozen=True)
class Family:
    """A kind of pipeline.

    Attributes:
        networks: by folder, the class of each network: `from_config(config, *, dtype, kernels)` and
            `abstract_params()`.
        compose: parts -> Pipeline.
        optional: folders that the index may leave out, as [null, null].
        options: of VIDEO_OPTIONS, those that it has.
        max_sequence_length: networks -> tokens of a prompt that a T5 encoder of the family reads by itself.
        repair: (file, content) -> content, as PyTorch's pipeline mends config files of old.
    """

    networks: Mapping[str, Any]
    compose: Callable[[Parts], Pipeline]
    optional: frozenset[str] = frozenset()
    options: tuple[str, ...] = ()
    max_sequence_length: Callable[[Mapping[str, Any]], int] = lambda networks: 0
    repair: Callable[[str, Mapping[str, Any]], Mapping[str, Any]] = lambda file, config: config


def make_diffusion_grid_fn(parts: Parts) -> Callable[[int, str], Grid]:
    """Compose `Pipeline.grid_fn` of a diffusion whose scheduler_config.json says where its timesteps lie."""

    def grid_fn(num_steps: int, timestep_spacing: str) -> Grid:
        config = parts.scheduler_config
        if timestep_spacing:
            config = as_ddim(config, timestep_spacing=timestep_spacing)
        return make_grid(config, num_steps)

    return grid_fn


def make_decode_fn(vae: AutoencoderKL) -> DecodeFn:
    """Wrap a decoder as a DecodeFn of scaled latents, the ones that the diffusion model knows."""

    def decode_fn(params: Params, latents: Array) -> Array:
        unscaled = latents / vae.scaling_factor + (vae.shift_factor or 0.0)
        images: Any = vae.apply({"params": params}, unscaled, method=vae.decode)
        return (images.astype(jnp.float32) + 1.0) / 2.0

    return decode_fn


def decoder_of(weights: Params) -> Params:
    """Give the decoder's part of an autoencoder; nothing here encodes, so the rest stays in its file."""
    return {name: weights[name] for name in ("decoder", "post_quant_conv") if name in weights}


def make_flow_grid_fn(parts: Parts, num_tokens: int) -> Callable[[int, str], Grid]:
    """Compose `Pipeline.grid_fn` of a flow, whose levels are those of its shift whatever its scheduler is."""

    def grid_fn(num_steps: int, timestep_spacing: str) -> Grid:
        if timestep_spacing:
            raise ValueError(f"timestep_spacing is {timestep_spacing!r}, expected '': a flow has none")
        return make_grid(parts.scheduler_config, num_steps, num_tokens=num_tokens)

    return grid_fn


def makes_videos(pipeline: Pipeline) -> bool:
    """Tell a model of videos from one of pictures."""
    return len(pipeline.latent_shape) == 4


def check_fit(parts: Parts, name: str, expected: Mapping[str, tuple[Any, str]]) -> None:
    """Refuse a network that other parts would have to be made for.

    Args:
        parts: of the pipeline.
        name: folder of the network.
        expected: by field of the network, its value and the part that it is of.

    Raises:
        WeightsError: names file, field and value.
    """
    for field, (value, part) in expected.items():
        found = getattr(parts.networks[name], field)
        if found != value:
            raise WeightsError(
                f"'{parts.source}/{name}/config.json': {field}={found!r}: expected {value} of {part}"
            )


def with_named_scheduler(config: Mapping[str, Any], index: Mapping[str, Any]) -> dict[str, Any]:
    """Give a scheduler_config.json the class that model_index.json names, which PyTorch makes.

    Flax's classes, which the index of a Flax folder names, are left to what the file says.
    """
    _, name = index.get("scheduler") or (None, None)
    return {**config, "_class_name": name} if name and not name.startswith("Flax") else dict(config)


def read_field(parts: Parts, file: str, read: Callable[..., Any], *arguments: Any) -> Any:
    """Read something of a config file; what it refuses names the file.

    Raises:
        WeightsError: in place of its ValueError.
    """
    return naming_file(f"{parts.source}/{file}", functools.partial(read, *arguments))
