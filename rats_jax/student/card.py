"""The README of an exported student: what it is, how it is used, what it was made of, how good it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etils import epath
from huggingface_hub import ModelCardData

from rats_jax.diffusion.scheduler_config import read_scheduler_config
from rats_jax.files import write_whole
from rats_jax.paths import is_hub_id, resolve_path
from rats_jax.pipelines.base import SCHEDULER_FILE, with_named_scheduler
from rats_jax.report import run_table, tables
from rats_jax.student.adapters import COMFYUI_FILE, LORA_FILE
from rats_jax.student.model import Generator, Origin
from rats_jax.student.terms import describe_terms, find_terms
from rats_jax.weights.folder import read_json
from rats_jax.weights.hub import find_file, get_file

PLACE = "THIS_FOLDER"
"""Where the reader of a card has put the folder, in the examples."""
_USE = {
    "diffusers": """\
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("THIS_FOLDER")
images = pipeline("{prompt}", num_inference_steps={steps}, guidance_scale={scale:g}{options}).images
""",
    "flax": """\
import jax
import jax.numpy as jnp
from diffusers import Flax{pipeline_class}  # diffusers 0.39, the last with Flax, and transformers 4

pipeline, params = Flax{pipeline_class}.from_pretrained("THIS_FOLDER")
ids = pipeline.prepare_inputs(["{prompt}"])
key, scale = jax.random.key(0), jnp.float32({scale:g})
images = pipeline(ids, params, key, num_inference_steps={steps}, guidance_scale=scale).images  # [B, H, W, 3]
""",
    "lora": """\
from diffusers import {scheduler_class}DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained({base})
{scheduler}pipeline.load_lora_weights("THIS_FOLDER", weight_name="{lora_file}")
images = pipeline("{prompt}", num_inference_steps={steps}, guidance_scale={scale:g}{options}).images
""",
    "video diffusers": """\
from diffusers import WanPipeline

pipeline = WanPipeline.from_pretrained("THIS_FOLDER")
{levels_of_steps}
frames = pipeline("{prompt}", num_inference_steps={steps}, guidance_scale={scale:g}{options}).frames
""",
    "video lora": """\
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline

pipeline = WanPipeline.from_pretrained({base})
pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift={shift:g})
pipeline.load_lora_weights("THIS_FOLDER", weight_name="{lora_file}")
{levels_of_steps}
frames = pipeline("{prompt}", num_inference_steps={steps}, guidance_scale={scale:g}{options}).frames
""",
    "jax": """\
import numpy as np
from jax import export
from safetensors.numpy import load_file
from transformers import {tokenizers}

prompts = ["{prompt}"]


def ids(tokenizer, folder, length):
    read = tokenizer.from_pretrained(folder)
    words = read(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="np")
    return words.input_ids.astype("int32")


sampler = export.deserialize(bytearray(open("sampler.stablehlo", "rb").read()))
weights = load_file("weights.safetensors")
noise = np.random.default_rng(0).normal(size=(len(prompts), *{latent_shape})).astype("float32")
images = sampler.call(weights, {ids}, noise, np.float32({scale:g}))  # [B, H, W, 3] in [0, 1]
""",
}
_NOTES = {
    "diffusers": """\
The scheduler's timesteps are those of training. Other numbers of steps work, and are not what it was trained
for.""",
    "flax": """\
The scheduler's timesteps are those of training for {steps} steps; where the base model spaces them from the
last one, other numbers of steps are wrong.""",
    "lora": "{comfyui}",
    "jax": """\
The program has {steps} steps, takes any number of prompts and any guidance scale, and runs on CPU, GPU and
TPU.""",
}
# The student's levels, before the shift: the pipeline has no argument for them.
_LEVELS_OF_STEPS = """\
set_timesteps = pipeline.scheduler.set_timesteps
pipeline.scheduler.set_timesteps = lambda _, device: set_timesteps(sigmas={sigmas}, device=device)"""
_COMFYUI = {
    "diffusion": """\
For ComfyUI: `comfyui/rats_lora.safetensors`, the same adapters in its names, for a KSampler with {steps}
steps, cfg {scale:g}, sampler `ddim`, scheduler {comfyui_scheduler}. Both files are used at strength 1.""",
    "flow": """\
ComfyUI reads the same file, at strength 1, with sampler `euler`, {comfyui_guidance} and {steps} steps at
these levels of noise, from a node of manual sigmas, for {width}x{height} pixels: {levels}.""",
    "video": """\
