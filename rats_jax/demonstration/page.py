"""Web page of a demonstration: Gradio's controls around a stage, and what its run has drawn."""

from __future__ import annotations

import importlib
import itertools
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rats_jax.demonstration.history import find_history
from rats_jax.demonstration.stage import Stage, describe
from rats_jax.errors import ConfigError, reason_of
from rats_jax.report.figures import save_result, suffix_of
from rats_jax.report.tables import TEACHER

_MOST_STEPS, _MOST_GUIDANCE = 50, 15.0  # of the sliders, where the run itself has no more
_EXAMPLES = 8
_KEPT = 60  # files of results: those of the last draws, which a browser may still be fetching
_CACHE = 600, 3600  # seconds between two looks for copies that nobody needs, and after which none is needed
_HIGH = 480  # pixels of what the run has drawn
_SHARP = 256  # pictures of fewer pixels are enlarged with their pixels to be seen
# Side by side on a phone too, where Gradio would put the last one below the others.
_STYLE = """
.models { display: grid !important; grid-auto-flow: column; grid-auto-columns: minmax(0, 1fr); }
.models > .column { min-width: 0 !important; gap: 8px; }
.drawn { min-width: 0 !important; min-height: 6em; max-width: 512px; margin: 0 !important; }
.drawn button, .drawn .image-frame { width: 100% !important; height: auto !important; }
.drawn img { width: 100% !important; height: auto !important; object-fit: contain !important; }
.sharp img { image-rendering: pixelated; }
.said { overflow-wrap: anywhere; }
@media (max-width: 600px) { .said, .said p { font-size: 13px !important; line-height: 1.4 !important; } }
"""


def expect_gradio() -> None:
    """Refuse a demonstration where its package is not installed.

    Raises:
        ConfigError: says how it is.
    """
    if find_spec("gradio") is None:
        raise ConfigError("demo: expected the package gradio: pip install 'rats_jax[demo]'")


def open_gradio() -> Any:
    """Import gradio, which reports to nobody.

    Raises:
        ConfigError: as `expect_gradio`.
    """
    expect_gradio()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    return importlib.import_module("gradio")


def make_page(stage: Stage, *, path: str, folder: Path) -> Any:
    """Lay out the page.

    Args:
        stage: what draws.
        path: of the model, in which a run has its sheets and curves.
        folder: of this machine, gets the pictures that are shown.

    Returns:
        gradio.Blocks; its API has /draw, and of a run /history.

    Raises:
        ConfigError: as `open_gradio`.
    """
    gr = open_gradio()
    os.environ["GRADIO_TEMP_DIR"] = str(folder)  # of its copies, which go with the folder
    best, title = stage.proposed, stage.proposed.model.title
    with gr.Blocks(title=f"rats_jax: {title}", analytics_enabled=False, delete_cache=_CACHE) as page:
        gr.Markdown(f"## {title}\n{_introduction(stage)}")
        with gr.Row():
            first = stage.prompts[0] if stage.prompts else ""
            prompt = gr.Textbox(first, label="prompt", scale=4, min_width=200)
            seed = gr.Number(0, label="seed", precision=0, min_width=90)
        with gr.Row():
            most = max(_MOST_STEPS, *(entry.num_steps for entry in stage.entries))
            steps = gr.Slider(1, most, best.num_steps, step=1, label="steps", min_width=140)
            top = max(_MOST_GUIDANCE, *(entry.guidance_scale for entry in stage.entries))
            scale = gr.Slider(1, top, best.guidance_scale, step=0.1, label="guidance", min_width=140)
        inputs = [prompt, seed, steps, scale]
        offered = None
        if stage.prompts:
            offered = gr.Examples(
                stage.prompts[:_EXAMPLES], prompt, label="prompts of the run", api_visibility="private"
            )
        button = gr.Button("Draw", variant="primary")
        with gr.Row(elem_classes="models"):
            shown = [part for entry in stage.entries for part in _place(gr, entry.contestant, stage)]
        notes = gr.Markdown(elem_classes="said")
        draw, outputs = _make_draw(gr, stage, folder), [*shown, notes]
        changes = [button.click, prompt.submit, seed.change, steps.release, scale.release]
        gr.on(changes, draw, inputs, outputs, api_name="draw", trigger_mode="always_last")
        if offered is not None:
            offered.load_input_event.then(draw, inputs, outputs, api_visibility="private")
        if best.model.origin is not None:
            look = {"height": _HIGH, "buttons": ["fullscreen"], "interactive": False, "show_label": False}
            with gr.Row():
                with gr.Column(scale=3):
                    gr.Markdown("### sheets of the run")
                    sheets = gr.Gallery(label="sheets", preview=True, object_fit="contain", **look)
                with gr.Column(scale=2):
                    gr.Markdown("### its curves")
                    curves = gr.Image(label="curves", type="filepath", **look)
            page.load(_make_history(gr, path, folder), None, [sheets, curves], api_name="history")
    return page


