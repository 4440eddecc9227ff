"""The plots of an evaluation: pictures of a sane size, of any report, whole or not there."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from rats_jax.report import plots
from tests.report.test_tables import made_up_report

NOWHERE = Path("nowhere.png")


@pytest.fixture
def report():
    return made_up_report()


@pytest.fixture
def figures(monkeypatch):
    """The figures that were written, in order, without the files."""
    kept = []
    monkeypatch.setattr(plots, "_save", lambda figure, file: kept.append(figure))
    return kept


def labels_of(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_every_measure_has_its_png(report, tmp_path):
    folder = tmp_path / "evaluation"
    files = plots.draw_frontiers(report, folder)
    assert files == {key: folder / f"frontier_{key}.png" for key in report["measures"]}
    assert sorted(folder.iterdir()) == sorted(files.values())
    for file in files.values():
        with Image.open(file) as picture:
            assert picture.format == "PNG"
            assert 600 <= picture.width <= 900 and 400 <= picture.height <= 900
            assert np.asarray(picture.convert("L")).std() > 10


def test_a_broken_disk_leaves_no_half_file(report, tmp_path, monkeypatch):
    def breaks(self, file, **options):
        file.write_bytes(b"half")
        raise OSError("No space left on device")

    whole = tmp_path / "frontier_fid.png"
    whole.write_bytes(b"of before")
    monkeypatch.setattr(Figure, "savefig", breaks)
    with pytest.raises(OSError, match="No space"):
        plots.draw_frontier(report, "fid", whole)
    with pytest.raises(OSError, match="No space"):
        plots.draw_frontier(report, "heldout", tmp_path / "frontier_heldout.png")
    assert list(tmp_path.iterdir()) == [whole] and whole.read_bytes() == b"of before"


def test_the_teacher_is_a_level_and_the_others_are_lines(report, figures):
    plots.draw_frontier(report, "heldout", NOWHERE)
    (figure,) = figures
    (axis,) = figure.axes
    assert labels_of(figure) == ["teacher, 50 steps, NFE 100", "student", '<b>&"x']
    assert axis.get_ylabel() == "held-out (higher is better)"
    assert axis.lines[0].get_ydata() == [28.2, 28.2]
    student = axis.lines[1]
    np.testing.assert_allclose(student.get_ydata(), [27.2, 28.4])
    np.testing.assert_allclose(np.log2(student.get_xdata()), [0.0, 2.0], atol=plots._DODGE)
    assert [text.get_text() for text in axis.get_xticklabels()] == ["1", "4", "100"]


def test_filled_markers_are_told_from_the_teacher(report, figures):
    plots.draw_frontier(report, "heldout", NOWHERE)
    markers = [line for line in figures[0].axes[0].lines if len(line.get_xdata()) == 1 and line.get_marker()]
    faces = {round(float(line.get_ydata()[0]), 2): line.get_markerfacecolor() for line in markers}
    assert faces[28.21] == "white" and "white" not in (faces[27.2], faces[28.4])
    assert "filled: differs" in figures[0].axes[0].get_xlabel()


def test_a_measure_without_intervals_is_drawn_without_them(report, figures):
    plots.draw_frontier(report, "fid", NOWHERE)
    (axis,) = figures[0].axes
    assert axis.get_ylabel() == "FID-AlexNet (lower is better)" and "filled" not in axis.get_xlabel()
    assert "white" not in {line.get_markerfacecolor() for line in axis.lines}
    assert not axis.patches


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_few_rows_are_drawn(report, tmp_path, rows):
    report["rows"] = report["rows"][:rows]
    plots.draw_frontier(report, "heldout", tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").stat().st_size > 1000


def test_names_are_no_formulas_and_none_is_left_out(report, tmp_path, figures):
    for row, name in zip(report["rows"][1:], ("_hidden", r"$\broken{$", "long " * 20), strict=True):
        row["contestant"] = name
    plots.draw_frontier(report, "heldout", NOWHERE)
    figures[0].savefig(tmp_path / "names.png")
    _, hidden, formula, long = labels_of(figures[0])
    assert hidden.strip() == "_hidden" and formula == r"\$\broken{\$" and len(long) == 2 * plots._COLUMN


def test_crowded_ticks_lose_their_label(report, figures):
    for row, nfe in zip(report["rows"], (1000, 999, 1, 2), strict=True):
        row["nfe"] = nfe
    plots.draw_frontier(report, "heldout", NOWHERE)
    (axis,) = figures[0].axes
    assert [text.get_text() for text in axis.get_xticklabels()] == ["1", "2", "999", ""]
    assert list(axis.get_xticks()) == [1, 2, 999, 1000]


def test_a_long_title_takes_two_lines(report, figures):
    report["measures"]["fid"]["title"] = "Fréchet distance of the last features of AlexNet"
    plots.draw_frontier(report, "fid", NOWHERE)
    title, direction = figures[0].axes[0].get_ylabel().split("\n")
    assert title == "Fréchet distance of the last featur\u2026" and direction == "(lower is better)"
