"""Progress where no terminal is: lines with the time that is left, by an injected clock."""

import io
import sys

import pytest

from rats_jax.errors import ConfigError
from rats_jax.progress import Lines, progress, tracked


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def lines_of(stream):
    return stream.getvalue().splitlines()


def make(stream, clock, **more):
    settings = {"title": "RATS", "unit": "update", "done": 0, "seconds": 15.0, "leave": True} | more
    return Lines(400, stream=stream, clock=clock, **settings)


def test_a_line_every_so_many_seconds_with_what_is_left():
    stream, clock = io.StringIO(), Clock()
    bar = make(stream, clock)
    for step in range(1, 121):
        clock.now += 0.5
        bar.set_postfix_str(f"student {step}")
        bar.update(1)
    assert "\r" not in stream.getvalue()
    assert lines_of(stream) == [
        "RATS: 8% 30/400 [00:15<03:05,  2.00update/s, student 30]",
        "RATS: 15% 60/400 [00:30<02:50,  2.00update/s, student 60]",
        "RATS: 22% 90/400 [00:45<02:35,  2.00update/s, student 90]",
        "RATS: 30% 120/400 [01:00<02:20,  2.00update/s, student 120]",
    ]
    bar.close()
    assert len(lines_of(stream)) == 4  # the last count has its line


def test_the_last_count_is_told_and_a_resumed_run_counts_its_own_pace():
    stream, clock = io.StringIO(), Clock()
    bar = make(stream, clock, done=390)
    for _ in range(10):
        clock.now += 1.0
        bar.update(1)
    assert lines_of(stream) == []
    bar.close()
    assert lines_of(stream) == ["RATS: 100% 400/400 [00:10<00:00,  1.00update/s]"]


def test_what_need_not_stay_is_told_only_where_it_takes_long():
    for pace, told in ((1.0, []), (20.0, ["RATS: 0% 1/400 [00:20<2:13:00, 20.00s/update]"])):
        stream, clock = io.StringIO(), Clock()
        bar = make(stream, clock, leave=False)
        clock.now += pace
        bar.update(1)
        bar.close()
        assert lines_of(stream) == told


def test_seconds_that_are_no_number_are_one_line(monkeypatch):
    monkeypatch.setenv("TQDM_MININTERVAL", "often")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with pytest.raises(ConfigError, match="^TQDM_MININTERVAL='often': expected a number of seconds$"):
        progress(3, title="RATS", unit="update")


def test_slow_steps_have_a_line_each():
    stream, clock = io.StringIO(), Clock()
    bar = make(stream, clock)
    for _ in range(3):
        clock.now += 60.0
        bar.update(1)
    assert [line.split(",")[0] for line in lines_of(stream)] == [
        f"RATS: {n / 4:.0f}% {n}/400 [0{n}:00<{(400 - n) // 60}:{(400 - n) % 60:02}:00" for n in (1, 2, 3)
    ]


@pytest.mark.parametrize("terminal", [True, False, "of a notebook"])
def test_a_bar_on_a_terminal_and_lines_elsewhere(monkeypatch, terminal):
    stream = io.StringIO()
    stream.isatty = lambda found=bool(terminal): found
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    if terminal == "of a notebook":
        monkeypatch.setenv("JPY_PARENT_PID", "1")
        terminal = False
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TQDM_MININTERVAL", "0")
    assert list(tracked([1, 2, 3], title="drawing", unit="batch")) == [1, 2, 3]
    text = stream.getvalue()
    assert ("\r" in text) == terminal and "3/3" in text
    if not terminal:
        assert [line.split()[2] for line in lines_of(stream)] == ["1/3", "2/3", "3/3"]


def test_nothing_is_shown_where_nothing_is_wanted(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    bar = progress(3, title="drawing", unit="batch", shown=False)
    bar.update(3)
    bar.close()
    assert stream.getvalue() == ""


def test_what_fails_leaves_a_last_line(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with pytest.raises(ZeroDivisionError):
        for number in tracked([2, 1, 0], title="drawing", unit="batch"):
            1 / number
    del number
    assert "drawing: 67% 2/3" in stream.getvalue()
