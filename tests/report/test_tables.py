"""The tables of an evaluation, in Markdown, against a report whose cells are known by hand."""

import copy
import re

import pytest

from rats_jax.report.tables import (
    ROLES,
    SIGNS,
    facts,
    format_markdown,
    format_overview,
    guide,
    measure_table,
    overview_table,
    verdict,
)

ODD = '<b>&"x'


def interval(mean, width):
    return {"mean": mean, "low": mean - width, "high": mean + width}


def measured(mean, width, difference=None, wins=None):
    return {
        "mean": mean,
        "low": mean - width,
        "high": mean + width,
        "difference": difference,
        "win_rate": wins,
    }


def made_up_report():
    """A report with a teacher, a student of 1 and 4 steps, and one whose name is no plain text."""

    def measure(title, role, higher=True):
        return {"title": title, "role": role, "higher_is_better": higher, "about": f"About {title}."}

    def row(contestant, num_steps, scale, reward, heldout, diversity, lpips, fid):
        alone = {"mean": fid, "low": None, "high": None, "difference": None, "win_rate": None}
        measures = {
            "reward": reward,
            "heldout": heldout,
            "diversity": diversity,
            "lpips": lpips,
            "fid": alone,
        }
        nfe = num_steps * (2 if scale != 1.0 else 1)
        known = {"contestant": contestant, "num_steps": num_steps, "guidance_scale": scale, "nfe": nfe}
        return known | {"measures": measures | {"match": copy.deepcopy(reward)}}

    rows = [
        row(
            *("teacher", 50, 3.0, measured(2.924, 0.02), measured(28.2, 0.3)),
            *(measured(0.21, 0.008), measured(0.24, 0.006), 31.0),
        )
    ]
    for contestant, num_steps, gap in (("student", 1, -1.0), ("student", 4, 0.2), (ODD, 4, 0.01)):
        wins = interval(0.5 + 0.3 * gap, 0.042)
        rows.append(
            row(
                *(
                    contestant,
                    num_steps,
                    1.0,
                    measured(2.924 + 0.1 * gap, 0.02, interval(0.1 * gap, 0.006), wins),
                ),
                measured(28.2 + gap, 0.3, interval(gap, 0.08), wins),
                measured(0.21 + 0.01 * gap, 0.008, interval(0.01 * gap, 0.001)),
                measured(0.24 - 0.01 * gap, 0.006, interval(-0.01 * gap, 0.001), wins),
                31.0 - gap,
            )
        )
    return {
        "workdir": "runs/emoji",
        "update": 250,
        "pretrained": "assets/emoji/pipeline",
        "command": f"python -m rats_jax.evaluate --contestant='{ODD}=runs/other'",
        "num_prompts": 256,
        "num_seeds": 4,
        "prompts": "assets/emoji/prompts.txt",
        "seed": 1234,
        "num_resamples": 2000,
        "judge": "heldout",
        "seconds": 812.0,
        "measures": {
            "reward": measure("trained sum", "sum"),
            "match": measure("match", "trained"),
            "heldout": measure("held-out", "heldout"),
            "diversity": measure("variety", "diversity"),
            "lpips": measure("LPIPS", "reference", higher=False),
            "fid": measure("FID-AlexNet", "reference", higher=False),
        },
        "rows": rows,
    }


@pytest.fixture
def report():
    return made_up_report()


def cells_of(markdown):
    """Read a Markdown table: by the first cell of each line, the others by the title of their column."""
    head, rule, *lines = ([c.strip() for c in line.strip("|").split(" | ")] for line in markdown.splitlines())
    assert all(set(cell) <= set("-:") for cell in rule)
    return {line[0]: dict(zip(head[1:], line[1:], strict=True)) for line in lines}


def texts_of(table):
    return {row[0].text: [(cell.text, cell.sign) for cell in row[1:]] for row in table.rows}


def test_the_overview_by_hand(report):
    rows = cells_of(format_overview(report))
    assert list(rows) == ["teacher, 50 steps", "student, 1 step", "student, 4 steps", r'\<b\>\&"x, 4 steps']
    assert rows["teacher, 50 steps"] == {
        "NFE": "100",
        "guidance": "3",
        "trained sum ↑": "2.924 ± 0.020",
        "held-out ↑": "28.20 ± 0.30",
        "held-out wins, %": "",
        "variety ↑": "0.2100 ± 0.0080",
        "LPIPS ↓": "0.2400 ± 0.0060",
        "FID-AlexNet ↓": "31.00",
    }
    assert rows["student, 4 steps"] == {
        "NFE": "4",
        "guidance": "1",
        "trained sum ↑": "2.944 ± 0.020 ▲",
        "held-out ↑": "28.40 ± 0.30 ▲",
        "held-out wins, %": "56.0 ± 4.2",
        "variety ↑": "0.2120 ± 0.0080 ▲",
        "LPIPS ↓": "0.2380 ± 0.0060 ▲",
        "FID-AlexNet ↓": "30.80",
    }
    assert rows["student, 1 step"]["LPIPS ↓"] == "0.2500 ± 0.0060 ▼"


