"""PyTorch's pipeline on the inputs of a verification: the one part of this package that runs torch.

Packages are imported when they are needed. The text encoders are loaded, run and dropped before network and
autoencoder are loaded.
"""

from __future__ import annotations

import gc
import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np

from rats_jax.errors import ConfigError, expect, reason_of
from rats_jax.types import PromptEmbeds
from rats_jax.verification.inputs import NUM_STEPS, PROMPTS, Inputs, NotifyFn, Outputs, first_row
from rats_jax.verification.originals import ORIGINALS, Section
from rats_jax.verification.pretrained import place_of, variant_of
from rats_jax.weights.find import find_weights
from rats_jax.weights.folder import read_json
from rats_jax.weights.hub import get_file

PACKAGES = ("torch", "diffusers", "transformers")
_ENCODERS, _NETWORKS = r"text_encoder(_\d)?|tokenizer(_\d)?", "unet|transformer|vae"


def import_packages(device: str) -> dict[str, str]:
    """Import what PyTorch's side needs, quietly.

    Args:
        device: that it will run on, 'cpu' or 'cuda'.

    Returns:
        The version of each package.

    Raises:
        ConfigError: one is missing or broken, or PyTorch has no such device.
    """
    versions = {}
    for name in PACKAGES:
        try:
            module = importlib.import_module(name)
        except Exception as error:  # a broken build raises whatever it likes
            raise ConfigError(
                f"the package {name!r} cannot be imported ({reason_of(error)}): PyTorch's side needs "
                f"{', '.join(PACKAGES)}; pip install 'rats_jax[verify]'"
            ) from None
        versions[name] = module.__version__
    import diffusers
    import torch
    import transformers

    for package in (diffusers, transformers):
        package.utils.logging.set_verbosity_error()
        package.utils.logging.disable_progress_bar()
    expect(device != "cuda" or torch.cuda.is_available(), "device", device, "'cpu': PyTorch sees no GPU")
    # Convolutions of float32 are rounded to fewer bits otherwise, as products are not.
    torch.backends.cudnn.allow_tf32 = False
    return versions


@dataclass(frozen=True)
class Source:
    """A pipeline that PyTorch opens.

    Attributes:
        path: folder or hub id, as it was given.
        index: content of its model_index.json.
        dtype: 'float32' or 'bfloat16', of weights and computation.
        device: 'cpu' or 'cuda'.
    """

    path: str
    index: Mapping[str, Any]
    dtype: str
    device: str


def open_source(path: str, *, dtype: str, device: str) -> Source:
    """Read what a pipeline consists of; arguments as the attributes of `Source`."""
    return Source(path, read_json(get_file(path, "model_index.json")), dtype, device)


def run_pipeline(source: Source, inputs: Inputs, *, notify: NotifyFn) -> tuple[Outputs, list[Section]]:
    """Compute all that is compared.

    Args:
        source: the pipeline.
        inputs: for both sides.
        notify: is told each part.

    Returns:
        The outputs, and which parts of the embeddings belong to which text encoder.

    Raises:
        ConfigError: PyTorch does not open the pipeline, or does not run it.
    """
    import torch

    with torch.inference_mode():
        notify("text encoders of PyTorch")
        embeds, sections = _run(source, "text encoders", lambda: _encode(source, inputs))
        _free(source)
        notify("network and decoder of PyTorch")
        denoised = _run(source, "network and decoder", lambda: _denoise(source, inputs, embeds))
        levels, decoded, images = denoised
        _free(source)
    return Outputs(_to_numpy(embeds), levels, decoded, images), sections


def _encode(source: Source, inputs: Inputs) -> tuple[PromptEmbeds, list[Section]]:
    original, pipeline = ORIGINALS[source.index["_class_name"]], _assemble(source, _ENCODERS)
    if "transformer" in source.index:  # without T5, SD3's pipeline asks it how wide zeros are
        config = read_json(get_file(source.path, "transformer/config.json"))
        pipeline.transformer = SimpleNamespace(config=SimpleNamespace(**config))
    embeds = original.encode(pipeline, list(PROMPTS), inputs)
    sections = original.sections(pipeline)
    return embeds, sections


def _denoise(
    source: Source, inputs: Inputs, embeds: PromptEmbeds
) -> tuple[tuple[np.ndarray, ...], np.ndarray, np.ndarray]:
    import torch

    original, pipeline = ORIGINALS[source.index["_class_name"]], _assemble(source, _NETWORKS)
    options = {"device": source.device, "dtype": getattr(torch, source.dtype)}
    latents, row = _to_torch(inputs.latents, **options), first_row(embeds)
    levels = []
    for timestep in inputs.timesteps:
        told = torch.tensor([timestep], device=source.device, dtype=torch.float32 if inputs.flow else None)
        output = original.evaluate(pipeline, latents, told, row.cond, inputs.guidance_scale)
        levels.append(_to_channels_last(output))
    decoded = original.decode(pipeline, _to_torch(inputs.decoded, **options))
    pipeline.scheduler = _make_scheduler(pipeline.scheduler, inputs)
    arguments = original.arguments(pipeline, latents, row, inputs)
    if inputs.flow:
        arguments |= _choose_levels(pipeline)
    images = pipeline(
        num_inference_steps=NUM_STEPS,
        guidance_scale=inputs.guidance_scale,
        output_type="np",
        return_dict=False,
        **arguments,
    )[0]
    return tuple(levels), _to_channels_last(decoded) / 2 + 0.5, np.asarray(images, np.float32)


