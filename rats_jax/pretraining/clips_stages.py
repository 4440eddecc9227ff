"""Stages of text-to-clip: each reads the folders before it and writes its own, or keeps what is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.data.prompts import read_prompts
from rats_jax.errors import expect
from rats_jax.networks.autoencoder_kl_wan import AutoencoderKLWan
from rats_jax.pipelines.base import Options
from rats_jax.pipelines.open import load_pipeline
from rats_jax.pretraining.check import mean_scores, read_weights, write_check
from rats_jax.pretraining.clips import (
    MOTIONS,
    NUM_FRAMES,
    ClipPrompts,
    Shown,
    Track,
    make_prompts,
    render,
    vary,
)
from rats_jax.pretraining.corrupt import Corruption, autoencode, latent_noise
from rats_jax.pretraining.corrupt_clips import CLIP_CORRUPTIONS
from rats_jax.pretraining.dual_encoder import Drawn, DualEncoder
from rats_jax.pretraining.flow import train_flow
from rats_jax.pretraining.flow_wan import PARTS, make_flow, make_networks
from rats_jax.pretraining.scenes import COLOURS, IMAGE_SIZE, NOTHING, Noun, choose_grounds, load_graphics
from rats_jax.pretraining.sheet import make_drawer, write_samples
from rats_jax.pretraining.stage import Form, is_done, train_reward, training_state
from rats_jax.pretraining.tokenizer import write_t5_tokenizer
from rats_jax.pretraining.tracker import Frames, train_tracker
from rats_jax.pretraining.vae import channel_moments, encode, train_vae
from rats_jax.rewards.tracker import load_likelihood, load_tracker
from rats_jax.rewards.viclip import embed_videos, init_viclip, load_viclip, make_viclip
from rats_jax.types import Array, Key, Params
from rats_jax.weights.folder import (
    CLIP_WEIGHTS,
    UNET_WEIGHTS,
    VAE_WEIGHTS,
    read_json,
    write_json,
    write_model,
)
from rats_jax.weights.state_dict import load_safetensors
from rats_jax.weights.tokenizers import load_t5_tokenizer, tokenize

_SIZE = Options(height=IMAGE_SIZE, width=IMAGE_SIZE, num_frames=NUM_FRAMES)
_CLASSES = {
    "transformer": ("diffusers", "WanTransformer3DModel"),
    "vae": ("diffusers", "AutoencoderKLWan"),
    "text_encoder": ("transformers", "UMT5EncoderModel"),
    "tokenizer": ("transformers", "T5TokenizerFast"),
    "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
}
_ENCODED_AT_ONCE = 64
_VIDEOS = Form(
    {"model_type": "viclip", "num_frames": NUM_FRAMES},
    lambda config: DualEncoder(make_viclip(config), init_viclip, embed_videos),
)


def judge_stage(config: Any, workdir: Path) -> None:
    """Train the tracker that says what a clip shows, and judges accuracy: judge/."""
    _train_tracker(config, config.judge, config.judge_model, workdir / "judge", seed=config.seed + 40)


def vae_stage(config: Any, workdir: Path) -> None:
    """Train the autoencoder: pipeline/vae."""
    folder = workdir / "pipeline" / "vae"
    if is_done(folder / "config.json"):
        return
    model = config.vae_model.to_dict()
    vae, data = _make_vae(model), _data(config, every=True)

    def draw(data: Any, keys: Key, batch_size: int) -> Array:
        # Whole ones: trained on parts of five frames, the autoencoder breaks the frames behind them.
        return _draw_clips(data, keys, batch_size)[0]

    with training_state(folder) as file:
        as_they_are = {"augment_fn": lambda key, clips: clips}
        params = train_vae(data, draw, vae, config.vae, seed=config.seed, state_file=file, **as_they_are)
        clips = draw(data, jax.random.split(jax.random.key(config.seed + 2)), 256)
        moments = channel_moments(vae, params, clips)
        write_model(folder, {"_class_name": "AutoencoderKLWan"} | model | moments, params, VAE_WEIGHTS)


def flow_stage(config: Any, workdir: Path) -> None:
    """Train transformer and text encoder and complete the diffusers folder: pipeline/."""
    folder = workdir / "pipeline"
    if is_done(folder / "model_index.json"):
        return
    texts = [*_prompts(config).texts, ""]
    write_t5_tokenizer(texts[:-1], folder / "tokenizer", **config.t5_tokenizer)
    tokenizer = load_t5_tokenizer(folder / "tokenizer")
    marks = {"vocab_size": tokenizer.pieces.get_vocab_size(), "pad_token_id": 0, "eos_token_id": 1}
    models = {
        "transformer": config.transformer_model.to_dict(),
        "text_encoder": config.text_encoder_model.to_dict() | marks,
    }
    ids = tokenize(tokenizer, texts)
    latents, rows = _encode_clips(config, *_load_vae(folder / "vae"), seed=config.seed + 12)

    def draw(data: Any, key: Key, batch_size: int) -> tuple[Array, Mapping[str, Array]]:
        chosen = jax.random.randint(key, (batch_size,), 0, data["latents"].shape[0])
        return data["latents"][chosen], {"text_encoder": data["ids"][data["rows"][chosen]]}

    with training_state(folder / "transformer") as file:
        params = train_flow(
            make_flow(make_networks(models)),
            {"latents": latents, "rows": rows, "ids": jnp.asarray(ids)},
            draw,
            {"text_encoder": ids[-1]},
            config.flow,
            shift=config.scheduler.shift,
            seed=config.seed + 10,
            state_file=file,
        )
        _write_pipeline(config, folder, models, params)


def _encode_clips(config: Any, vae: AutoencoderKLWan, params: Params, *, seed: int) -> tuple[Array, Array]:
    """Draw config.num_clips clips and encode them: scaled latents [N, t, h, w, C], and rows of their prompts.

    To encode a batch costs more than to train on it.
    """
    whole = config.num_clips > 0 and config.num_clips % _ENCODED_AT_ONCE == 0
    expect(
        whole, "num_clips", config.num_clips, f"a multiple of {_ENCODED_AT_ONCE}, which are encoded at once"
    )
    mean, std = (np.asarray(vae.config[name], np.float32) for name in ("latents_mean", "latents_std"))

    @jax.jit
    def encode_all(data: Any, params: Params, keys: Key) -> tuple[Array, Array]:
        def encode_batch(key: Key) -> tuple[Array, Array]:
            clips, _, _, rows = _draw_clips(data, jax.random.split(key), _ENCODED_AT_ONCE)
            return (encode(vae, params, clips)[0] - mean) / std, rows

        return jax.lax.map(encode_batch, keys)

    keys = jax.random.split(jax.random.key(seed), config.num_clips // _ENCODED_AT_ONCE)
    latents, rows = encode_all(_data(config), params, keys)
    return latents.reshape(-1, *latents.shape[2:]), rows.reshape(-1)


def _write_pipeline(config: Any, folder: Path, models: Mapping[str, Any], params: Params) -> None:
    marks = {
        "transformer": {"_class_name": _CLASSES["transformer"][1]},
        "text_encoder": {"architectures": ["UMT5EncoderModel"], "model_type": "umt5"},
    }
    for name in PARTS:
        file = UNET_WEIGHTS if name == "transformer" else CLIP_WEIGHTS
        write_model(folder / name, models[name] | marks[name], params[name], file)
    scheduler = {"_class_name": _CLASSES["scheduler"][1]} | config.scheduler.to_dict()
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    index = {"_class_name": "WanPipeline", "boundary_ratio": None, "transformer_2": [None, None]}
    write_json(folder / "model_index.json", index | {name: list(c) for name, c in _CLASSES.items()})


def reward_stage(config: Any, workdir: Path) -> None:
    """Train the tracker whose likelihood of the prompt RATS climbs, apart from the judge: reward/."""
    _train_tracker(config, config.reward, config.reward_model, workdir / "reward", seed=config.seed + 50)


def heldout_reward_stage(config: Any, workdir: Path) -> None:
    """Train the reward of another kind that no training sees, a ViCLIP: heldout_reward/."""
    _train_viclip(config, config.heldout_reward, workdir / "heldout_reward", seed=config.seed + 20)


def prompts_stage(config: Any, workdir: Path) -> None:
    """Draw prompts that training sees, and prompts that it does not: prompts.txt, heldout_prompts.txt."""
    rng, prompts = np.random.default_rng(config.seed), _prompts(config)
    weights = _weights(prompts)
    for name, rows in (("prompts", ~prompts.heldout), ("heldout_prompts", prompts.heldout)):
        chances, count = np.where(rows, weights, 0.0), min(config.num_prompts, int(rows.sum()))
        chosen = rng.choice(len(rows), count, replace=False, p=chances / chances.sum())
        lines = "\n".join(prompts.choose(chosen).texts) + "\n"
        (workdir / f"{name}.txt").write_text(lines, encoding="utf-8")


def check_stage(config: Any, workdir: Path) -> None:
    """Judge and score renders, spoilt and wrong ones, and what the pipeline draws: check.json."""
    setting, data = config.check, _data(config, every=True)
    keys = jax.random.split(jax.random.key(config.seed))
    judges = {"accuracy": load_tracker(str(workdir / "judge"))}
    judges["reward"] = load_likelihood(str(workdir / "reward"))
    judges["heldout_reward"] = load_viclip(str(workdir / "heldout_reward"))
    judges = read_weights(judges)

    def judged(clips: Array | np.ndarray, prompts: list[str]) -> dict[str, float]:
        return mean_scores(judges, clips, prompts) | {
            "motion": float(np.mean(np.abs(np.diff(np.asarray(clips), axis=1))))
        }

    clips, _, shown, rows = _draw_clips(data, keys, setting.num_clips)
    every = _prompts(config)
    texts = every.choose(np.asarray(rows)).texts
    others = vary(keys[0], shown, data["colours"][rows], len(config.nouns))
    table = {"render": judged(clips, texts), "of another prompt": judged(clips, texts[1:] + texts[:1])}
    table["one thing wrong"] = judged(render(keys[1], data["graphics"], others)[0], texts)
    table["backwards"] = judged(clips[:, ::-1], texts)
    vae = _load_vae(workdir / "pipeline" / "vae")
    spoilt: dict[str, Corruption] = {"autoencoder": autoencode(*vae), "latent_noise": latent_noise(*vae)}
    for i, (name, corrupt) in enumerate((spoilt | dict(CLIP_CORRUPTIONS)).items()):
        key, severity = jax.random.fold_in(keys[1], i), jnp.full(setting.num_clips, setting.severity)
        table[name] = judged(jax.jit(corrupt)(key, clips, severity), texts)
    pipeline = load_pipeline(workdir / "pipeline", options=_SIZE)
    for steps, scale in setting.samplings:
        draw = make_drawer(pipeline, num_steps=steps, guidance_scale=scale)
        for name in ("prompts", "heldout_prompts"):
            chosen = read_prompts(workdir / f"{name}.txt")[: setting.num_clips]
            row = f"{name}, {steps} steps, guidance {scale:g}"
            table[row] = judged(draw(chosen, config.seed), chosen)
    write_check(table, workdir / "check.json")


def samples_stage(config: Any, workdir: Path) -> None:
    """Draw what the pipeline makes of some prompts: samples.png."""
    write_samples(config, workdir, _SIZE)


STAGES: Mapping[str, Callable[[Any, Path], None]] = {
    "judge": judge_stage,
    "vae": vae_stage,
    "flow": flow_stage,
    "reward": reward_stage,
    "heldout_reward": heldout_reward_stage,
    "prompts": prompts_stage,
    "samples": samples_stage,
    "check": check_stage,
}


def _nouns(config: Any) -> list[Noun]:
    return [Noun(*noun) for noun in config.nouns]


def _prompts(config: Any) -> ClipPrompts:
    return make_prompts(_nouns(config), heldout_share=config.heldout_share, seed=config.seed)


def _weights(prompts: ClipPrompts) -> np.ndarray:
    """Weigh prompts [N]: half of each thing's and motion's on the one that leaves the ground open."""
    return np.where(prompts.colours == NOTHING, 1.0, 1.0 / len(COLOURS))


def _data(config: Any, *, every: bool = False) -> dict[str, Array]:
    """Gather what `_draw_clips` draws from; `every` takes what is held out, too."""
    prompts = _prompts(config)
    weights = np.where(prompts.heldout & (not every), 0.0, _weights(prompts))
    return {
        "graphics": jnp.asarray(load_graphics(_nouns(config))[-1]),
        "things": jnp.asarray(prompts.things),
        "motions": jnp.asarray(prompts.motions),
        "colours": jnp.asarray(prompts.colours),
        "ends": jnp.asarray(np.cumsum(weights) / weights.sum(), jnp.float32),
    }


def _draw_clips(data: Any, keys: Key, batch_size: int) -> tuple[Array, Track, Shown, Array]:
    """Draw prompts and a clip of each: clips [B, T, 32, 32, 3], track, what is shown, rows of the prompts."""
    key_ground, key_clip = jax.random.split(keys[1])
    rows = jnp.searchsorted(data["ends"], jax.random.uniform(keys[0], (batch_size,)))
    rows = jnp.minimum(rows, data["ends"].size - 1)
    grounds = choose_grounds(key_ground, data["colours"][rows])
    shown = Shown(data["things"][rows], data["motions"][rows], grounds)
    clips, track = render(key_clip, data["graphics"], shown)
    return clips, track, shown, rows


def _make_vae(model: Mapping[str, Any]) -> AutoencoderKLWan:
    """Make an autoencoder whose latents are not scaled yet."""
    channels = model["z_dim"]
    return AutoencoderKLWan.from_config(
        {**model, "latents_mean": (0.0,) * channels, "latents_std": (1.0,) * channels}
    )


def _load_vae(folder: Path) -> tuple[AutoencoderKLWan, Params]:
    vae = AutoencoderKLWan.from_config(read_json(folder / "config.json"))
    return vae, load_safetensors(folder / VAE_WEIGHTS, vae.abstract_params())


def _train_tracker(config: Any, training: Any, sizes: Any, folder: Path, *, seed: int) -> None:
    if is_done(folder / "config.json"):
        return

    def draw(data: Any, key: Key, batch_size: int) -> Frames:
        key_clip, key_frame = jax.random.split(key)
        # Of each clip one frame.
        clips, track, shown, _ = _draw_clips(data, jax.random.split(key_clip), batch_size)
        chosen = jax.random.randint(key_frame, (batch_size,), 0, NUM_FRAMES)
        rows = jnp.arange(batch_size)
        places = jnp.stack([values[rows, chosen] for values in track], axis=-1) / IMAGE_SIZE
        return Frames(clips[rows, chosen], shown.things, shown.grounds, places)

    model, data = sizes.to_dict(), _data(config, every=True)
    words = {"nouns": [noun.one for noun in _nouns(config)], "motions": list(MOTIONS.values())}
    words["colours"] = list(COLOURS)
    with training_state(folder) as file:
        params = train_tracker(data, draw, model, training, seed=seed, name=folder.name, state_file=file)
        write_model(folder, {"model_type": "tracker"} | model | words, params, CLIP_WEIGHTS)


def _train_viclip(config: Any, training: Any, folder: Path, *, seed: int) -> None:
    if is_done(folder / "config.json"):
        return
    num_nouns = len(config.nouns)

    def gather(ids: np.ndarray) -> Any:
        return _data(config) | {"ids": jnp.asarray(ids)}

    def draw(data: Any, keys: Key, batch_size: int) -> Drawn:
        key_clip, key_vary, key_wrong = jax.random.split(keys[1], 3)
        clips, _, shown, rows = _draw_clips(data, jnp.stack([keys[0], key_clip]), batch_size)
        named = data["colours"][rows]
        wrong, _ = render(key_wrong, data["graphics"], vary(key_vary, shown, named, num_nouns))
        same = (shown.things[:, None] == shown.things[None]) & (shown.motions[:, None] == shown.motions[None])
        fits = same & ((named[:, None] == NOTHING) | (named[:, None] == shown.grounds[None]))
        return Drawn(clips, data["ids"][rows], wrong, fits)

    corruptions = {kind: CLIP_CORRUPTIONS[kind] for kind in training.corruptions}
    corruptions["latent_noise"] = latent_noise(*_load_vae(folder.parent / "pipeline" / "vae"))
    texts = _prompts(config).texts
    train_reward(config, training, folder, texts, gather, draw, corruptions, seed=seed, form=_VIDEOS)