def test_the_lines_of_a_table_are_equally_long(report):
    assert len({len(line) for line in format_overview(report).splitlines()}) == 1


def test_a_measure_by_hand(report):
    table = measure_table(report, "heldout")
    assert [cell.text for cell in table.head] == [
        "contestant",
        "NFE",
        "held-out",
        "to the teacher",
        "wins, %",
    ]
    rows = texts_of(table)
    assert rows["teacher, 50 steps"] == [("100", ""), ("28.20 [27.90, 28.50]", ""), ("", ""), ("", "")]
    assert rows["student, 4 steps"] == [
        ("4", ""),
        ("28.40 [28.10, 28.70]", ""),
        ("+0.200 [+0.120, +0.280]", "better"),
        ("56.0 [51.8, 60.2]", ""),
    ]
    assert rows[f"{ODD}, 4 steps"][2] == ("+0.010 [-0.070, +0.090]", "")
    assert table.groups == ["teacher", "student", "student", ODD]


def test_a_measure_of_the_whole_set_has_neither_brackets_nor_comparisons(report):
    table = measure_table(report, "fid")
    assert [cell.text for cell in table.head] == ["contestant", "NFE", "FID-AlexNet"]
    assert [row[2].text for row in table.rows] == ["31.00", "32.00", "30.80", "30.99"]


@pytest.mark.parametrize("higher", [True, False])
@pytest.mark.parametrize(
    ("low", "high", "sign"),
    [
        (0.1, 0.3, 1),
        (-0.3, -0.1, -1),
        (-0.1, 0.3, 0),
        (0.0, 0.3, 0),
        (-0.3, 0.0, 0),
        (0.2, 0.2, 0),
        (None, None, 0),
    ],
)
def test_only_an_interval_without_0_tells_apart(report, low, high, sign, higher):
    row = report["rows"][1]
    row["measures"]["heldout"]["difference"] = {"mean": 0.2, "low": low, "high": high}
    report["measures"]["heldout"]["higher_is_better"] = higher
    assert verdict(report, row, "heldout") == {0: "", 1: "better", -1: "worse"}[sign if higher else -sign]
    report["measures"]["heldout"]["higher_is_better"] = None
    assert verdict(report, row, "heldout") == ""
    assert "held-out" in cells_of(format_overview(report))["teacher, 50 steps"]  # and no arrow


def test_plus_or_minus_is_the_longer_side(report):
    report["rows"][0]["measures"]["heldout"] |= {"low": 27.8, "high": 28.3}
    assert cells_of(format_overview(report))["teacher, 50 steps"]["held-out ↑"] == "28.20 ± 0.40"


def test_no_number_is_minus_0(report):
    report["rows"][1]["measures"]["heldout"]["difference"]["mean"] = -0.00001
    assert measure_table(report, "heldout").rows[1][3].text.startswith("+0.000 [")


def test_without_sum_and_judge_others_take_their_place(report):
    del report["measures"]["heldout"]
    report["judge"] = ""
    titles = [cell.text for cell in overview_table(report).head]
    assert titles[3:5] == ["trained sum", "trained sum wins, %"] and "match" not in titles
    del report["measures"]["reward"]
    assert [cell.text for cell in overview_table(report).head][3:5] == ["match", "variety"]
    assert ("judge", "none that was held out") in facts(report)


def test_what_a_row_does_not_have_is_empty(report):
    del report["rows"][2]["measures"]["lpips"]
    report["rows"][1]["measures"]["lpips"] = None
    rows = cells_of(format_overview(report))
    assert [row["LPIPS ↓"] for row in rows.values()][1:3] == ["", ""]
    assert texts_of(measure_table(report, "lpips"))["student, 4 steps"] == [
        ("4", ""),
        ("", ""),
        ("", ""),
        ("", ""),
    ]


def test_the_whole_report_has_all_of_it(report):
    text = format_markdown(report)
    for measure in report["measures"].values():
        assert f"### {measure['title']}\n\n" in text and measure["about"] in text
    assert format_overview(report) in text and report["command"] in text
    assert all(hint[:40].split("[")[0] in text for hint in guide(report))
    for fact in ("256 of assets/emoji/prompts.txt", "4 of each prompt, 1024 for", "took: 14 minutes"):
        assert fact in text
    assert set(re.findall("[▲▼↑↓]", text)) == {sign for sign, _ in SIGNS.values()}
    assert all(measure["role"] in ROLES for measure in report["measures"].values())


def test_the_number_of_comparisons_is_counted(report):
    # 5 measures with differences, 3 rows beside the teacher's.
    assert any(hint.startswith("There are 15 intervals") for hint in guide(report))


def test_a_name_stays_in_its_cell(report):
    report["rows"][1]["contestant"] = "a|b\n*c*"
    assert r"| a\|b \*c\*, 1 step " in format_overview(report)
