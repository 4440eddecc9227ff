"""The command: what it refuses, and one real process that draws and ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from rats_jax.pipelines.open import load_pipeline
from tests.demonstration.test_page import free_port
from tests.finished import write_run
from tests.tiny import random_params, tiny_config, xla_flags

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "rats_jax.demo"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--model=nothing"],
            "error: model='nothing': expected an existing folder, or a hub id 'owner/name'",
        ),
        (["--model=tests", "--port=70000"], "port"),
        (["--model=tests", "--dtype=int8"], "dtype"),
        ([], "model"),
    ],
)
def test_bad_input_of_the_command_is_one_line(arguments, message):
    done = subprocess.run([*COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and message in done.stderr and done.stdout == ""
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_it_serves_a_run_until_it_is_interrupted(models, tmp_path):
    pytest.importorskip("gradio")
    from gradio_client import Client

    student = random_params(load_pipeline(models / "pipeline").network, seed=9)
    run = write_run(tmp_path / "run", tiny_config(models, teacher__num_steps=2), student)
    (run / "samples").mkdir()
    for name in ("samples/step_000004.png", "curves.png"):
        Image.new("RGB", (8, 8), "red").save(run / name)
    environment = os.environ | {"XLA_FLAGS": xla_flags(devices=1), "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        [*COMMAND, f"--model={run}", f"--port={free_port()}"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[0]
        client = Client(address, verbose=False, analytics_enabled=False, download_files=str(tmp_path / "got"))
        *shown, _ = client.predict("cat", 0, 2, 1.0, api_name="/draw")
        assert len(shown) == 6 and all(Image.open(file).size == (32, 32) for file in shown[::2])
        for text in shown[1::2]:
            assert "reward **" in text and "heldout **" in text and " ms** on cpu" in text
        sheets, curves = client.predict(api_name="/history")
        listed = sheets["value"] if isinstance(sheets, dict) else sheets
        assert [sheet["caption"] for sheet in listed] == ["update 4"]
        assert Image.open(curves).size == (8, 8)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0 and "Traceback" not in said
    assert not list(tmp_path.glob("rats_jax_demo_*"))
