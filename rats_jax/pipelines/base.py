"""Stable Diffusion pipelines, 1.x, 2.x and XL: networks as pure functions, and where their weights are."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.errors import WeightsError
from rats_jax.pipelines import stable_diffusion as sd
from rats_jax.pipelines.published import PUBLISHED
from rats_jax.types import DecodeFn, DenoiseFn, EncodeFn, Params, PromptEmbeds, PromptInputs
from rats_jax.weights.folder import describe, read_json
from rats_jax.weights.hub import find_file, get_file
from rats_jax.weights.state_dict import open_weights
from rats_jax.weights.stored import read_all
from rats_jax.weights.tokenizers import load_tokenizer, once_per_prompt, tokenize

_CLASSES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
# PyTorch's names in the order of preference; Flax's own format last, as it can only be read whole.
_DIFFUSERS_WEIGHTS = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_flax_model.msgpack",
)
_TRANSFORMERS_WEIGHTS = ("model.safetensors", "model.fp16.safetensors", "flax_model.msgpack")
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True)
class Pipeline:
    """A text-to-image model as the trainer sees it.

    Attributes:
        denoise_fn: the UNet.
        encode_fn: the text encoders.
        decode_fn: latents to images.
        tokenize: B prompts -> what encode_fn reads, pytree of NumPy [B, ...], computed once per prompt.
        unet, text_encoder, decoder: weights, trees of float32 leaves: shapes alone, StoredArray or NumPy,
            after `describe_pipeline`, `open_pipeline` and `load_pipeline`.
        scheduler_config: the content of scheduler_config.json.
        latent_shape: (h, w, C) of one sample.
    """

    denoise_fn: DenoiseFn
    encode_fn: EncodeFn
    decode_fn: DecodeFn
    tokenize: Callable[[list[str]], PromptInputs]
    unet: Params
    text_encoder: Params
    decoder: Params
    scheduler_config: Mapping[str, Any]
    latent_shape: tuple[int, int, int]


@dataclass(frozen=True)
class _Networks:
    """What the config files of a pipeline say: linen modules, and the shapes of their weights, by folder."""

    modules: Mapping[str, Any]
    shapes: Mapping[str, Params]
    index: Mapping[str, Any]
    scheduler_config: Mapping[str, Any]
    scaling_factor: float


def describe_pipeline(path: str, *, dtype: Any = jnp.float32) -> Pipeline:
    """Learn all of a pipeline but its weights and words.

    Args:
        path: as for `open_pipeline`; of a model in PUBLISHED nothing is read.
        dtype: compute dtype of the networks.

    Returns:
        The pipeline, with jax.ShapeDtypeStruct for weights; its token ids have a shape and no meaning.

    Raises:
        WeightsError: it is no such folder.
    """
    networks = _build(path, dtype)
    lengths = {name: networks.modules[name].config.max_position_embeddings for name in _encoders(networks)}

    def tokenize_shape(name: str, prompts: list[str]) -> np.ndarray:
        return np.zeros((len(prompts), lengths[name]), np.int32)

    return _compose(
        networks, networks.shapes, {name: functools.partial(tokenize_shape, name) for name in lengths}
    )


def open_pipeline(path: str, *, dtype: Any = jnp.float32) -> Pipeline:
    """Find the weights of a diffusers pipeline and check that they fit, without reading them.

    Args:
        path: folder, `assets/...`, or hub id 'owner/name[@revision]', of a Stable Diffusion 1.x, 2.x or XL in
            the layout of diffusers. Weights are safetensors, or Flax msgpack where there are none.
        dtype: compute dtype of the networks; inputs, outputs and weights stay float32.

    Returns:
        The pipeline, with StoredArray for weights.

    Raises:
        WeightsError: it is no such folder, or weights are missing, extra or mis-shaped.
    """
    networks = _build(path, dtype)
    weights = _open_weights(path, networks)
    tokenizers = {}
    for name in _encoders(networks):
        folder = name.replace("text_encoder", "tokenizer")
        found = [find_file(path, f"{folder}/{file}") for file in TOKENIZER_FILES]
        for file, where in zip(TOKENIZER_FILES[:2], found, strict=False):
            if where is None:
                raise WeightsError(f"model {path!r} lacks '{folder}/{file}': expected a CLIP tokenizer")
        assert found[0] is not None
        tokenizer = load_tokenizer(found[0].parent, networks.modules[name].config)
        tokenizers[name] = functools.partial(tokenize, tokenizer)
    return _compose(networks, weights, tokenizers)


def network_weights(path: str) -> dict[str, Params]:
    """Find the weights of every network of a pipeline, whole, by folder; raises as `open_pipeline` does."""
    return _open_weights(path, _build(path, jnp.float32))


def load_pipeline(path: Any, *, dtype: Any = jnp.float32) -> Pipeline:
    """Open a pipeline and read its weights: `open_pipeline`, with NumPy arrays."""
    pipeline = open_pipeline(str(path), dtype=dtype)
    return dataclasses.replace(
        pipeline,
        unet=read_all(pipeline.unet),
        text_encoder=read_all(pipeline.text_encoder),
        decoder=read_all(pipeline.decoder),
    )


def _open_weights(path: str, networks: _Networks) -> dict[str, Params]:
    weights = {}
    for name, shapes in networks.shapes.items():
        files = _DIFFUSERS_WEIGHTS if name in ("unet", "vae") else _TRANSFORMERS_WEIGHTS
        weights[name] = open_weights(get_file(path, *(f"{name}/{file}" for file in files)), shapes)
    return weights


def _encoders(networks: _Networks) -> list[str]:
    return [name for name in networks.modules if name.startswith("text_encoder")]


def _build(path: str, dtype: Any) -> _Networks:
    """Build the networks that the config files describe."""

    def read(file: str) -> Mapping[str, Any]:
        return PUBLISHED[path][file] if path in PUBLISHED else read_json(get_file(path, file))

    index = read("model_index.json")
    kind = index.get("_class_name")
    if kind not in _CLASSES:
        raise WeightsError(f"{path!r} is a {kind!r} folder, expected {' or '.join(map(repr, _CLASSES))}")
    makers = {
        "unet": (sd.make_unet, sd.init_unet),
        "vae": (sd.make_vae, sd.init_vae),
        "text_encoder": (sd.make_text_encoder, sd.init_text_encoder),
    }
    if kind == "StableDiffusionXLPipeline":
        makers["text_encoder_2"] = (sd.make_pooling_text_encoder, sd.init_text_encoder)
    modules, shapes = {}, {}
    for name, (make, init) in makers.items():
        config = dict(read(f"{name}/config.json"))
        source = f"{path}/{name}/config.json"
        modules[name], shapes[name] = describe(source, functools.partial(make, config, dtype=dtype), init)
    if sd.is_xl(modules["unet"]) != ("text_encoder_2" in modules):
        raise WeightsError(f"{path!r} is a {kind!r} whose UNet is not conditioned as such a pipeline's is")
    scaling_factor = read("vae/config.json").get("scaling_factor", 0.18215)
    if not isinstance(scaling_factor, int | float) or scaling_factor <= 0:
        raise WeightsError(f"scaling_factor is {scaling_factor!r} in '{path}/vae', expected a number > 0")
    scheduler_config = read("scheduler/scheduler_config.json")
    return _Networks(modules, shapes, index, scheduler_config, scaling_factor)


def _compose(
    networks: _Networks,
    weights: Mapping[str, Params],
    tokenizers: Mapping[str, Callable[[list[str]], np.ndarray]],
) -> Pipeline:
    """Put functions and weights together; both text encoders of SDXL are one tree, by folder."""
    unet = networks.modules["unet"]
    tokenize_fn: Callable[[list[str]], PromptInputs]
    if len(tokenizers) == 1:
        (tokenize_fn,) = tokenizers.values()
        text_encoder = weights["text_encoder"]
        encode_fn = _make_encode_fn(networks, tokenize_fn([""]))
    else:
        text_encoder = {name: weights[name] for name in tokenizers}
        encode_fn = _make_encode_fn_xl(networks, {name: f([""]) for name, f in tokenizers.items()})

        def tokenize_both(prompts: list[str]) -> PromptInputs:
            return {name: f(prompts) for name, f in tokenizers.items()}

        tokenize_fn = tokenize_both

    return Pipeline(
        denoise_fn=sd.make_denoise_fn(unet),
        encode_fn=encode_fn,
        decode_fn=sd.make_decode_fn(networks.modules["vae"], scaling_factor=networks.scaling_factor),
        tokenize=once_per_prompt(tokenize_fn),
        unet=weights["unet"],
        text_encoder=text_encoder,
        # The update decodes and never encodes: the encoder's half stays where it is.
        decoder={k: v for k, v in weights["vae"].items() if k in ("decoder", "post_quant_conv")},
        scheduler_config=networks.scheduler_config,
        latent_shape=(unet.sample_size, unet.sample_size, unet.in_channels),
    )


def _make_encode_fn(networks: _Networks, uncond_ids: np.ndarray) -> EncodeFn:
    text_encoder = networks.modules["text_encoder"]

    def encode_fn(params: Params, prompt: PromptInputs) -> PromptEmbeds:
        cond = sd.encode_text(text_encoder, params, prompt)
        uncond = sd.encode_text(text_encoder, params, jnp.asarray(uncond_ids))
        return PromptEmbeds(cond, jnp.broadcast_to(uncond, cond.shape))

    return encode_fn


def _make_encode_fn_xl(networks: _Networks, uncond_ids: Mapping[str, np.ndarray]) -> EncodeFn:
    """Compose SDXL's two text encoders; where its index asks for it, no prompt is a row of zeros."""
    side = networks.modules["unet"].sample_size * 2 ** (len(networks.modules["vae"].block_out_channels) - 1)
    time_ids = np.array([side, side, 0, 0, side, side], np.float32)

    def encode(params: Params, ids: PromptInputs) -> sd.XLEmbeds:
        (first, _), (second, pooled) = (
            sd.encode_text_xl(networks.modules[name], params[name], ids[name])
            for name in ("text_encoder", "text_encoder_2")
        )
        assert pooled is not None, "the second encoder has a projection"
        rows = jnp.broadcast_to(jnp.asarray(time_ids), (pooled.shape[0], 6))
        return sd.XLEmbeds(jnp.concatenate([first, second], axis=-1), pooled, rows)

    def encode_fn(params: Params, prompt: PromptInputs) -> PromptEmbeds:
        cond = encode(params, prompt)
        if networks.index.get("force_zeros_for_empty_prompt", True):
            uncond = cond._replace(tokens=jnp.zeros_like(cond.tokens), pooled=jnp.zeros_like(cond.pooled))
        else:
            empty = encode(params, jax.tree.map(jnp.asarray, dict(uncond_ids)))
            uncond = jax.tree.map(lambda x, like: jnp.broadcast_to(x, like.shape), empty, cond)
        return PromptEmbeds(cond, uncond)

    return encode_fn
