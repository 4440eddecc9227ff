"""metrics.jsonl over interruptions, TensorBoard events, and the moment the student leads."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event

from rats_jax.workdir.metrics import MetricsWriter, first_update_student_leads, read_metrics


def test_one_flat_object_per_update(tmp_path):
    with MetricsWriter(tmp_path / "run", step=0, tensorboard=True) as writer:
        writer.write(1, {"reward/student": np.float32(0.5), "loss/total": -1})
        lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": 1, "reward/student": 0.5, "loss/total": -1.0}]
    assert read_metrics(tmp_path / "run") == read_metrics(tmp_path / "run" / "metrics.jsonl")


def test_numbers_that_are_not_finite_stay_valid_json(tmp_path):
    with MetricsWriter(tmp_path, step=0, tensorboard=True) as writer:
        writer.write(1, {"a": float("nan"), "b": float("inf")})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert read_metrics(tmp_path) == [{"step": 1, "a": None, "b": None}]


def test_resuming_drops_what_will_be_logged_again(tmp_path):
    with MetricsWriter(tmp_path, step=0, tensorboard=True) as writer:
        for step in range(1, 8):
            writer.write(step, {"x": step})
    with MetricsWriter(tmp_path, step=4, tensorboard=True) as writer:
        for step in range(5, 10):
            writer.write(step, {"x": step * 10})
    records = read_metrics(tmp_path)
    assert [record["step"] for record in records] == list(range(1, 10))
    assert [record["x"] for record in records] == [1, 2, 3, 4, 50, 60, 70, 80, 90]


def test_a_line_that_was_cut_off_is_dropped(tmp_path):
    with MetricsWriter(tmp_path, step=0, tensorboard=True) as writer:
        writer.write(1, {"x": 1})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "x": ')
    assert read_metrics(tmp_path) == [{"step": 1, "x": 1.0}]
    with MetricsWriter(tmp_path, step=1, tensorboard=True) as writer:
        writer.write(2, {"x": 2})
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2]


def events(folder):
    """Read TensorBoard records: length uint64, crc uint32, data, crc uint32."""
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def test_tensorboard_gets_scalars_and_pictures(tmp_path):
    with MetricsWriter(tmp_path, step=0, tensorboard=True) as writer:
        writer.write(3, {"reward/student": 0.25})
        writer.write_image(3, "samples", np.zeros((4, 6, 3), np.uint8))
    values = {value.tag: (event.step, value) for event in events(tmp_path) for value in event.summary.value}
    assert values["reward/student"][0] == 3 and values["reward/student"][1].simple_value == 0.25
    picture = values["samples"][1].image
    assert (picture.height, picture.width) == (4, 6)


def lead_by_definition(updates, student, teacher, window):
    """The definition, written as slow loops."""
    leads = []
    for update in updates:
        inside = [i for i, u in enumerate(updates) if update - window < u <= update]
        mean = [sum(values[i] for i in inside) / len(inside) for values in (student, teacher)]
        leads.append(update >= window and mean[0] > mean[1])
    for i, update in enumerate(updates):
        if all(leads[i:]):
            return update
    return None


@given(
    st.integers(1, 25),
    st.integers(1, 10),
    st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), max_size=40),
)
def test_first_lead_is_as_defined(window, every, rewards):
    updates = [every * (i + 1) for i in range(len(rewards))]
    student, teacher = [s for s, _ in rewards], [t for _, t in rewards]
    assert first_update_student_leads(updates, student, teacher, window) == lead_by_definition(
        updates, student, teacher, window
    )


def test_first_lead_by_hand():
    updates = range(1, 101)
    teacher = [1.0] * 100
    student = [0.0] * 50 + [2.0] * 50
    # Above when more than half of the last 20 are of the second kind: 51 .. 61.
    assert first_update_student_leads(updates, student, teacher) == 61
    assert first_update_student_leads(updates, student[::-1], teacher) is None
    assert first_update_student_leads(updates, [2.0] * 100, teacher) == 20
    assert first_update_student_leads(range(1, 20), [2.0] * 19, [1.0] * 19) is None
    assert first_update_student_leads([1, 2, 3], [-5.0, 1.0, 1.0], [0.0] * 3, window=2) == 3
    assert first_update_student_leads([], [], []) is None


@pytest.mark.parametrize("kind", ["float", "int"])
def test_the_result_is_json(kind):
    value = first_update_student_leads(np.arange(1, 31), np.ones(30, kind), np.zeros(30))
    assert json.dumps(value) == "20"


def test_damaged_lines_are_left_out_and_counted(tmp_path, caplog):
    whole = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": None}]
    damaged = ["\0\0\0", '{"step": 3, "lo', '{"loss": 1.0}', '{"step": 4, "loss": "high"}', "[1]"]
    lines = [json.dumps(whole[0]), *damaged, json.dumps(whole[1])]
    (tmp_path / "metrics.jsonl").write_bytes("\n".join(lines).encode() + b"\n\xff\xfe\n")
    assert read_metrics(tmp_path) == whole
    assert "6 lines are damaged and left out, the first is 2" in caplog.text


def test_a_full_disk_is_seen_by_who_writes(tmp_path, monkeypatch):
    """TensorBoard's own writer has a thread, which ends then, and who has more to write waits for ever."""

    def fail(writer, event):
        raise OSError(28, "No space left on device")

    with MetricsWriter(tmp_path, step=0, tensorboard=True) as writer:
        writer.write(1, {"x": 1.0})
        monkeypatch.setattr(EventsWriter, "write_event", fail)
        for write in (
            lambda: writer.write(2, {"x": 2.0}),
            lambda: writer.write_image(2, "samples", np.zeros((4, 6, 3), np.uint8)),
        ):
            with pytest.raises(OSError, match="No space left on device"):
                write()
    monkeypatch.undo()
    assert read_metrics(tmp_path) == [{"step": 1, "x": 1.0}]
    with MetricsWriter(tmp_path, step=1, tensorboard=True) as writer:
        writer.write(2, {"x": 2.0})
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2]
