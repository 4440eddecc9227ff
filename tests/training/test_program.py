"""The program of a run: what `main` trains with is what `compile` reports on."""

import jax
import pytest
from jax.tree_util import tree_leaves

from rats_jax.aot.hlo import count_costs
from rats_jax.aot.trace import trace
from rats_jax.errors import ConfigError
from rats_jax.parallel import placement
from rats_jax.training.program import Program, open_mesh
from tests.tiny import tiny_config, write_tiny_reward


def test_main_and_compile_lower_the_update_to_the_same_text(models):
    config = tiny_config(models, mesh__data=4, mesh__fsdp=2, optimizer__accumulation_steps=2, batch_size=16)
    described = trace(config, jax.devices()).traced.lower().as_text().splitlines()
    lowered = Program(config).lower_update().as_text().splitlines()
    # Of a model that is only described no words are known: the ids of the empty prompt are zeros.
    differing = [(a, b) for a, b in zip(lowered, described, strict=True) if a != b]
    ((ids, zeros),) = differing
    assert "tensor<1x8xi32>" in ids and "dense<0> : tensor<1x8xi32>" in zeros


@pytest.mark.parametrize("field", ["decoder_parts", "reward_parts"])
def test_each_part_of_a_batch_has_a_row_for_each_device_of_a_mesh_that_takes_all(models, field):
    config = tiny_config(models, batch_size=16, evaluation__batch_size=16, mesh__data=-1)
    config[field] = 2
    open_mesh(config)
    config[field] = 4
    with pytest.raises(ConfigError, match=r"^batch_size=16: expected a multiple of 32 \(data=8 x fsdp=1 of"):
        open_mesh(config)


@pytest.mark.slow
def test_adapters_that_are_split_are_gathered_once(models):
    """Not at each layer of each step, by moving what they are multiplied by."""
    lora = {"lora__rank": 1024, "lora__targets": "net_0/proj"}
    program = Program(tiny_config(models, mesh__data=2, mesh__fsdp=4, teacher__num_steps=9, **lora))
    state = program.placed_state.student
    split = [x for x in tree_leaves(state) if x.sharding.shard_shape(x.shape) != x.shape]
    assert split
    found = count_costs(program.lower_update().compile().as_text()).collectives
    gathered = sum(c.bytes * c.times for c in found if c.kind in ("all-gather", "all-to-all"))
    assert gathered == sum(4 * x.size for x in split)


@pytest.mark.slow
def test_rewards_that_are_split_are_gathered_and_pictures_stay_where_they_are(models, tmp_path, monkeypatch):
    """What devices exchange does not grow with the batch, as it would where pictures met parts of weights."""
    monkeypatch.setattr(placement, "_SMALLEST_SPLIT", 2**10)
    reward, exchanged = write_tiny_reward(tmp_path / "reward", num_layers=5), []
    for batch_size in (8, 16):
        config = tiny_config(models, batch_size=batch_size, mesh__data=1, mesh__fsdp=8)
        config.rewards.pickscore_emoji.path = str(reward)
        config.sharding = (("^(base|text_encoder|decoder)/", "copy"), *config.sharding)
        program = Program(config)
        weights = tree_leaves(program.layout.frozen.rewards)
        assert any(not leaf.is_fully_replicated for leaf in weights)
        found = count_costs(program.lower_update().compile().as_text()).collective_bytes
        exchanged.append(found)
    few, many = exchanged
    assert few["all-gather"] > 0
    # Means of the batch's metrics aside, which are scalars.
    assert {kind: pytest.approx(size, abs=1000) for kind, size in few.items()} == many
