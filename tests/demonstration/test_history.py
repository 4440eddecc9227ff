"""Sheets and curves of a run, as a page shows them."""

from rats_jax.demonstration.history import History, find_history


def test_sheets_are_in_the_order_of_the_updates_and_play_where_they_can(tmp_path):
    samples = tmp_path / "run" / "samples"
    samples.mkdir(parents=True)
    for name in ("step_000100.png", "step_000020.png", "step_000020.webp", "step_1000000.png", "other.png"):
        (samples / name).touch()
    assert find_history(str(tmp_path / "run"), tmp_path).curves is None
    (tmp_path / "run" / "curves.png").touch()
    sheets, curves = find_history(str(tmp_path / "run"), tmp_path)
    assert [(file.name, caption) for file, caption in sheets] == [
        ("step_000020.webp", "update 20"),
        ("step_000100.png", "update 100"),
        ("step_1000000.png", "update 1000000"),
    ]
    assert curves == tmp_path / "run" / "curves.png" and sheets[0][0].parent == samples


def test_what_is_no_run_has_none(tmp_path):
    assert find_history("owner/name", tmp_path) == History([], None)
    assert find_history(str(tmp_path), tmp_path) == History([], None)