def _make_scheduler(own: Any, inputs: Inputs) -> Any:
    """Make the scheduler of a deterministic sample of first order, which a solver may stand in place of."""
    import diffusers

    classes: Any = diffusers  # which it finds when they are asked for
    if not inputs.flow:
        changes: dict[str, Any] = {"clip_sample": False}
        changes |= {"timestep_spacing": inputs.timestep_spacing} if inputs.timestep_spacing else {}
        return classes.DDIMScheduler.from_config(own.config, **changes)
    if isinstance(own, classes.FlowMatchEulerDiscreteScheduler):
        return own
    config = own.config
    return classes.FlowMatchEulerDiscreteScheduler(config.num_train_timesteps, shift=config.flow_shift)


def _choose_levels(pipeline: Any) -> dict[str, Any]:
    """Let the steps of a flow begin at 1, ..., 1 / S before its shift; gives the argument of its call."""
    sigmas = np.linspace(1.0, 1.0 / NUM_STEPS, NUM_STEPS)
    if "sigmas" in inspect.signature(pipeline.__call__).parameters:
        return {"sigmas": sigmas}
    set_timesteps = pipeline.scheduler.set_timesteps
    pipeline.scheduler.set_timesteps = lambda *_, device=None: set_timesteps(sigmas=sigmas, device=device)
    return {}


def _assemble(source: Source, parts: str) -> Any:
    """Build PyTorch's pipeline of the parts whose names match, and its scheduler."""
    import diffusers

    index = source.index
    kind = getattr(diffusers, index["_class_name"].removeprefix("Flax"))
    known = inspect.signature(kind.__init__).parameters
    components: dict[str, Any] = {name: None for name, p in known.items() if p.default is p.empty}
    components = {name: None for name in components if name not in ("self", "args", "kwargs")}
    # A watermark would be drawn into the pictures of SDXL.
    fixed = {"requires_safety_checker": False, "add_watermarker": False}
    components |= {name: value for name, value in fixed.items() if name in known}
    for name, value in index.items():
        if not isinstance(value, list):
            components |= {name: value} if name in known and name not in fixed else {}
        elif any(value) and (name == "scheduler" or re.fullmatch(parts, name)):
            components[name] = _open_component(source, name, *value)
    pipeline = _run(source, "model_index.json", lambda: kind(**components))
    # The pipelines of Stable Diffusion 1.x change what its file says.
    pipeline.scheduler = _open_component(source, "scheduler", *index["scheduler"])
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(source.device)


def _open_component(source: Source, name: str, library: str, class_name: str) -> Any:
    """Open a part of a pipeline: a network with its weights, a tokenizer, a scheduler."""
    import torch

    place, options = place_of(source.path)
    options |= {"subfolder": name}
    if re.fullmatch(rf"{_NETWORKS}|text_encoder(_\d)?", name):
        file = find_weights(source.path, name, transformers=name.startswith("text_encoder")).name
        expect(not file.endswith(".msgpack"), "model", source.path, f"PyTorch's weights; {name!r} has Flax's")
        options |= {"torch_dtype": getattr(torch, source.dtype), **variant_of(file)}
    kind = getattr(importlib.import_module(library), class_name.removeprefix("Flax"))
    return _run(source, name, lambda: kind.from_pretrained(place, **options))


def _run(source: Source, part: str, work: Callable[[], Any]) -> Any:
    """Let PyTorch's packages work; what they raise is one line."""
    try:
        return work()
    except ConfigError:
        raise
    except Exception as error:  # whatever another package raises
        raise ConfigError(
            f"model={source.path!r}: expected a pipeline that PyTorch opens and runs, its {part!r} fails "
            f"({type(error).__name__}: {reason_of(error)})"
        ) from None


def _free(source: Source) -> None:
    """Give the memory of what is no longer named back."""
    import torch

    gc.collect()
    if source.device == "cuda":
        torch.cuda.empty_cache()


def _to_torch(latents: np.ndarray, **options: Any) -> Any:
    """Turn [B, ..., C] into a tensor [B, C, ...]."""
    import torch

    return torch.from_numpy(np.moveaxis(latents, -1, 1).copy()).to(**options)


def _to_channels_last(tensor: Any) -> np.ndarray:
    """Turn a tensor [B, C, ...] into [B, ..., C] float32."""
    return np.moveaxis(tensor.float().cpu().numpy(), 1, -1)


def _to_numpy(tree: Any) -> Any:
    """Turn a pytree of tensors into one of float32 arrays."""
    return jax.tree.map(lambda tensor: tensor.float().cpu().numpy(), tree)
