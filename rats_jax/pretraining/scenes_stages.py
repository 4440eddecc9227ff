"""Stages of text-to-scene: each reads the folders before it and writes its own, or keeps what is there."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.data.prompts import read_prompts
from rats_jax.errors import expect
from rats_jax.networks.autoencoder_kl import AutoencoderKL
from rats_jax.pipelines.base import Options
from rats_jax.pipelines.flux import pack
from rats_jax.pipelines.open import load_pipeline
from rats_jax.pretraining.check import mean_scores, read_weights, write_check
from rats_jax.pretraining.corrupt import CORRUPTIONS, autoencode, latent_noise
from rats_jax.pretraining.detector import train_detector
from rats_jax.pretraining.flow import distil_guidance, train_flow
from rats_jax.pretraining.flow_flux import PARTS, make_flow, make_networks
from rats_jax.pretraining.scenes import (
    ANY_SIZES,
    COLOURS,
    IMAGE_SIZE,
    KINDS,
    Prompts,
    crowd,
    render,
    sampling_weights,
    vary,
)
from rats_jax.pretraining.scenes_data import all_prompts, count_things, draw_asked, draw_scenes, gather_data
from rats_jax.pretraining.scenes_rewards import (
    heldout_reward_stage,
    reward_draft_stage,
    reward_numbers_stage,
    reward_sizes_stage,
    reward_stage,
)
from rats_jax.pretraining.sheet import make_drawer, write_samples
from rats_jax.pretraining.stage import (
    is_done,
    load_vae,
    training_state,
    with_tokenizer,
)
from rats_jax.pretraining.tokenizer import write_t5_tokenizer, write_tokenizer
from rats_jax.pretraining.vae import encode, scaling_factor, train_vae
from rats_jax.rewards.detector import load_detector
from rats_jax.rewards.pickscore import load_pickscore
from rats_jax.types import Array, Key, Params
from rats_jax.weights.folder import (
    CLIP_WEIGHTS,
    UNET_WEIGHTS,
    VAE_WEIGHTS,
    write_json,
    write_model,
)
from rats_jax.weights.state_dict import load_safetensors
from rats_jax.weights.tokenizers import load_t5_tokenizer, load_tokenizer, tokenize

_LATENTS = (16, 16)
_SIZE = Options(height=IMAGE_SIZE, width=IMAGE_SIZE)
_CLASSES = {
    "transformer": ("diffusers", "FluxTransformer2DModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "text_encoder_2": ("transformers", "T5EncoderModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "tokenizer_2": ("transformers", "T5TokenizerFast"),
    "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
}


def judge_stage(config: Any, workdir: Path) -> None:
    """Train the detector that says what a picture shows, and judges accuracy: judge/."""
    training, sizes = config.judge, config.judge_model
    _train_detector(config, training, sizes, workdir / "judge", every=True, seed=config.seed + 40)


def counting_reward_stage(config: Any, workdir: Path) -> None:
    """Train another one as a reward, without the combinations that are held out: counting_reward/."""
    training, sizes = config.counting_reward, config.counting_reward_model
    _train_detector(config, training, sizes, workdir / "counting_reward", every=False, seed=config.seed + 42)


def _train_detector(config: Any, training: Any, sizes: Any, folder: Path, *, every: bool, seed: int) -> None:
    if is_done(folder / "config.json"):
        return
    num_nouns, data = len(config.nouns), gather_data(config, every=every, kinds=training.kinds)

    def draw(data: Any, key: Key, batch_size: int) -> tuple[Array, Array, Array]:
        key_prompt, key_ground, key_more, key_picture = jax.random.split(key, 4)
        objects, grounds, _ = draw_asked(data, key_prompt, key_ground, batch_size)
        objects = crowd(key_more, objects)
        images = render(key_picture, data["graphics"], objects, grounds, ANY_SIZES)
        return images, count_things(objects, num_nouns), grounds

    model = sizes.to_dict()
    with training_state(folder) as file:
        params = train_detector(data, draw, model, training, seed=seed, name=folder.name, state_file=file)
        words = {"nouns": [list(noun[:2]) for noun in config.nouns], "colours": list(COLOURS)}
        write_model(folder, {"model_type": "detector"} | model | words, params, CLIP_WEIGHTS)


def vae_stage(config: Any, workdir: Path) -> None:
    """Train the autoencoder: pipeline/vae."""
    folder = workdir / "pipeline" / "vae"
    if is_done(folder / "config.json"):
        return
    model, data = config.vae_model.to_dict(), gather_data(config, every=True)
    vae = AutoencoderKL.from_config(model)

    def draw(data: Any, keys: Key, batch_size: int) -> Array:
        return draw_scenes(data, keys, batch_size)[0]

    with training_state(folder) as file:
        params = train_vae(data, draw, vae, config.vae, seed=config.seed, state_file=file)
        images = draw(data, jax.random.split(jax.random.key(config.seed + 2)), 512)
        scale = scaling_factor(vae, params, images)
        model |= {"_class_name": "AutoencoderKL", "scaling_factor": scale, "shift_factor": 0.0}
        write_model(folder, model, params, VAE_WEIGHTS)


def flow_stage(config: Any, workdir: Path) -> None:
    """Train transformer and text encoders, with guidance by two evaluations: flow/."""
    folder = workdir / "flow"
    if is_done(folder / "transformer" / "config.json"):
        return
    _write_tokenizers(config, folder)
    models = _model_configs(config, folder)
    data, draw, setting = _latent_data(config, workdir, folder)
    with training_state(folder / "transformer") as file:
        params = train_flow(
            make_flow(make_networks(models), _LATENTS),
            data,
            draw,
            training=config.flow,
            seed=config.seed + 10,
            **setting,
            state_file=file,
        )
        _write_networks(folder, models, params)


def guidance_stage(config: Any, workdir: Path) -> None:
    """Distil guidance into the number that the transformer is told and complete the folder: pipeline/."""
    folder, flow = workdir / "pipeline", workdir / "flow"
    if is_done(folder / "model_index.json"):
        return
    _write_tokenizers(config, folder)
    models = _model_configs(config, folder)
    networks = make_networks(models)
    files = {name: flow / name / (UNET_WEIGHTS if name == "transformer" else CLIP_WEIGHTS) for name in PARTS}
    start = {name: load_safetensors(files[name], networks[name].abstract_params()) for name in PARTS}
    data, draw, setting = _latent_data(config, workdir, folder)
    with training_state(folder / "transformer") as file:
        params = distil_guidance(
            make_flow(networks, _LATENTS),
            start,
            data,
            draw,
            training=config.guidance,
            seed=config.seed + 15,
            **setting,
            state_file=file,
        )
        _write_networks(folder, models, params)
        scheduler = {"_class_name": _CLASSES["scheduler"][1]} | config.scheduler.to_dict()
        write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
        index = {
            "_class_name": "FluxPipeline",
            "feature_extractor": [None, None],
            "image_encoder": [None, None],
        }
        write_json(folder / "model_index.json", index | {name: list(c) for name, c in _CLASSES.items()})


def prompts_stage(config: Any, workdir: Path) -> None:
    """Draw prompts that training sees, and prompts that it does not: prompts.txt, heldout_prompts.txt."""
    rng, prompts = np.random.default_rng(config.seed), all_prompts(config)
    weights = sampling_weights(prompts, config.prompts.kinds)

    def choose(rows: np.ndarray, name: str) -> Prompts:
        chances, count = np.where(rows, weights, 0.0), config.prompts[name]
        expect(
            count <= np.count_nonzero(chances),
            f"prompts.{name}",
            count,
            f"at most {np.count_nonzero(chances)}",
        )
        return prompts.choose(rng.choice(len(rows), count, replace=False, p=chances / chances.sum()))

    for file, rows, name in (
        ("prompts.txt", ~prompts.heldout, "num_train"),
        ("heldout_prompts.txt", prompts.heldout, "num_heldout"),
    ):
        (workdir / file).write_text("\n".join(choose(rows, name).texts) + "\n", encoding="utf-8")


def check_stage(config: Any, workdir: Path) -> None:
    """Judge and score renders, spoilt and wrong ones, and what the pipeline draws: check.json."""
    setting = config.check
    data = gather_data(config, every=True)
    data |= {"ends": jnp.arange(1, data["colours"].size + 1) / data["colours"].size}  # all prompts alike
    keys = jax.random.split(jax.random.key(config.seed))
    judges = {
        "accuracy": load_detector(str(workdir / "judge")),
        "reward": load_pickscore(str(workdir / "reward")),
        "heldout_reward": load_pickscore(str(workdir / "heldout_reward")),
    }
    judged = functools.partial(mean_scores, read_weights(judges))
    images, objects, grounds, rows = draw_scenes(data, keys, setting.num_images)
    every = all_prompts(config)
    texts = every.choose(np.asarray(rows)).texts
    named = data["colours"][rows]
    others = vary(keys[0], objects, grounds, named, len(config.nouns), count_share=config.reward.count_share)
    vae, vae_params, _ = load_vae(workdir / "pipeline" / "vae")
    spoilt = {"autoencoder": autoencode(vae, vae_params), "latent_noise": latent_noise(vae, vae_params)}
    table = {"render": judged(images, texts), "of another prompt": judged(images, texts[1:] + texts[:1])}
    table["one thing wrong"] = judged(render(keys[1], data["graphics"], *others), texts)
    for i, (name, corrupt) in enumerate((spoilt | dict(CORRUPTIONS)).items()):
        key, severity = jax.random.fold_in(keys[1], i), jnp.full(setting.num_images, setting.severity)
        table[name] = judged(jax.jit(corrupt)(key, images, severity), texts)
    pipeline = load_pipeline(workdir / "pipeline", options=_SIZE)
    sets = {name: read_prompts(workdir / f"{name}.txt") for name in ("prompts", "heldout_prompts")}
    runs = [(name, steps) for name in sets for steps in setting.num_steps]
    for i, kind in enumerate(KINDS):  # what of them it has learned, whatever the job asks for
        rows = np.flatnonzero((every.kinds == i) & ~every.heldout)
        sets[kind] = every.choose(np.random.default_rng(config.seed).permutation(rows)).texts
        runs.append((kind, max(setting.num_steps)))
    drawers = {
        steps: make_drawer(pipeline, num_steps=steps, guidance_scale=setting.guidance_scale)
        for steps in setting.num_steps
    }
    for name, steps in runs:
        chosen = sets[name][: setting.num_images]
        table[f"{name}, {steps} steps"] = judged(drawers[steps](chosen, config.seed), chosen)
    write_check(table, workdir / "check.json")


def samples_stage(config: Any, workdir: Path) -> None:
    """Draw what the pipeline makes of some prompts: samples.png."""
    write_samples(config, workdir, _SIZE)


STAGES: Mapping[str, Callable[[Any, Path], None]] = {
    "judge": judge_stage,
    "vae": vae_stage,
    "flow": flow_stage,
    "guidance": guidance_stage,
    "reward_draft": reward_draft_stage,
    "reward_numbers": reward_numbers_stage,
    "reward_sizes": reward_sizes_stage,
    "reward": reward_stage,
    "counting_reward": counting_reward_stage,
    "heldout_reward": heldout_reward_stage,
    "prompts": prompts_stage,
    "samples": samples_stage,
    "check": check_stage,
}


def _write_tokenizers(config: Any, folder: Path) -> None:
    texts = all_prompts(config).texts
    write_tokenizer(texts, folder / "tokenizer", **config.tokenizer)
    write_t5_tokenizer(texts, folder / "tokenizer_2", **config.t5_tokenizer)


def _model_configs(config: Any, folder: Path) -> dict[str, dict[str, Any]]:
    """Complete the configs of transformer and text encoders by their tokenizers."""
    tokenizer, t5 = load_tokenizer(folder / "tokenizer"), load_t5_tokenizer(folder / "tokenizer_2")
    size = {"vocab_size": t5.pieces.get_vocab_size(), "pad_token_id": 0, "eos_token_id": 1}
    return {
        "transformer": config.transformer_model.to_dict(),
        "text_encoder": with_tokenizer(config.text_encoder_model.to_dict(), tokenizer),
        "text_encoder_2": config.text_encoder_2_model.to_dict() | size,
    }


def _latent_data(config: Any, workdir: Path, folder: Path) -> tuple[Any, Any, dict[str, Any]]:
    """Give data, draw function and what else both trainings of the flow share."""
    vae, params, scale = load_vae(workdir / "pipeline" / "vae")
    texts = [*all_prompts(config).texts, ""]
    ids = {
        "text_encoder": tokenize(load_tokenizer(folder / "tokenizer"), texts),
        "text_encoder_2": tokenize(load_t5_tokenizer(folder / "tokenizer_2"), texts),
    }
    data = gather_data(config) | {
        "vae": params,
        "ids": {name: jnp.asarray(rows) for name, rows in ids.items()},
    }

    def draw(data: Any, key: Key, batch_size: int) -> tuple[Array, Mapping[str, Array]]:
        images, *_, rows = draw_scenes(data, jax.random.split(key), batch_size)
        latents = scale * encode(vae, data["vae"], images)[0]
        return pack(latents), {name: values[rows] for name, values in data["ids"].items()}

    setting = {
        "empty_ids": {name: rows[-1] for name, rows in ids.items()},
        "shift": config.scheduler.shift,
    }
    return data, draw, setting


def _write_networks(folder: Path, models: Mapping[str, dict[str, Any]], params: Params) -> None:
    marks = {
        "transformer": {"_class_name": "FluxTransformer2DModel"},
        "text_encoder": {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model"},
        "text_encoder_2": {"architectures": ["T5EncoderModel"], "model_type": "t5"},
    }
    for name in reversed(PARTS):  # the transformer last: it says that the stage is done
        file = UNET_WEIGHTS if name == "transformer" else CLIP_WEIGHTS
        write_model(folder / name, models[name] | marks[name], params[name], file)
