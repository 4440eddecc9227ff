"""A report of an evaluation as one HTML file that needs nothing else: no script, no network, no fonts."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import groupby
from typing import Any

from PIL import Image

from rats_jax.report.tables import (
    SIGNS,
    Cell,
    Table,
    facts,
    guide,
    measure_table,
    overview_table,
    role,
    title,
)

# By its policy the browser refuses whatever would have to be fetched.
_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
{facts}
<nav aria-label="Sections">
{links}
</nav>
</header>
<main>
{sections}
</main>
</body>
</html>
"""
_STYLE = """\
:root {
  --ground: #fff; --text: #1c1f23; --soft: #5b636d; --line: #d9dde2; --band: #f4f6f8; --link: #0a58a8;
  --better: #0b7a4b; --worse: #b3261e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #15181c; --text: #e4e7ea; --soft: #a0a8b1; --line: #353b42; --band: #1e2227; --link: #7db8f0;
    --better: #5bc796; --worse: #f08a80;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 1.5rem clamp(.9rem, 3vw, 2rem) 4rem; max-width: 80rem;
  background: var(--ground); color: var(--text); font: 1rem/1.55 system-ui, sans-serif;
}
h1, h2, summary, dd, li, p, figcaption, code { overflow-wrap: anywhere; }
h1 { margin: 0 0 1rem; font-size: clamp(1.35rem, 4vw, 1.9rem); line-height: 1.25; }
h2 { margin: 2.75rem 0 .75rem; font-size: 1.25rem; }
p, li { max-width: 46rem; }
p { margin: .5rem 0; }
li { margin: .4rem 0; }
ul { padding-left: 1.2rem; }
a { color: var(--link); }
.soft, dt, figcaption { color: var(--soft); }
.soft, figcaption { font-size: .9rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.25rem; margin: 0; }
dl { font-size: .95rem; }
dd { margin: 0; min-width: 0; }
@media (max-width: 34rem) {
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .4rem; }
}
nav { display: flex; flex-wrap: wrap; gap: .1rem 1.25rem; margin-top: 1.25rem; }
nav a { padding: .3rem 0; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: .4rem; }
:is(a, summary, .scroll):focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
table {
  border-collapse: separate; border-spacing: 0; width: 100%;
  font-size: .875rem; line-height: 1.35; font-variant-numeric: tabular-nums;
}
th, td { padding: .32rem .7rem; text-align: right; white-space: nowrap; font-weight: normal; }
th:first-child {
  position: sticky; left: 0; text-align: left; background: var(--ground); border-right: 1px solid var(--line);
  white-space: normal; overflow-wrap: anywhere; min-width: 15rem; max-width: 17rem;
}
thead th { vertical-align: bottom; color: var(--soft); border-bottom: 1px solid var(--line); }
thead th:not(:first-child) { white-space: normal; }
tbody + tbody tr:first-child > * { border-top: 1px solid var(--line); }
tbody tr:hover > * { background: var(--band); }
.better, .worse, .none { display: inline-block; width: 1.1em; text-align: right; }
.better { color: var(--better); }
.worse { color: var(--worse); }
@media (max-width: 34rem) {
  table { font-size: .8125rem; }
  th, td { padding: .32rem .5rem; }
  th:first-child { min-width: 9rem; max-width: 9.5rem; }
}
figure { margin: 0; min-width: 0; }
img { display: block; height: auto; background: #fff; }
.plots { display: grid; gap: 1.25rem; }
.plots { grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); }
.plots img { width: 100%; border: 1px solid var(--line); border-radius: .4rem; }
figcaption { margin: .35rem 0; }
.grids { display: grid; gap: 1.5rem; }
.grids .scroll { width: fit-content; max-width: 100%; background: #fff; }
.grids img { max-width: 100%; }
details { border-top: 1px solid var(--line); }
details:last-of-type { border-bottom: 1px solid var(--line); }
summary { padding: .6rem 0; cursor: pointer; }
summary .soft { margin-left: .5rem; }
details[open] { padding-bottom: 1.25rem; }
details .scroll { margin-top: .75rem; width: fit-content; max-width: 100%; }
pre {
  margin: 0; padding: .8rem 1rem; overflow-x: auto; background: var(--band); border-radius: .4rem;
  font-size: .875rem; white-space: pre-wrap;
}
@media print { .scroll { overflow: visible; } nav { display: none; } }
"""


