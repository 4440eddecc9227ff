"""GPUs that are not there: what XLA is told of them, and how many there are."""

import math
import re

import pytest

from rats_jax.aot.cards import CARDS, describe_card, parse_count
from rats_jax.aot.chips import CHIPS, describe_machine
from rats_jax.errors import ConfigError


@pytest.mark.parametrize("name", CARDS)
def test_each_card_is_described_whole(name):
    chip, card = CHIPS[name], CARDS[name]
    text = describe_card(card, memory_bytes=chip.memory_bytes, bandwidth=chip.memory_bandwidth)
    fields = dict(re.findall(r"(\w+): ([\d.]+)", text))
    assert text.count("{") == text.count("}") == 3 and "None" not in text
    assert int(fields["device_memory_size"]) == chip.memory_bytes >= 24e9
    assert int(fields["memory_bandwidth"]) == chip.memory_bandwidth
    assert int(fields["shared_memory_per_block_optin"]) == int(fields["shared_memory_per_core"]) - 1024
    assert describe_machine(name)["JAX_PLATFORMS"] == "cpu"


def test_what_is_computed_in_a_clock_is_what_the_maker_says_of_the_chip():
    """Lanes multiply and add once a clock; matrix units do 2, 4, 16 or 32 times as much in bfloat16.

    The maker's clock under their load is up to a tenth below that of the lanes.
    """
    for name, card in CARDS.items():
        lanes = 2 * card.cores * card.lanes * card.clock * 1e9
        times = math.log2(CHIPS[name].flops / lanes)
        assert min(abs(times - math.log2(whole)) for whole in (2, 4, 16, 32)) < 0.15, name


@pytest.mark.parametrize(
    ("topology", "counts"), [("h100", (1, 1)), ("h100:1", (1, 1)), ("h100:8", (1, 8)), ("a100:2x8", (2, 8))]
)
def test_machines_and_cards_are_counted(topology, counts):
    assert parse_count(topology) == counts


@pytest.mark.parametrize("topology", ["h100:0", "h100:x8", "h100:1x2x4", "h100:-1", "h100:eight"])
def test_other_counts_are_refused(topology):
    with pytest.raises(ConfigError, match=f"^topology='{topology}': expected GPU, GPU:NUMBER or"):
        parse_count(topology)


def test_the_gpus_of_both_tables_are_the_same():
    assert {name for name, chip in CHIPS.items() if chip.platform == "gpu"} == set(CARDS)


def test_a_run_has_less_than_all_of_a_gpu():
    assert CHIPS["h100"].usable_bytes == 72 * 10**9 and CHIPS["v5e"].usable_bytes == 16 * 10**9
