"""A demonstration from the model's path to the last request."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from rats_jax.demonstration.page import launch, make_page
from rats_jax.demonstration.stage import open_stage
from rats_jax.paths import is_remote, resolve_path


def serve(
    path: str, *, step: int | None, dtype: str, host: str, port: int, say: Callable[[str], None]
) -> None:
    """Show a model on a web page until it is interrupted.

    Args:
        path, step, dtype: as of `open_stage`.
        host, port: that the page listens on.
        say: gets the address once it can be opened.

    Raises:
        ConfigError: as `open_stage`, `make_page` and `launch`.
    """
    stage = open_stage(path, step=step, dtype=dtype)
    with tempfile.TemporaryDirectory(prefix="rats_jax_demo_") as temporary:
        folder = Path(temporary)
        page = make_page(stage, path=path, folder=folder)
        files = [str(folder)]
        if not is_remote(path) and stage.proposed.model.origin is not None:
            run = resolve_path(path, "model").resolve()
            files += [str(run / "samples"), str(run / "curves.png")]
        say(f"{launch(page, host=host, port=port, files=files)}  (Ctrl-C ends it)")
        page.block_thread()