def format_page(
    report: Mapping[str, Any], plots: Mapping[str, bytes], grids: Sequence[tuple[str, bytes]]
) -> str:
    """Write the whole report as one HTML file.

    Args:
        report: see `rats_jax.report.tables`.
        plots: PNGs by the key of their measure; those absent are left out.
        grids: sheets of pictures, each a title and a PNG, or of videos and a WebP that plays.

    Returns:
        The file: every image is inside, every text of the report is escaped.
    """
    marks = ", ".join(f"{_sign(name)} {SIGNS[name][1]}" for name in ("better", "worse"))
    reading = f'<p class="soft">{marks}, by a paired 95 % interval. <a href="#reading">How to read it</a></p>'
    guidance = "\n".join(f"<li>{escape(text)}</li>" for text in guide(report))
    sections = [
        ("overview", "Overview", f"{_table(overview_table(report), 'Overview')}\n{reading}"),
        ("plots", "Against evaluations", _plots(report, plots)),
        ("grids", "Pictures", "\n".join(_grid(*grid) for grid in grids)),
        ("measures", "Each measure", "\n".join(_measure(report, key) for key in report["measures"])),
        ("reading", "How to read it", f"<ul>\n{guidance}\n</ul>"),
        ("command", "Command", f"<pre><code>{escape(report['command'])}</code></pre>"),
    ]
    shown = [section for section in sections if section[2]]
    return _PAGE.format(
        title=escape(title(report)),
        style=_STYLE,
        facts=_facts(report),
        links="\n".join(f'<a href="#{name}">{head}</a>' for name, head, _ in shown),
        sections="\n".join(_section(*section) for section in shown),
    )


def _section(name: str, head: str, body: str) -> str:
    return f'<section id="{name}">\n<h2>{head}</h2>\n<div class="{name}">\n{body}\n</div>\n</section>'


def _facts(report: Mapping[str, Any]) -> str:
    lines = (f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts(report))
    return "\n".join(["<dl>", *lines, "</dl>"])


def _plots(report: Mapping[str, Any], plots: Mapping[str, bytes]) -> str:
    figures = []
    for key, measure in report["measures"].items():
        if key in plots:
            name = measure["title"]
            alt = f"{name} against network evaluations, a line a contestant, the teacher's level dashed"
            figures.append(_figure(_image(plots[key], alt), f"{name}: {measure['about']}"))
    return "\n".join(figures)


def _grid(name: str, sheet: bytes) -> str:
    # Shrunk to a phone's width its tiles would show nothing: it keeps some width and scrolls.
    (width, _), _ = _read_head(sheet)
    image = _image(sheet, f"Pictures: {name}", style=f"min-width: min({width}px, 40rem)")
    return _figure(_scroll(image, name), name)


def _measure(report: Mapping[str, Any], key: str) -> str:
    measure = report["measures"][key]
    name, opened = escape(measure["title"]), " open" if key == report["judge"] else ""
    table = _table(measure_table(report, key), measure["title"])
    summary = f'<summary><b>{name}</b> <span class="soft">{escape(role(measure))}</span></summary>'
    return f"<details{opened}>\n{summary}\n<p>{escape(measure['about'])}</p>\n{table}\n</details>"


def _figure(content: str, caption: str) -> str:
    return f"<figure>\n{content}\n<figcaption>{escape(caption)}</figcaption>\n</figure>"


def _image(picture: bytes, alt: str, style: str = "") -> str:
    (width, height), kind = _read_head(picture)
    data = base64.b64encode(picture).decode()
    attributes = f'alt="{escape(alt)}" width="{width}" height="{height}" style="{style}"'
    return f'<img src="data:image/{kind};base64,{data}" {attributes}>'


def _read_head(picture: bytes) -> tuple[tuple[int, int], str]:
    """Read width and height, and 'png' or 'webp'."""
    with Image.open(io.BytesIO(picture)) as opened:
        return opened.size, str(opened.format).lower()


def _scroll(content: str, name: str) -> str:
    """Let what is wide scroll by itself, with the keyboard too."""
    return f'<div class="scroll" role="region" aria-label="{escape(name)}" tabindex="0">\n{content}\n</div>'


def _table(table: Table, name: str) -> str:
    """Lay a table out, the rows of a contestant in a body of their own."""
    signed = [any(cells[i].sign for cells in table.rows) for i in range(len(table.head))]
    head = "".join(f'<th scope="col">{_cell(cell, False)}</th>' for cell in table.head)
    lines = [f"<table>\n<thead><tr>{head}</tr></thead>"]
    for _, members in groupby(zip(table.groups, table.rows, strict=True), key=lambda pair: pair[0]):
        lines += ["<tbody>", *(_row(cells, signed) for _, cells in members), "</tbody>"]
    return _scroll("\n".join([*lines, "</table>"]), name)


def _row(cells: Sequence[Cell], signed: Iterable[bool]) -> str:
    first, *others = (_cell(cell, keep) for cell, keep in zip(cells, signed, strict=True))
    return f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{text}</td>" for text in others) + "</tr>"


def _cell(cell: Cell, keep: bool) -> str:
    """Write a cell; `keep` leaves the sign's room where there is none, so that numbers stay in line."""
    sign = f"&nbsp;{_sign(cell.sign)}" if cell.sign else '&nbsp;<span class="none"></span>' if keep else ""
    return escape(cell.text) + sign


def _sign(name: str) -> str:
    character, says = SIGNS[name]
    return f'<span class="{name}" role="img" aria-label="{says}" title="{says}">{character}</span>'
