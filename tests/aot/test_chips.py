"""What chips are said to do, and the estimate that follows from it."""

from rats_jax.aot.chips import CHIPS, estimate_seconds


def test_an_estimate_by_hand():
    chip = CHIPS["v5e"]._replace(flops=100.0, memory_bandwidth=10.0, link_bandwidth=2.0)
    seconds = estimate_seconds(chip, flops=300.0, weight_bytes=50.0, collective_bytes=3.0)
    expected = {"matrix_products": 3.0, "reading_weights": 5.0, "collectives": 1.5, "at_least": 5.0}
    assert seconds == expected
    costs = {"flops": 300.0, "weight_bytes": 50.0, "collective_bytes": 3.0}
    assert estimate_seconds(chip, **costs, moved_bytes=70.0) == expected | {"memory": 7.0, "at_least": 7.0}


def test_newer_generations_do_more_than_the_small_one():
    small = CHIPS["v5e"]
    for name in ("v4", "v5p", "v6e"):
        chip = CHIPS[name]
        assert chip.memory_bytes > small.memory_bytes and chip.machine.startswith(name)
        assert chip.flops > small.flops and chip.memory_bandwidth > small.memory_bandwidth
