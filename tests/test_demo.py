"""The command: what it refuses, and one real process that draws and ends."""

import os
import signal
import subprocess
import sys

import pytest
from PIL import Image

from rats_jax.pipelines.open import load_pipeline
from tests.commands import ROOT, assert_one_line, call, free_port
from tests.finished import write_run
from tests.tiny import random_params, tiny_config, xla_flags


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=nothing"], "model='nothing': expected an existing folder, or a hub id 'owner/name'"),
        (["--model=tests", "--port=70000"], "flag --port=70000: 70000 is not an integer in the range [1, 6"),
        (["--model=tests", "--dtype=int8"], "flag --dtype=int8: value should be one of <float32|bfloat16>"),
        ([], "flag --model=None: Flag --model must have a value other than None."),
    ],
)
def test_bad_input_of_the_command_is_one_line(arguments, message):
    assert_one_line(call("demo", *arguments), message)


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
        [sys.executable, "-m", "rats_jax.demo", f"--model={run}", f"--port={free_port()}"],
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
