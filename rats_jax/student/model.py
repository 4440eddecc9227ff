"""Model that `rats_jax.load` gives: the student of a run, or any pipeline, ready to draw."""

from __future__ import annotations

import dataclasses
import errno
import functools
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.data.batches import filled_batches
from rats_jax.data.pictures import CONTACT_SHEET
from rats_jax.diffusion.draw import make_draw_fn
from rats_jax.diffusion.rollout import rollout
from rats_jax.diffusion.sampler import SAMPLERS
from rats_jax.errors import ConfigError, expect, reason_of
from rats_jax.networks.lora import Adapted
from rats_jax.parallel import placement
from rats_jax.parallel.compiler import compiler_options
from rats_jax.parallel.mesh import DATA_PARALLEL, make_mesh
from rats_jax.pipelines.base import Pipeline, makes_videos
from rats_jax.progress import tracked
from rats_jax.report import figures, mp4
from rats_jax.student import arguments
from rats_jax.types import Array, Grid, Params, PromptInputs


@dataclass(frozen=True, eq=False)
class Generator:
    """A model that draws: networks, weights on the devices, and how it is sampled.

    Attributes:
        source: what it was loaded from.
        pipeline: the functions; its network is the student's, NumPy arrays; of a LoRA run in bfloat16 the
            base with the adapters beside it (`lora.Adapted`).
        timestep_spacing: 'leading', 'linspace' or 'trailing'; empty is the pipeline's own.
        sampler: 'ddim', 'euler' or 'dpmpp_2m'.
        num_steps: those that the student was trained for.
        guidance_scale: the one that it was trained for.
        origin: of a run, its config and the update of the checkpoint; else None.
    """

    source: str
    pipeline: Pipeline
    timestep_spacing: str
    sampler: str
    num_steps: int
    guidance_scale: float
    origin: Origin | None = None
    _weights: list[Any] = field(default_factory=list)
    _programs: dict[tuple[int, int], Any] = field(default_factory=dict)
    _shared: dict[int, tuple[Params, Any]] = field(default_factory=dict)

    @property
    def makes_videos(self) -> bool:
        """Whether it draws videos [B, T, H, W, 3] in place of pictures [B, H, W, 3]."""
        return makes_videos(self.pipeline)

    def __call__(
        self,
        prompts: str | Sequence[str],
        *,
        num_steps: int | None = None,
        seed: int = 0,
        latents: Any = None,
        guidance_scale: float | None = None,
    ) -> np.ndarray:
        """Draw a picture or a video of each prompt.

        The first call for a number of steps and of prompts compiles; any other prompt, seed and guidance runs
        the same program.

        Args:
            prompts: B texts, or one; blanks around them do not count.
            num_steps: sampling steps; None is `self.num_steps`.
            seed: picture i starts from the noise of seed + i, 0 .. 2**32 - 1.
            latents: [B, h, w, C] or [B, t, h, w, C] float32, the noise to start from in place of the seed.
            guidance_scale: >= 1, where 1 costs half; None is `self.guidance_scale`.

        Returns:
            [B, H, W, 3] float32 in [0, 1]; of videos [B, T, H, W, 3].

        Raises:
            ConfigError: no prompts, or one that is no text; steps, seed or guidance that there are not;
                latents of another shape; a picture that is not finite.
        """
        texts = arguments.prompts(prompts)
        scale = self.guidance_scale if guidance_scale is None else guidance_scale
        scale = arguments.number(scale, "guidance_scale", least=1, note=" (1 is no guidance)")
        try:
            self.pipeline.evaluations(scale)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        if latents is None:
            first = arguments.integer(seed, "seed", least=0, most=2**32 - len(texts))
            latents = self.make_noise(range(first, first + len(texts)))
        noise = _as_noise(latents)
        expected = (len(texts), *self.pipeline.latent_shape)
        if noise.shape != expected:
            raise ConfigError(f"latents.shape={noise.shape}: expected {expected}")
        draw = self.compile(num_steps=num_steps, batch_size=len(texts))
        rows = np.arange(draw.rows) % len(texts)  # what the devices cannot share evenly is filled up
        prompt = self.pipeline.tokenize([texts[i] for i in rows])
        inputs = placement.place((prompt, noise[rows]), draw.layout)
        images = np.asarray(draw.program(self._placed(), *inputs, jnp.float32(scale)))[: len(texts)]
        finite = np.isfinite(images).all(axis=tuple(range(1, images.ndim)))
        if not finite.all():
            shown = texts[int(finite.argmin())]
            raise ConfigError(
                f"guidance_scale={scale:g}, num_steps={draw.steps}: {np.sum(~finite)} of {len(texts)} "
                f"pictures of {self.title!r} have nan or infinity, that of {shown!r} is the first: "
                "expected finite numbers"
            )
        return images

    def make_noise(self, seeds: Sequence[int]) -> np.ndarray:
        """Draw the noise of each seed: [B, h, w, C] float32, the same on any number of devices."""
        seeds = [arguments.integer(seed, "seed", least=0, most=2**32 - 1) for seed in seeds]
        draw = jax.vmap(lambda seed: jax.random.normal(jax.random.key(seed), self.pipeline.latent_shape))
        return np.asarray(draw(np.array(seeds, np.uint32)))

    def compile(self, *, num_steps: int | None = None, batch_size: int = 1) -> CompiledSampler:
        """Compile for a number of steps and of prompts, once; `__call__` does it by itself.

        Raises:
            ConfigError: no such number of steps.
        """
        steps = arguments.integer(self.num_steps if num_steps is None else num_steps, "num_steps", least=1)
        key = steps, arguments.integer(batch_size, "batch_size", least=1)
        if key not in self._programs:
            mesh = make_mesh(DATA_PARALLEL)
            rows, layout = -(-batch_size // mesh.size) * mesh.size, placement.batch_sharding(mesh)
            draw = make_sampler(
                self.pipeline, self.sampler, num_steps=steps, timestep_spacing=self.timestep_spacing
            )
            noise = np.zeros((rows, *self.pipeline.latent_shape), np.float32)
            inputs = placement.place((self.pipeline.tokenize([""] * rows), noise), layout)
            jitted = jax.jit(draw, out_shardings=layout)
            weights, scale = self._placed(), jnp.float32(1.0)
            with jax.set_mesh(mesh):
                lowered = jitted.lower(weights, *inputs, scale)
            options = compiler_options(mesh.devices.flat[0])
            self._programs[key] = CompiledSampler(lowered.compile(options), rows, layout, steps)
        return self._programs[key]

    def with_network(self, network: Params, *, guidance_scale: float) -> Generator:
        """Draw with other weights of the same network, with the programs and other weights that are here."""
        pipeline = dataclasses.replace(self.pipeline, network=network)
        return dataclasses.replace(self, pipeline=pipeline, guidance_scale=guidance_scale, _weights=[])

    @property
    def title(self) -> str:
        """What the metadata of a picture calls it."""
        return self.source if self.origin is None else f"{self.source}, update {self.origin.step}"

    def _placed(self) -> Any:
        """Put the weights on the devices, once."""
        if not self._weights:
            whole, pipeline = placement.replicated(make_mesh(DATA_PARALLEL)), self.pipeline

            def share(tree: Params) -> Any:
                """Place what models with other weights of the network have too, once for all of them."""
                if id(tree) not in self._shared:
                    self._shared[id(tree)] = tree, placement.place(tree, whole)
                return self._shared[id(tree)][1]

            network = pipeline.network
            if isinstance(network, Adapted):
                network = Adapted(share(network.base), placement.place(network.adapters, whole))
            else:
                network = placement.place(network, whole)
            self._weights.append((network, share(pipeline.text_encoder), share(pipeline.decoder)))
        return self._weights[0]


@dataclass(frozen=True)
class CompiledSampler:
    """A compiled sampler of so many rows, laid out over the devices, with so many steps."""

    program: Any
    rows: int
    layout: Any
    steps: int


@dataclass(frozen=True)
class Origin:
    """The run that a student comes from: its config, the update of its checkpoint, its adapters if it has."""

    config: Any
    step: int
    adapters: Params | None


# Pictures on a contact sheet, and their size in pixels.
_SHEET, _TILE = 96, 128
_LIST = "prompts.jsonl"


def make_sampler(pipeline: Pipeline, sampler: str, *, num_steps: int, timestep_spacing: str) -> Any:
    """Compose text encoder, sampler and decoder.

    Args:
        pipeline: the functions.
        sampler: 'ddim', 'euler' or 'dpmpp_2m'.
        num_steps: sampling steps.
        timestep_spacing: as of Generator.

    Returns:
        draw(weights, prompt inputs, noise [B, h, w, C], guidance_scale []) -> images [B, H, W, 3] in [0, 1],
        where weights are those of network, text encoder and decoder. A scale of 1, found out when it runs,
        skips the evaluations without a prompt.

    Raises:
        ConfigError: no such number of steps, or a schedule that is not supported.
    """
    grid = make_grid(pipeline, num_steps, timestep_spacing)

    def decode(decoder: Params, latents: Array) -> Array:
        """Decode, and make what is not finite nan: clipped, infinity would be white."""
        finite = jnp.isfinite(latents).all(axis=tuple(range(1, latents.ndim)), keepdims=True)
        images = pipeline.decode_fn(decoder, latents)
        return jnp.where(finite & jnp.isfinite(images), images, jnp.nan)

    def draw(weights: Any, prompt: PromptInputs, noise: Array, guidance_scale: Array) -> Array:
        rollout_fn = functools.partial(
            rollout,
            pipeline.guided_fn(guidance_scale),
            grid=grid,
            prediction_type=pipeline.prediction_type,
            step_fn=SAMPLERS[sampler].step,
            correction=SAMPLERS[sampler].correction(grid),
            gradient_steps=num_steps,
            remat="none",
            unroll=False,
        )
        draw_fn = make_draw_fn(pipeline.encode_fn, rollout_fn, decode, name="student")
        network, text_encoder, decoder = weights
        return draw_fn(network, text_encoder, decoder, prompt, noise)[1]

    return draw


def _as_noise(latents: Any) -> np.ndarray:
    """Give latents as float32.

    Raises:
        ConfigError: they are no array of finite numbers.
    """
    try:
        noise = np.asarray(latents)
        if np.iscomplexobj(noise):
            raise TypeError("they are complex")
        noise = noise.astype(np.float32)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"latents: expected an array of numbers ({reason_of(error)})") from None
    bad = int(np.sum(~np.isfinite(noise)))
    expect(not bad, "latents", f"{bad} of {noise.size} are nan or infinite", "finite numbers")
    return noise