For ComfyUI: `{comfyui_file}`, the same adapters in the model's own names, with sampler `euler`, cfg
{scale:g}, the negative prompt of the example if it has one, and {steps} steps at these levels of noise, from
a node of manual sigmas: {levels}. Both files are used at strength 1.""",
}
# ComfyUI's names of where timesteps lie, which for `ddim` are all that a scheduler says.
_COMFYUI_SCHEDULERS = {
    "trailing": "`simple`",
    "linspace": "`normal`",
    "leading": "`ddim_uniform`, which comes near: ComfyUI starts from another level of noise",
}
_COMFYUI_V = ", behind a node ModelSamplingDiscrete of v_prediction unless the base is Stable Diffusion 2"
_ABOUT = """\
Post-trained with Reward-Aware Trajectory Shaping ([arXiv 2604.14910](https://arxiv.org/abs/2604.14910)) by
rats_jax: from prompts alone, shaped by a teacher of many steps and led by rewards.
"""
_SCORES = """\
## Scores

Means over {num_prompts} prompts, the same prompts and noise in every row; held-out: `{judge}`.

```
{table}
```
"""
_EVALUATION = """\
## Evaluation

{num_prompts} prompts, {num_seeds} pictures of each, the same prompts and noise in every row; means ± the
longer side of their 95 % intervals. ▲ better and ▼ worse than the teacher, by a paired interval.

{overview}
"""
_TERMS_FILES = ("LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE", "NOTICE.md", "NOTICE.txt")
_TERMS = "The base model's licence, {licence}, holds for this student.\n"
_NO_TERMS = "The base model's card names no licence: whatever holds for it holds for this student.\n"


def write_card(model: Generator, folder: Path, *, format: str, place: str) -> None:
    """Write README.md beside what was exported.

    Args:
        model: of a run.
        folder: of the export.
        format: a key of `formats.FORMATS`.
        place: what the card tells others to open.
    """
    assert model.origin is not None
    card = _card(model, model.origin, format).replace(PLACE, place)
    write_whole(folder / "README.md", card)
    for name in _TERMS_FILES:
        if file := find_file(model.origin.config.pretrained, name):
            write_whole(folder / name, file.read_bytes())


def _card(model: Generator, origin: Origin, format: str) -> str:
    config: Any = origin.config
    terms, scores = find_terms(config.pretrained), _scores(model.source, origin.step)
    head = ModelCardData(**terms).to_yaml().splitlines() if terms else []
    licence = describe_terms(terms)
    if is_hub_id(config.pretrained):  # the hub refuses a card whose base is none of its models
        head.append(f"base_model: {config.pretrained.partition('@')[0]}")
    head += [f"library_name: {'jax' if format == 'jax' else 'diffusers'}"]
    task = "text-to-video" if model.makes_videos else "text-to-image"
    head += [f"pipeline_tag: {task}", f"tags: [rats, few-step, {task}]"]
    index = read_json(get_file(config.pretrained, "model_index.json"))
    values = {
        "prompt": "a photo of a red apple",
        "steps": model.num_steps,
        "scale": model.guidance_scale,
        "base": _as_argument(config.pretrained),
        "lora_file": LORA_FILE,
        "comfyui_file": COMFYUI_FILE,
        "latent_shape": model.pipeline.latent_shape,
        "pipeline_class": index["_class_name"].removeprefix("Flax"),
        **_sampling(model, config, index),
        **_tokenizing(model, index),
    }
    kind = "flow" if _is_flow(model) else "diffusion"
    use = f"video {format}" if model.makes_videos else format
    values["comfyui"] = _COMFYUI["video" if model.makes_videos else kind].format(**values)
    sections = [
        "---\n" + "\n".join(head) + "\n---\n",
        f"# A {model.num_steps}-step student of {config.pretrained}\n",
        _ABOUT,
        f"## Use\n\n```python\n{_USE[use].format(**values)}```\n\n{_NOTES[format].format(**values)}\n",
        f"## How it was made\n\n{_table(_facts(config, origin, scores))}\n",
    ]
    report = _read_evaluation(model.source, origin.step)
    if report:
        sections.append(_EVALUATION.format(overview=tables.format_overview(report), **report))
    elif "reward" in scores:
        text, judge = run_table.format_table(scores), config.heldout_reward or "none"
        sections.append(_SCORES.format(num_prompts=config.evaluation.num_prompts, judge=judge, table=text))
    sections.append(f"## Licence\n\n{_TERMS.format(licence=licence) if licence else _NO_TERMS}")
    return "\n".join(sections)


def _as_argument(pretrained: str) -> str:
    """Write a base model as the arguments of from_pretrained, which knows no assets/ and no @revision."""
    if is_hub_id(pretrained):
        name, _, revision = pretrained.partition("@")
        return f'"{name}"' + (f', revision="{revision}"' if revision else "")
    return f'"{resolve_path(pretrained).absolute()}"'


def _is_flow(model: Generator) -> bool:
    return model.pipeline.prediction_type == "flow"


def _sampling(model: Generator, config: Any, index: Mapping[str, Any]) -> dict[str, Any]:
    """Say how diffusers samples as the student does, where that is not the default."""
    fields = ("height", "width", "max_sequence_length")
    options = {field: config[field] for field in fields if config.get(field)}
    for encoder, rows in _by_encoder(model.pipeline.tokenize([""])).items():
        if "T5" in _tokenizer_of(encoder, index)[1]:  # whose tokens diffusers counts by another default
            options["max_sequence_length"] = rows.shape[1]
    if not _is_flow(model):
        scheduler = 'DDIMScheduler.from_pretrained("THIS_FOLDER", subfolder="scheduler")'
        return {
            "options": "".join(f", {field}={value}" for field, value in options.items()),
            "scheduler_class": "DDIMScheduler, ",
            "scheduler": f"pipeline.scheduler = {scheduler}\n",
            "levels": "",
            "comfyui_scheduler": _COMFYUI_SCHEDULERS[_spacing_of(config, index)]
            + (_COMFYUI_V if model.pipeline.prediction_type == "v_prediction" else ""),
        }
    *length, height, width, _ = model.pipeline.image_shape()
    steps, options = model.num_steps, {"height": height, "width": width} | options
    # Before the shift, which is the scheduler's.
    sigmas = [round((steps - i) / steps, 6) for i in range(steps)]
    if length:
        options["num_frames"] = length[0]
        if model.guidance_scale != 1 and model.pipeline.negative_prompt:
            options["negative_prompt"] = repr(model.pipeline.negative_prompt)
    else:
        options["sigmas"] = sigmas
    levels, (_, half, _) = (model.pipeline.grid_fn(count, "").noise_rates for count in (steps, 2))
    return {
        "options": "".join(f", {field}={value}" for field, value in options.items()),
        "scheduler_class": "",
        "scheduler": "",
        "levels": ", ".join(f"{level:.4g}" for level in levels),
        # FLUX is told its guidance by a node of its own, and schnell, which has none, passes over it.
        "comfyui_guidance": f"cfg 1, FluxGuidance {model.guidance_scale:g}"
        if index.get("_class_name") == "FluxPipeline"
        else f"cfg {model.guidance_scale:g}",
        "width": width,
        "height": height,
        "levels_of_steps": _LEVELS_OF_STEPS.format(sigmas=sigmas),
        "shift": half / (1.0 - half),  # of two steps the second begins at shift / (shift + 1)
    }


def _spacing_of(config: Any, index: Mapping[str, Any]) -> str:
    """Give where a student's timesteps lie: its own choice, or that of its base."""
    scheduler = with_named_scheduler(read_json(get_file(config.pretrained, SCHEDULER_FILE)), index)
    return config.student.timestep_spacing or read_scheduler_config(scheduler).timestep_spacing


def _by_encoder(ids: Any) -> dict[str, Any]:
    """Give the token ids of a pipeline by text encoder; those of a single one come without its name."""
    return ids if isinstance(ids, dict) else {"text_encoder": ids}


def _tokenizer_of(encoder: str, index: Mapping[str, Any]) -> tuple[str, str]:
    """Give the folder and the class of the tokenizer of a text encoder."""
    folder = encoder.replace("text_encoder", "tokenizer")
    return folder, index[folder][1].removeprefix("Flax")


def _tokenizing(model: Generator, index: Mapping[str, Any]) -> dict[str, str]:
    """Say how the inputs of the program are made of prompts."""
    ids, classes, calls = model.pipeline.tokenize([""]), {}, {}
    for encoder, rows in _by_encoder(ids).items():
        folder, classes[encoder] = _tokenizer_of(encoder, index)
        calls[encoder] = f'ids({classes[encoder]}, "{folder}", {rows.shape[1]})'
    several = ", ".join(f'"{encoder}": {call}' for encoder, call in calls.items())
    return {
        "tokenizers": ", ".join(sorted(set(classes.values()))),
        "ids": f"{{{several}}}" if isinstance(ids, dict) else calls["text_encoder"],
    }


def _facts(config: Any, origin: Origin, scores: dict[str, Any]) -> dict[str, Any]:
    def rewards(section: str) -> str:
        found = {name: reward for name, reward in sorted(config[section].items())}
        texts = [
            f"{name} (`{reward.kind}`{f', weight {reward.weight:g}' if 'weight' in reward else ''})"
            for name, reward in found.items()
        ]
        return ", ".join(texts) or "none"

    trained = f"adapters of rank {config.lora.rank}" if config.lora.rank else "all weights of the network"
    return {
        "base model": config.pretrained,
        "prompts": config.prompts,
        "rewards": rewards("rewards"),
        "measured, never trained on": rewards("monitor"),
        "updates": origin.step,
        "prompts per update": config.batch_size,
        "trained": trained,
        "student": f"{config.student.num_steps} steps, guidance {config.student.guidance_scale:g}",
        "teacher": f"{config.teacher.num_steps} steps, guidance {config.teacher.guidance_scale:g}",
        "command": f"`{scores['command']}`" if "command" in scores else "its config is in rats_jax.json",
    }


def _table(facts: dict[str, Any]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items())])


def _scores(workdir: str, step: int) -> dict[str, Any]:
    """Read the table of the run, if it is that of this checkpoint."""
    summary = _read(workdir, "summary.json")
    return summary if summary.get("updates") == step else {}


def _read_evaluation(workdir: str, step: int) -> dict[str, Any]:
    """Read what `python -m rats_jax.evaluate` wrote into the run, if it judged this checkpoint."""
    report = _read(workdir, "evaluation/report.json")
    return report if report.get("update") == step else {}


def _read(workdir: str, name: str) -> dict[str, Any]:
    file = epath.Path(workdir) / name
    return read_json(file) if file.exists() else {}
