"""A report of an evaluation in words and tables: what Markdown and the HTML page share, and the Markdown.

A report is what report.json holds: facts, "measures" by key in the order to show, and "rows", one for each
contestant and number of steps, one of them the teacher's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple, TypeGuard

TEACHER = "teacher"
"""The contestant that the others are compared with."""
OWN_NAMES = (TEACHER, "student", "untrained", "untrained, guided")
"""What no other contestant may be called."""

SIGNS = {
    "better": ("▲", "better than the teacher"),
    "worse": ("▼", "worse than the teacher"),
    "higher": ("↑", "higher is better"),
    "lower": ("↓", "lower is better"),
}
"""What can stand behind the text of a cell: the character, and what it says."""

DIRECTIONS = {True: "higher", False: "lower", None: ""}
"""The keys of SIGNS for what a measure's "higher_is_better" says; None is neither."""

ROLES = {
    "sum": "what training climbs",
    "trained": "trained on",
    "monitored": "measured, never trained on",
    "heldout": "no training reads it",
    "diversity": "between pictures of one prompt",
    "motion": "between frames of one video",
    "reference": "compared with real pictures",
}
"""What a measure is to the run, by its "role"."""


class Cell(NamedTuple):
    """A text, and a key of SIGNS or nothing."""

    text: str
    sign: str = ""


class Table(NamedTuple):
    """A table of a report.

    Attributes:
        head: titles of the columns.
        rows: as many cells each; the first one names the row.
        groups: the contestant of each row.
    """

    head: list[Cell]
    rows: list[list[Cell]]
    groups: list[str]


def format_markdown(report: Mapping[str, Any]) -> str:
    """Write the whole report as Markdown, readable in a terminal too."""
    sections = [
        f"# {_escape(title(report))}\n",
        "\n".join(f"- {name}: {_escape(text)}" for name, text in facts(report)) + "\n",
        f"## Overview\n\n{format_overview(report)}\n",
        "## Each measure\n",
    ]
    for key, measure in report["measures"].items():
        about = ". ".join(filter(None, (role(measure), measure["about"])))
        table = markdown(measure_table(report, key))
        sections.append(f"### {_escape(measure['title'])}\n\n{_escape(about)}\n\n{table}\n")
    sections.append(
        "## How to read it\n\n" + "\n".join(f"- {_escape(text)}" for text in guide(report)) + "\n"
    )
    sections.append(f"## Command\n\n```\n{report['command']}\n```\n")
    return "\n".join(sections)


def format_overview(report: Mapping[str, Any]) -> str:
    """Write the overview alone: one Markdown table, its columns aligned, without a newline at its end."""
    return markdown(overview_table(report))


def title(report: Mapping[str, Any]) -> str:
    """The title of the report."""
    return f"Evaluation of {report['workdir']}, update {report['update']}"


def facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was evaluated on what, as names and texts."""
    prompts, seeds = report["num_prompts"], report["num_seeds"]
    judge, seconds = report["measures"].get(report["judge"]), report["seconds"]
    return [
        ("pretrained model", report["pretrained"]),
        ("prompts", f"{prompts} of {report['prompts']}"),
        ("pictures", f"{seeds} of each prompt, {prompts * seeds} for each row of the tables"),
        ("judge", judge["title"] if judge else "none that was held out"),
        ("seed of prompts and noise", str(report["seed"])),
        ("took", f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"),
    ]


def count_steps(num_steps: int) -> str:
    """Say a number of steps."""
    return f"{num_steps} step{'' if num_steps == 1 else 's'}"


def role(measure: Mapping[str, Any]) -> str:
    """What a measure is to the run, in a few words that begin with a capital letter."""
    text = str(ROLES.get(measure["role"], measure["role"]))
    return text[:1].upper() + text[1:]


def guide(report: Mapping[str, Any]) -> list[str]:
    """How to read the tables, a paragraph each."""
    differences = [x for key in report["measures"] for x in _all(report, key, "difference")]
    compared = sum(map(_known, differences))
    return [
        "NFE: evaluations of the network for one picture. Guidance evaluates it twice a step.",
        "All rows have the same prompts and the same noise. [low, high] is a 95 % percentile interval of a "
        f"bootstrap that draws the prompts again {report['num_resamples']} times, each with all of its "
        "pictures. ± is the longer side of that interval.",
        "Differences to the teacher are paired, prompt by prompt: what makes a prompt easy for both cancels. "
        "They are known better than the means, whose intervals may overlap where a difference is clear.",
        f"{SIGNS['better'][0]} better and {SIGNS['worse'][0]} worse than the teacher: the interval of the "
        "paired difference leaves out 0. Without either, the data do not tell the two apart.",
        "Wins: the share of pictures that do better than the teacher's from the same prompt and noise, a tie "
        "being half a win; 50 % is as good as the teacher.",
        "A number without an interval is measured on all pictures at once.",
        f"There are {compared} intervals of differences here. Were nothing different, about one in twenty "
        f"would leave out 0 by chance, {compared / 20:.0f} of these: a single one that barely does means "
        "little, one that its neighbours in steps repeat means more.",
        "A reward that was trained on also rises by what only it likes. A held-out reward, diversity and the "
        "distance to real pictures say whether the pictures became better.",
    ]


def overview_table(report: Mapping[str, Any]) -> Table:
    """The table of what matters most: the trained sum, the judge and its wins, diversity, real pictures.

    Without a sum the trained rewards stand in its place, without a judge the sum's wins in that of the
    judge's.
    """
    measures = report["measures"]
    roles = {measure["role"] for measure in measures.values()}
    shown = {"sum" if "sum" in roles else "trained", "heldout", "diversity", "motion", "reference"}
    keys = [key for key, m in measures.items() if m["role"] in shown or key == report["judge"]]
    sums = [key for key in keys if measures[key]["role"] == "sum"]
    judge = report["judge"] or (sums[0] if sums else None)
    columns = [_steps_column(report), _column(report, "NFE", lambda row: f"{row['nfe']}")]
    columns.append(_column(report, "guidance", lambda row: f"{row['guidance_scale']:g}"))
    for key in keys:
        columns.append(_measure_column(report, key, with_ends=False, with_mark=True))
        if key == judge and _any(report, key, "win_rate"):
            columns.append(_wins_column(report, key, f"{measures[key]['title']} wins, %", with_ends=False))
    return _table(report, columns)


def measure_table(report: Mapping[str, Any], key: str) -> Table:
    """The table of one measure, with all intervals: its mean, its difference to the teacher, its wins."""
    columns = [_steps_column(report), _column(report, "NFE", lambda row: f"{row['nfe']}")]
    columns.append(_measure_column(report, key, with_ends=True, with_mark=False))
    if _any(report, key, "difference"):
        decimals = _decimals(_all(report, key, "difference"))
        cells = [Cell("to the teacher")]
        for row in report["rows"]:
            text = _format(_of(row, key, "difference"), decimals, with_ends=True, sign="+")
            cells.append(Cell(text, verdict(report, row, key)))
        columns.append(cells)
    if _any(report, key, "win_rate"):
        columns.append(_wins_column(report, key, "wins, %", with_ends=True))
    return _table(report, columns)


def verdict(report: Mapping[str, Any], row: Mapping[str, Any], key: str) -> str:
    """Tell a row from the teacher's by one measure: "better" or "worse" if its paired interval has no 0.

    An interval without width, as of a single prompt, tells nothing, nor does a measure of which neither more
    nor less is better.
    """
    difference, higher = _of(row, key, "difference"), report["measures"][key]["higher_is_better"]
    if not _known(difference) or difference["low"] <= 0.0 <= difference["high"] or higher is None:
        return ""
    if difference["low"] == difference["high"]:
        return ""
    return "better" if (difference["low"] > 0.0) == higher else "worse"


def _table(report: Mapping[str, Any], columns: Sequence[list[Cell]]) -> Table:
    head, *rows = (list(cells) for cells in zip(*columns, strict=True))
    return Table(head, rows, [row["contestant"] for row in report["rows"]])


def _column(report: Mapping[str, Any], head: str, text: Any) -> list[Cell]:
    return [Cell(head), *(Cell(text(row)) for row in report["rows"])]


def _steps_column(report: Mapping[str, Any]) -> list[Cell]:
    def name(row: Mapping[str, Any]) -> str:
        return f"{row['contestant']}, {count_steps(row['num_steps'])}"

    return _column(report, "contestant", name)


def _measure_column(report: Mapping[str, Any], key: str, *, with_ends: bool, with_mark: bool) -> list[Cell]:
    measure = report["measures"][key]
    decimals = _decimals(row["measures"].get(key) for row in report["rows"])
    cells = [Cell(measure["title"], DIRECTIONS[measure["higher_is_better"]])]
    for row in report["rows"]:
        text = _format(row["measures"].get(key), decimals, with_ends=with_ends)
        cells.append(Cell(text, verdict(report, row, key) if with_mark else ""))
    return cells


def _wins_column(report: Mapping[str, Any], key: str, head: str, *, with_ends: bool) -> list[Cell]:
    rates = [
        rate and {name: value if value is None else 100.0 * value for name, value in rate.items()}
        for rate in _all(report, key, "win_rate")
    ]
    decimals = _decimals(rates)
    return [Cell(head), *(Cell(_format(rate, decimals, with_ends=with_ends)) for rate in rates)]


def _of(row: Mapping[str, Any], key: str, name: str) -> Any:
    """The difference or the win rate of a row, None where there is none."""
    return (row["measures"].get(key) or {}).get(name)


def _all(report: Mapping[str, Any], key: str, name: str) -> list[Any]:
    return [_of(row, key, name) for row in report["rows"]]


def _any(report: Mapping[str, Any], key: str, name: str) -> bool:
    return any(value is not None for value in _all(report, key, name))


def _known(interval: Mapping[str, Any] | None) -> TypeGuard[Mapping[str, Any]]:
    return bool(interval) and interval["low"] is not None and interval["high"] is not None


def _decimals(intervals: Iterable[Mapping[str, Any] | None]) -> int:
    """Choose the decimals of a column: two digits of its usual half-width, else three of its spread."""
    found = [x for x in intervals if x and x["mean"] is not None]
    widths = [(x["high"] - x["low"]) / 2 for x in found if _known(x) and x["high"] > x["low"]]
    if widths:
        return _clip(1 - math.floor(math.log10(median(widths))))
    means = [x["mean"] for x in found] or [0.0]
    spread = max(means) - min(means) or abs(means[0]) or 1.0
    return _clip(2 - math.floor(math.log10(spread)))


def _clip(decimals: int) -> int:
    return min(max(decimals, 0), 6)


def _format(interval: Mapping[str, Any] | None, decimals: int, *, with_ends: bool, sign: str = "") -> str:
    """Write `mean [low, high]` or `mean ± longer side`; without an interval the mean alone."""
    if not interval or interval["mean"] is None:
        return ""

    def number(value: float, sign: str = sign) -> str:
        return f"{value:{sign}z.{decimals}f}"  # z: -0.00 is 0.00

    mean, low, high = (interval[name] for name in ("mean", "low", "high"))
    if not _known(interval):
        return number(mean)
    if with_ends:
        return f"{number(mean)} [{number(low)}, {number(high)}]"
    return f"{number(mean)} ± {number(max(high - mean, mean - low), '')}"


def markdown(table: Table) -> str:
    """Lay a table out as Markdown, the first column to the left and the others to the right."""
    lines = [[_escape(_with_sign(cell)) for cell in cells] for cells in (table.head, *table.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rules = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    head, *rows = ([cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])] for cells in lines)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rules, *rows))


def _with_sign(cell: Cell) -> str:
    return f"{cell.text} {SIGNS[cell.sign][0]}" if cell.sign else cell.text


def _escape(text: str) -> str:
    """Keep Markdown from reading anything into a text, which stays on one line."""
    return re.sub(r"([\\`*|<>&])", r"\\\1", " ".join(text.split()))
