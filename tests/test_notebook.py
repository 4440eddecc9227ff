"""The quickstart notebook, run from its first cell to its last with two updates."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.tiny import xla_flags

DOCS = Path(__file__).parents[1] / "docs"
NOTEBOOK = DOCS / "quickstart.ipynb"
FLAGS = "--config.seed=0"
FEW = (
    "--config.num_updates=2 --config.batch_size=8 --config.teacher.num_steps=8 "
    "--config.evaluation.num_prompts=8 --config.evaluation.batch_size=8"
)


def cells(kind):
    return [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == kind]


@pytest.mark.slow
def test_it_trains_shows_compares_and_exports(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", xla_flags(devices=1))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    given = [cell for cell in notebook.cells if "FLAGS = " in cell.source]
    assert len(given) == 1 and f'FLAGS = "{FLAGS}"' in given[0].source
    given[0].source = given[0].source.replace(FLAGS, FEW)
    run = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    folder = tmp_path / "runs" / "quickstart"
    assert json.loads((folder / "summary.json").read_text())["updates"] == 2
    assert (folder / "student" / "model_index.json").is_file()
    outputs = [output for cell in run.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.get("text", "") for output in outputs)
    assert "\r" not in printed.replace("\r\n", "\n") and "student, 4 evaluations" in printed
    assert "it draws the student's picture to 0.0" in printed
    shown = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(shown) == 4  # two sheets, the curves, the comparison
    card = [output for output in outputs if "text/markdown" in output.get("data", {})]
    assert "num_inference_steps=4" in card[-1]["data"]["text/markdown"]


def test_its_links_lead_somewhere():
    links = [link for cell in cells("markdown") for link in re.findall(r"\]\(([^)]+)\)", cell.source)]
    assert links and all((DOCS / link).is_file() for link in links)
