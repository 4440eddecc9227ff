"""The page of an evaluation: whole, with nothing outside it, and with every text as a text."""

import base64
import io
from html.parser import HTMLParser

import pytest
from PIL import Image

from rats_jax.report.page import format_page
from rats_jax.report.tables import facts, guide
from tests.report.test_tables import ODD, made_up_report

VOID = {"meta", "link", "img"}


def png(width, height):
    stream = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(stream, format="PNG")
    return stream.getvalue()


PLOT, GRID = png(7, 5), png(900, 300)


class Page(HTMLParser):
    """Reads a page: its elements in order, the text of each, and whether all that opens is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs)
        self.elements.append((tag, dict(attrs)))
        self.texts.append("")
        if tag not in VOID:
            self.open.append((tag, len(self.texts) - 1))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for _, i in self.open:
            self.texts[i] += data

    def all(self, tag):
        return [
            (attrs, text)
            for (name, attrs), text in zip(self.elements, self.texts, strict=True)
            if name == tag
        ]


@pytest.fixture
def report():
    return made_up_report()


@pytest.fixture
def text(report):
    return format_page(report, {"heldout": PLOT, "fid": PLOT}, [("student, 4 steps", GRID), (ODD, GRID)])


@pytest.fixture
def page(text):
    return Page(text)


def test_nothing_is_fetched(page, text):
    for tag, attrs in page.elements:
        assert tag not in ("script", "iframe", "object", "base", "form") and "srcset" not in attrs
        for name in ("src", "href"):
            assert attrs.get(name, "#").startswith(("data:", "#"))
    assert "default-src 'none'" in text
    ((_, style),) = page.all("style")
    assert "url(" not in style and "@import" not in style


def test_anchors_lead_somewhere(page):
    names = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(set(names)) == len(names)
    assert {attrs["href"] for attrs, _ in page.all("a")} == {f"#{name}" for name in names}


def test_images_are_inside_with_their_size_and_a_text(page):
    images = [attrs for attrs, _ in page.all("img")]
    held = [base64.b64decode(attrs["src"].removeprefix("data:image/png;base64,")) for attrs in images]
    assert held == [PLOT, PLOT, GRID, GRID]
    assert [(attrs["width"], attrs["height"]) for attrs in images] == [("7", "5")] * 2 + [("900", "300")] * 2
    assert all(attrs["alt"] for attrs in images) and len({attrs["alt"] for attrs in images}) == 4


def test_texts_are_texts(page, text):
    assert "<b>&" not in text and ODD in page.all("pre")[0][1]
    rows = [body for attrs, body in page.all("th") if attrs["scope"] == "row"]
    assert rows.count(f"{ODD}, 4 steps") == 1 + 6
    assert page.all("figcaption")[-1][1] == ODD


def test_everything_is_there(page, report):
    whole = page.all("body")[0][1]
    for known in (*(text for fact in facts(report) for text in fact), *guide(report), report["command"]):
        assert known in whole
    assert [name for _, name in page.all("b")] == [
        measure["title"] for measure in report["measures"].values()
    ]
    assert len(page.all("table")) == 1 + len(report["measures"])
    assert [("open" in attrs) for attrs, _ in page.all("details")] == [
        key == report["judge"] for key in report["measures"]
    ]


def test_tables_have_heads_and_the_rows_of_a_contestant_together(page):
    tables, heads = page.all("table"), page.all("th")
    assert all(attrs["scope"] in ("col", "row") for attrs, _ in heads)
    assert len(page.all("tbody")) == 3 * len(tables)
    assert len(page.all("tr")) == 5 * len(tables)


def test_signs_say_what_they_are(page):
    signs = {(attrs["aria-label"], body) for attrs, body in page.all("span") if "aria-label" in attrs}
    assert signs == {
        ("better than the teacher", "▲"),
        ("worse than the teacher", "▼"),
        ("higher is better", "↑"),
        ("lower is better", "↓"),
    }


def test_a_language_a_title_and_a_width_are_given(page):
    assert page.all("html")[0][0]["lang"] == "en"
    assert page.all("title")[0][1] == page.all("h1")[0][1] == "Evaluation of runs/emoji, update 250"
    assert any(attrs.get("name") == "viewport" for attrs, _ in page.all("meta"))


def test_without_pictures_there_is_no_section_for_them(report):
    heads = [body for _, body in Page(format_page(report, {}, [])).all("h2")]
    assert heads == ["Overview", "Each measure", "How to read it", "Command"]