def make_grid(pipeline: Pipeline, num_steps: int, timestep_spacing: str) -> Grid:
    """Lay out the noise levels of a pipeline.

    Raises:
        ConfigError: no such number of steps, or a schedule that is not supported.
    """
    try:
        return pipeline.grid_fn(num_steps, timestep_spacing)
    except ValueError as error:
        raise ConfigError(f"num_steps={num_steps}: {error}") from None


def draw_folder(
    model: Generator,
    folder: Path,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    num_steps: int | None,
    guidance_scale: float | None,
    batch_size: int,
    video_format: str = "webp",
) -> float:
    """Draw every prompt from every seed into a folder.

    Args:
        model: from `rats_jax.load`.
        folder: gets 00000.png and so on, of videos 00000.webp or .mp4, with what they were made of in their
            metadata, prompts.jsonl, as `python -m rats_jax.score` reads it, and contact_sheet.png of the
            first. Where that ends with an error, prompts.jsonl lists the files that are there.
        prompts: texts.
        seeds: of the pictures of each prompt.
        num_steps, guidance_scale: as for the model.
        batch_size: pictures at once.
        video_format: of videos: 'webp', 'mp4', or 'vbench' for vbench/PROMPT-INDEX.mp4 in the folder.

    Returns:
        The seconds that drawing took, compilation not among them.

    Raises:
        ConfigError: an MP4 of pictures, or of prompts that cannot name a file for VBench.
    """
    if video_format != "webp":
        expected = "'webp': this model makes pictures"
        plays = model.makes_videos and model.pipeline.latent_shape[0] > 1
        expect(plays, "video-format", video_format, expected)
        mp4.expect_format(video_format, prompts, len(seeds))
    if video_format == mp4.VBENCH:
        (folder / mp4.VBENCH).mkdir()
    jobs = [(prompt, seed) for prompt in prompts for seed in seeds]
    size = min(batch_size, len(jobs))
    steps = model.num_steps if num_steps is None else num_steps
    scale = model.guidance_scale if guidance_scale is None else guidance_scale
    model.compile(num_steps=steps, batch_size=size)
    made = {"model": model.title, "num_steps": str(steps), "guidance_scale": str(scale)}
    seconds, shown = 0.0, []
    with (folder / _LIST).open("wb", buffering=0) as lines:
        batches = list(filled_batches(len(jobs), size))
        for rows, kept in tracked(batches, title="drawing", unit="batch", leave=False):
            texts, noise = [jobs[i][0] for i in rows], model.make_noise([jobs[i][1] for i in rows])
            start = time.perf_counter()
            images = model(texts, num_steps=steps, latents=noise, guidance_scale=scale)
            seconds += time.perf_counter() - start
            for row, image in zip(rows[kept], images[kept], strict=True):
                prompt, seed = jobs[row]
                name = f"{row:05d}{'.mp4' if video_format == 'mp4' else figures.suffix_of(image)}"
                if video_format == mp4.VBENCH:
                    name = f"{mp4.VBENCH}/{mp4.vbench_name(prompt, row % len(seeds))}"
                with _listed(lines, {"file_name": name, "prompt": prompt, "seed": seed}):
                    figures.save_result(image, folder / name, {"prompt": prompt, "seed": str(seed)} | made)
                shown += [image] if len(shown) < _SHEET else []
    titles = [prompt for prompt, _ in jobs[: len(shown)]]
    columns = min(len(seeds) if len(seeds) > 1 else 8, 12)
    if shown[0].ndim == 4 and len(shown[0]) > 1:  # each is several frames wide
        columns = min(columns, 2)
    sheet = figures.draw_grid(np.stack(shown), titles, columns=columns, tile=_TILE)
    figures.save_picture(sheet, folder / CONTACT_SHEET)
    return seconds


@contextmanager
def _listed(lines: FileIO, record: dict[str, Any]) -> Iterator[None]:
    """Add a line about what is written meanwhile; it goes again if that fails, which needs no room."""
    end, line = lines.tell(), f"{json.dumps(record)}\n".encode()
    try:
        if lines.write(line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), lines.name)
        yield
    except BaseException:
        lines.truncate(end)
        raise


def count_drawn(folder: Path) -> int:
    """Count the pictures that `draw_folder` has left in a folder, which may not be there."""
    file = folder / _LIST
    return file.read_bytes().count(b"\n") if file.exists() else 0