def _introduction(stage: Stage) -> str:
    if len(stage.entries) == 1:
        return "One model, without rewards: only the work directory of a run says which it has."
    (teacher,) = (entry for entry in stage.entries if entry.contestant == TEACHER)
    return (
        "The same prompt from the same noise. Steps and guidance are those of the untrained model and of the "
        f"student; the teacher keeps its {teacher.num_steps} steps and guidance {teacher.guidance_scale:g}. "
        "A number of steps is compiled when it is first drawn with."
    )


def _place(gr: Any, name: str, stage: Stage) -> tuple[Any, Any]:
    """Lay out the picture of one model, and below it what is said of it."""
    sharp = stage.proposed.model.pipeline.image_shape()[-3] < _SHARP
    with gr.Column(min_width=0):
        gr.Markdown(f"### {name}")
        picture = gr.Image(
            label=name,
            show_label=False,
            interactive=False,
            type="filepath",
            buttons=[],
            elem_classes=["drawn", *["sharp"] * sharp],
        )
        return picture, gr.Markdown(elem_classes="said")


def _make_draw(gr: Any, stage: Stage, folder: Path) -> Callable[..., list[str]]:
    """Make what the controls call: for each model its file and what is said of it; then notes."""
    numbers = itertools.count()

    def draw(prompt: str, seed: int, num_steps: int, guidance_scale: float) -> list[str]:
        """Draw a prompt with every model; wrong input is one line on the page."""
        try:
            drawn = stage.draw(prompt, seed=seed, num_steps=num_steps, guidance_scale=guidance_scale)
        except ConfigError as error:
            raise gr.Error(str(error), print_exception=False) from None
        shown = []
        for one in drawn:
            number = next(numbers)
            file = folder / f"{number:06d}{suffix_of(one.result)}"
            made = {"prompt": prompt, "seed": str(seed), "num_steps": str(one.num_steps), "model": one.name}
            save_result(one.result, file, made)
            for old in folder.glob(f"{number - _KEPT:06d}.*"):
                old.unlink(missing_ok=True)
            shown += [str(file), describe(one, device=stage.device)]
        notes = dict.fromkeys(note for one in drawn for note in one.notes)
        return [*shown, "\n".join(f"- {note}" for note in notes)]

    return draw


def _make_history(gr: Any, path: str, folder: Path) -> Callable[[], tuple[Any, str | None]]:
    """Make what a page calls when it opens: sheets and curves as they are now."""

    def history() -> tuple[Any, str | None]:
        """Give the sheets and the curves of the run."""
        found = find_history(path, folder)
        sheets = [(str(file), caption) for file, caption in found.sheets]
        curves = None if found.curves is None else str(found.curves)
        return gr.Gallery(sheets, selected_index=len(sheets) - 1 if sheets else None), curves

    return history


def launch(page: Any, *, host: str, port: int, files: list[str]) -> str:
    """Serve a page until `page.close()`, to nobody's knowledge but who asks for it.

    Args:
        page: from `make_page`.
        host, port: that it listens on.
        files: folders and files that the page may show.

    Returns:
        Its address.

    Raises:
        ConfigError: nothing can listen there.
    """
    gr = open_gradio()
    # The fonts of the reader's own system: a page of the internet's fonts would not look the same without it.
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    try:
        _, address, _ = page.queue(default_concurrency_limit=1).launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            show_error=True,
            ssr_mode=False,
            allowed_paths=files,
            theme=theme,
            css=_STYLE,
            footer_links=["api"],
        )
    except OSError as error:
        raise ConfigError(
            f"port={port}: expected one on which {host!r} can listen ({reason_of(error)})"
        ) from None
    return address
