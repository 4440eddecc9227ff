"""The plots of an evaluation: each measure against the evaluations of the network that a picture takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # not pyplot: needs no display, and nothing has to be closed
from matplotlib.ticker import FixedLocator, NullLocator

from rats_jax.files import whole_file
from rats_jax.report.tables import DIRECTIONS, SIGNS, TEACHER, verdict

# Okabe and Ito's colours, which the colour-blind tell apart too; the shapes say it once more.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_MARKERS = "osD^vPX"
_GREY = "0.35"
_WIDTH, _DPI, _FONT = 4.1, 170, 8.5
_COLUMN = 24
"""Characters that fit into half the width; names that are longer have the legend's whole width."""
_DODGE = 0.07
"""Octaves between contestants with the same number of evaluations, whose intervals would hide each other."""


def draw_frontiers(report: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Draw every measure of a report, into frontier_KEY.png.

    Args:
        report: see `rats_jax.report.tables`.
        folder: where to; made if absent.

    Returns:
        The files, by the key of their measure.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {key: folder / f"frontier_{key}.png" for key in report["measures"]}
    for key, file in files.items():
        draw_frontier(report, key, file)
    return files


def draw_frontier(report: Mapping[str, Any], key: str, file: Path) -> None:
    """Draw one measure against the number of evaluations: a line for each contestant, the teacher's level.

    A filled marker is a mean that the paired interval tells from the teacher's; contestants with the same
    number of evaluations stand a little beside each other.

    Args:
        report: see `rats_jax.report.tables`.
        key: of the measure. Rows without it are left out.
        file: PNG to write, whole or not at all.
    """
    rows = [row for row in report["rows"] if (row["measures"].get(key) or {}).get("mean") is not None]
    names = list(dict.fromkeys(row["contestant"] for row in rows if row["contestant"] != TEACHER))
    columns = 1 if max(map(len, names), default=0) > _COLUMN else 2
    height = 3.1 + 0.19 * math.ceil((len(names) + 1) / columns)
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axis = figure.add_subplot()
    handles: list[Any] = []
    labels: list[str] = []
    for row in (row for row in rows if row["contestant"] == TEACHER):
        handles.append(_draw_teacher(axis, row["measures"][key]))
        labels.append(f"teacher, {row['num_steps']} steps, NFE {row['nfe']}")
    for i, name in enumerate(names):
        own = sorted((row for row in rows if row["contestant"] == name), key=lambda row: row["nfe"])
        told = [bool(verdict(report, row, key)) for row in own]
        points = [row["measures"][key] for row in own]
        nfes = np.array([row["nfe"] for row in own]) * 2.0 ** (_DODGE * (i - (len(names) - 1) / 2))
        handles.append(_draw_contestant(axis, nfes, points, told, i))
        labels.append(name)
    compared = any(row["measures"][key].get("difference") for row in rows)
    _label_axes(axis, report["measures"][key], compared=compared)
    _set_ticks(axis, sorted({row["nfe"] for row in rows}))
    if handles:
        shown = [_plain(label) for label in labels]
        figure.legend(handles, shown, loc="outside upper left", ncols=columns, fontsize=_FONT, frameon=False)
    _save(figure, file)


def _draw_teacher(axis: Axes, point: Mapping[str, Any]) -> Any:
    """Draw the teacher's mean over the whole width, and its interval as a band."""
    if point["low"] is not None and point["high"] is not None:
        axis.axhspan(point["low"], point["high"], color=_GREY, alpha=0.13, linewidth=0)
    return axis.axhline(point["mean"], color=_GREY, linestyle="--", linewidth=1.2)


def _draw_contestant(
    axis: Axes, nfes: np.ndarray, points: Sequence[Mapping[str, Any]], told: Sequence[bool], i: int
) -> Any:
    """Draw the means of a contestant, their intervals, and which of them are told from the teacher's.

    Args:
        axis: to draw on.
        nfes: [N], ascending.
        points: N means, with or without the ends of their intervals.
        told: N times, whether the marker is filled.
        i: number of the contestant, for its colour and shape.
    """
    colour, marker = _COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)]
    means = np.array([point["mean"] for point in points], np.float64)
    ends = [[point["low"], point["high"]] for point in points]
    ends = np.array([[np.nan, np.nan] if None in pair else pair for pair in ends], np.float64).T
    axis.vlines(nfes, ends[0], ends[1], color=colour, linewidth=1.2)
    axis.plot(nfes, means, color=colour, linewidth=1.2, alpha=0.6)
    paired = any(point.get("difference") for point in points)
    for nfe, mean, filled in zip(nfes, means, told, strict=True):
        face = colour if filled or not paired else "white"
        axis.plot(nfe, mean, marker, color=colour, markerfacecolor=face, markersize=5, zorder=3)
    (handle,) = axis.plot([], [], marker=marker, color=colour, markersize=5)
    return handle


def _label_axes(axis: Axes, measure: Mapping[str, Any], *, compared: bool) -> None:
    """Name both axes, the direction that is better, and, if means are compared, what a filled marker is."""
    direction = DIRECTIONS[measure["higher_is_better"]]
    better = f"({SIGNS[direction][1]})" if direction else ""
    axis.set_ylabel(_upright(measure["title"], better), fontsize=_FONT)
    note = "\nfilled: differs from the teacher, paired 95 % interval" if compared else ""
    axis.set_xlabel(f"NFE: network evaluations a picture{note}", fontsize=_FONT)
    axis.grid(alpha=0.3)


def _set_ticks(axis: Axes, nfes: Sequence[int]) -> None:
    """Make the numbers of evaluations the ticks of a logarithmic axis; crowded ones lose their label."""
    if not nfes:
        return
    axis.set_xscale("log", base=2)
    axis.set_xlim(nfes[0] * 2**-0.35, nfes[-1] * 2**0.35)
    places = np.log2(nfes)
    digit = 0.021 * (places[-1] - places[0] + 0.7)  # the width of a digit, in octaves
    labels, end = [], -np.inf
    for nfe, place in zip(nfes, places, strict=True):
        half = digit * len(str(nfe)) / 2
        fits = place - half > end + digit / 2
        labels.append(str(nfe) if fits else "")
        end = place + half if fits else end
    axis.xaxis.set_major_locator(FixedLocator(list(map(float, nfes))))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticklabels(labels, fontsize=_FONT)


def _upright(title: str, direction: str) -> str:
    """Write the title of a measure along its axis, on two lines if it is long."""
    between = "\n" if len(title) + len(direction) > 1.5 * _COLUMN else " "
    return f"{_plain(title, 1.5 * _COLUMN)}{between}{direction}"


def _plain(text: str, width: float = 2 * _COLUMN) -> str:
    """Cut a text to some characters; no formula for matplotlib, and nothing that its legends leave out."""
    text = text if len(text) <= width else text[: int(width) - 1] + "\u2026"
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def _save(figure: Figure, file: Path) -> None:
    """Write a PNG whole or not at all."""
    with whole_file(file) as partial:
        figure.savefig(partial, dpi=_DPI, format="png")
