"""Files that people give to rats_jax, by kind: a good one of each, and how it is read."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from rats_jax.data.pictures import picture_size, read_picture
from rats_jax.data.prompts import find_prompts, read_records
from rats_jax.pipelines.open import load_pipeline
from rats_jax.rewards.pickscore import load_pickscore
from rats_jax.weights.stored import read_all
from rats_jax.weights.torch_file import read_torch_file, state_dict_of
from rats_jax.workdir import saved_config
from rats_jax.workdir.metrics import read_metrics
from tests.tiny import PROMPTS, tiny_config, write_tiny_pipeline, write_tiny_reward


class Kind(NamedTuple):
    """A kind of input.

    Attributes:
        write: makes good ones in a folder.
        read: reads all of that folder that hangs on one file, as the commands do.
    """

    write: Callable[[Path], object]
    read: Callable[[Path, Path], object]


def _write_prompts(folder: Path) -> None:
    texts = [*PROMPTS, "ein Büro, naïve", "猫 🐈"]
    rows = [{"prompt": text, "weight": i} for i, text in enumerate(texts)]
    (folder / "prompts.txt").write_text("\n".join(texts))
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "prompts.json").write_text(json.dumps(rows))
    for suffix, mark in (("csv", ","), ("tsv", "\t")):
        lines = [mark.join(("prompt", "weight")), *(f'"{text}"{mark}{i}' for i, text in enumerate(texts))]
        (folder / f"prompts.{suffix}").write_text("\n".join(lines))


def _read_prompts(folder: Path, file: Path) -> Any:
    read_records(file)
    return list(find_prompts(str(file)))


def _write_pictures(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (24, 20, 3), np.uint8)
    picture = Image.fromarray(pixels)
    for suffix in ("png", "jpg", "gif", "webp", "tiff", "bmp", "ppm"):
        picture.save(folder / f"picture.{suffix}")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 256).save(folder / "deep.png")
    picture.convert("P").save(folder / "palette.png", transparency=3)


def _read_picture(folder: Path, file: Path) -> Any:
    return picture_size(file), read_picture(file)


def _write_run(folder: Path) -> None:
    (folder / saved_config.FILE).write_text(saved_config.to_json(tiny_config(folder)))
    records = [{"step": i, "reward/student": 0.5 * i, "reward/teacher": None} for i in range(1, 9)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def _read_run(folder: Path, file: Path) -> Any:
    return read_metrics(folder) if file.suffix == ".jsonl" else saved_config.read(file)


def _write_archive(folder: Path) -> None:
    import torch

    state = {"a.weight": torch.arange(12.0).reshape(3, 4), "a.bias": torch.zeros(3, dtype=torch.bfloat16)}
    torch.save({"state_dict": state, "epoch": 3}, folder / "weights.pt")


def _read_archive(folder: Path, file: Path) -> Any:
    state = state_dict_of(read_torch_file(file), source=str(file))
    return {name: np.asarray(state[name]) for name in state}


def _read_pipeline(folder: Path, file: Path) -> Any:
    pipeline = load_pipeline(folder)
    pipeline.tokenize(PROMPTS)
    return read_all((pipeline.network, pipeline.text_encoder, pipeline.decoder))


def _read_reward(folder: Path, file: Path) -> Any:
    reward = load_pickscore(str(folder))
    return reward.prepare(PROMPTS), read_all(reward.params)


KINDS: Mapping[str, Kind] = {
    "prompts": Kind(_write_prompts, _read_prompts),
    "pictures": Kind(_write_pictures, _read_picture),
    "config and log of a run": Kind(_write_run, _read_run),
    ".pt archives": Kind(_write_archive, _read_archive),
    "pipelines": Kind(write_tiny_pipeline, _read_pipeline),
    "rewards": Kind(write_tiny_reward, _read_reward),
}
