"""Stacks of layers: one loop each, whatever their number; gradients, adapters and names layer by layer."""

import copy
import dataclasses
import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict

from rats_jax.networks.lora import Adapted, init_adapters, merge_adapters, variables, with_adapters
from rats_jax.networks.stack import run_layers, stack
from rats_jax.weights.naming import to_torch_names, unstack, unstack_params
from rats_jax.weights.state_dict import fit_state_dict
from rats_jax.weights.stored import read_all
from tests.networks.jaxprs import equations, scans
from tests.networks.mmdit_originals import (
    CONFIGS,
    assert_close,
    draw_inputs,
    gradients_of,
    make_pair,
    output_of,
    run,
)
from tests.networks.parity import compile_quickly

KINDS = ("flux_dev", "sd35_medium")
STACKS = {
    "flux_dev": {"transformer_blocks_0_to_1": 2, "single_transformer_blocks_0_to_2": 3},
    "sd35_medium": {
        "transformer_blocks_0_to_1": 2,
        "transformer_blocks_2_to_3": 2,
        "transformer_blocks_4_to_4": 1,
    },
}
# The same, deeper: fields, and layers in each stack.
DEEPER = {
    "flux_dev": ({"num_layers": 6, "num_single_layers": 9}, [6, 9]),
    "sd35_medium": ({"num_layers": 9, "dual_attention_layers": (0, 1, 2, 3)}, [4, 4, 1]),
}
SCALE = 0.5


class Layer(nn.Module):
    """x + tanh(W x) * shift."""

    @nn.compact
    def __call__(self, x, shift):
        return x + jnp.tanh(nn.Dense(x.shape[-1], name="linear")(x)) * shift, None


class Tower(nn.Module):
    """Two stacks and a layer of its own."""

    counts: tuple[int, int] = (3, 1)

    @nn.compact
    def __call__(self, x, shift):
        x, _ = stack(Layer, "blocks", 0, self.counts[0])(x, shift)
        x, _ = stack(Layer, "blocks", self.counts[0], self.counts[1])(x, shift)
        return nn.Dense(2, name="proj_out")(x)


class Rows(nn.Module):
    """Layers of a list, few or many."""

    count: int
    list_name: str = "blocks"

    @nn.compact
    def __call__(self, x, shift):
        return run_layers(Layer, self.list_name, self.count, x, shift)


def draw(tree, *, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), tree)


@pytest.fixture(scope="module")
def tower():
    x, shift = draw((np.zeros((2, 5)), np.zeros(5)))
    return Tower(), Tower().init(jax.random.key(0), x, shift)["params"], (x, shift)


@pytest.fixture(scope="module")
def trace(pairs):
    """Trace the gradient of a kind once."""
    return functools.cache(
        lambda kind, of: trace_gradient(pairs[kind].network, draw_inputs(CONFIGS[kind]), of)
    )


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return {kind: make_pair(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


def test_layers_lie_in_one_tree_and_run_one_after_another(tower):
    network, params, (x, shift) = tower
    shapes = {"/".join(path): leaf.shape for path, leaf in flatten_dict(params).items()}
    assert shapes == {
        "blocks_0_to_2/linear/kernel": (3, 5, 5),
        "blocks_0_to_2/linear/bias": (3, 5),
        "blocks_3_to_3/linear/kernel": (1, 5, 5),
        "blocks_3_to_3/linear/bias": (1, 5),
        "proj_out/kernel": (5, 2),
        "proj_out/bias": (2,),
    }
    params = draw(params)
    wanted = x
    for name, i in (("blocks_0_to_2", 0), ("blocks_0_to_2", 1), ("blocks_0_to_2", 2), ("blocks_3_to_3", 0)):
        linear = params[name]["linear"]
        wanted = wanted + np.tanh(wanted @ linear["kernel"][i] + linear["bias"][i]) * shift
    wanted = wanted @ params["proj_out"]["kernel"] + params["proj_out"]["bias"]
    np.testing.assert_allclose(network.apply({"params": params}, x, shift), wanted, atol=1e-5)


def test_every_layer_begins_with_weights_of_its_own(tower):
    kernel = tower[1]["blocks_0_to_2"]["linear"]["kernel"]
    assert np.unique(kernel).size == kernel.size
    np.testing.assert_allclose(np.std(kernel), 5**-0.5, rtol=0.2)


def trace_gradient(network, inputs, of):
    """Trace the gradient in all weights or in adapters of all layers."""
    params = network.abstract_params()
    if of == "params":
        return jax.make_jaxpr(jax.grad(lambda params: jnp.sum(run(network, {"params": params}, inputs))))(
            params
        )
    adapters = init_adapters(params, targets="", rank=2, seed=0)
    fn = adapt(network, inputs)
    return jax.make_jaxpr(jax.grad(lambda a, p: jnp.sum(fn(Adapted(p, a), inputs.hidden, 0, 0))))(
        adapters, params
    )


def adapt(network, inputs):
    """Our network with adapters."""

    def denoise_fn(params, hidden, timestep, embeds):
        return run(network, variables(params), inputs._replace(hidden=hidden))

    return with_adapters(denoise_fn, scale=SCALE)


@pytest.mark.parametrize("of", ["params", "adapters"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_program_has_one_loop_for_each_stack_and_does_not_grow_with_layers(pairs, trace, kind, of):
    assert {name for name in pairs[kind].params if "_to_" in name} == set(STACKS[kind])
    (fields, deeper), there = DEEPER[kind], list(STACKS[kind].values())
    network = dataclasses.replace(pairs[kind].network, **fields)
    programs = trace(kind, of), trace_gradient(network, draw_inputs(CONFIGS[kind]), of)
    for program, counts in zip(programs, (there, deeper), strict=True):
        assert [scan.params["length"] for scan in scans(program)] == [*counts, *reversed(counts)]  # and back
    one, other = (re.sub(r"\d+", "#", str(program)) for program in programs)
    assert one == other


@pytest.mark.parametrize("of", ["params", "adapters"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_keeps_what_enters_a_layer_and_computes_the_rest_again(trace, kind, of):
    loops = scans(trace(kind, of))
    forth, back = loops[: len(loops) // 2], loops[len(loops) // 2 :]
    for loop in forth:
        carried = [variable.aval.shape for variable in loop.outvars[: loop.params["num_carry"]]]
        kept = [variable.aval.shape for variable in loop.outvars[loop.params["num_carry"] :]]
        assert kept == [(loop.params["length"], *shape) for shape in carried]
    for loop in back:
        inner = [equation.primitive.name for equation in loop.params["jaxpr"].jaxpr.eqns]
        assert inner.count("remat2") == 1 and "dot_general" not in inner
        again = [equation.primitive.name for equation in equations(loop.params["jaxpr"])]
        assert "exp" in again


def test_adapters_lie_in_the_layers_that_match(pairs):
    params = pairs["flux_dev"].network.abstract_params()

    def shapes(targets):
        adapters = flatten_dict(init_adapters(params, targets=targets, rank=3, seed=0))
        return {"/".join(path): leaf.shape for path, leaf in adapters.items()}

    double, single = "transformer_blocks_0_to_1", "single_transformer_blocks_0_to_2"
    assert shapes("single_transformer_blocks_0_to_2/attn/to_q") == {
        f"{single}/attn/to_q/down": (3, 48, 3),
        f"{single}/attn/to_q/up": (3, 3, 48),
    }
    assert shapes(r"^transformer_blocks_\d+_to_\d+/(attn/to_add_out|ff_context/net_0/proj)$") == {
        f"{double}/attn/to_add_out/down": (2, 48, 3),
        f"{double}/attn/to_add_out/up": (2, 3, 48),
        f"{double}/ff_context/net_0/proj/down": (2, 48, 3),
        f"{double}/ff_context/net_0/proj/up": (2, 3, 192),
    }
    assert shapes("^proj_out$") == {"proj_out/down": (48, 3), "proj_out/up": (3, 16)}
    assert len(shapes("/to_[qkv]$")) == 2 * 6


def test_new_adapters_change_nothing_in_some_stacks_or_none(tower):
    network, params, (x, shift) = tower

    def denoise_fn(params, x, timestep, shift):
        return network.apply(variables(params), x, shift)

    plain, adapted_fn = denoise_fn(params, x, 0, shift), with_adapters(denoise_fn, scale=SCALE)
    np.testing.assert_array_equal(adapted_fn(Adapted(params, {}), x, 0, shift), plain)
    for targets in ("blocks_0|proj_out", "blocks_3"):
        adapters = init_adapters(params, targets=targets, rank=2, seed=0)
        with jax.disable_jit():  # compiled, the two loops are other programs, which may round otherwise
            unmoved = adapted_fn(Adapted(params, adapters), x, 0, shift)
            np.testing.assert_array_equal(unmoved, denoise_fn(params, x, 0, shift))
        moved = adapted_fn(Adapted(params, draw(adapters)), x, 0, shift)
        merged = merge_adapters(params, draw(adapters), scale=SCALE)
        np.testing.assert_allclose(moved, denoise_fn(merged, x, 0, shift), atol=1e-5)
        assert np.abs(moved - plain).max() > 0.1
    np.testing.assert_array_equal(denoise_fn(params, x, 0, shift), plain)


def chain(gradients, adapters):
    """Gradients in adapters from those in the merged weights: of W + s D U they are s D^T g and s g U^T."""
    found = {}
    for path in {path[:-1] for path in adapters}:
        down, up, kernel = adapters[*path, "down"], adapters[*path, "up"], gradients[*path, "kernel"]
        layers = len(down) if down.ndim == 3 else 1
        narrow, wide = down.reshape(layers, -1, down.shape[-1]), up.reshape(layers, -1, up.shape[-1])
        flat = kernel.reshape(layers, -1, kernel.shape[-1])
        found[*path, "down"] = SCALE * np.stack([g @ u.T for g, u in zip(flat, wide, strict=True)])
        found[*path, "up"] = SCALE * np.stack([d.T @ g for g, d in zip(flat, narrow, strict=True)])
    return {path: found[path].reshape(leaf.shape) for path, leaf in adapters.items()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_adapters_of_all_layers_are_what_pytorch_computes_with_merged_weights(pairs, kind):
    (original, network, params), inputs = pairs[kind], draw_inputs(CONFIGS[kind])
    adapters = init_adapters(params, targets="", rank=2, seed=0)
    rng = np.random.default_rng(1)
    adapters = jax.tree.map(lambda leaf: (0.3 * rng.normal(size=leaf.shape)).astype(np.float32), adapters)
    weights = draw(inputs.hidden, seed=2)

    def total(adapters, params):
        output = adapt(network, inputs)(Adapted(params, adapters), inputs.hidden, 0, 0)
        return jnp.sum(output * weights), output

    mine, output = compile_quickly(jax.grad(total, has_aux=True), adapters, params)(adapters, params)

    merged = copy.deepcopy(original)
    tensors = to_torch_names(merge_adapters(params, adapters, scale=SCALE))
    merged.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()})
    wanted = output_of(merged, inputs)
    np.testing.assert_allclose(output, wanted, atol=1e-4)
    assert np.abs(wanted - output_of(original, inputs)).max() > 0.1

    by_name, _ = gradients_of(merged, inputs, weights)
    state = {name: np.zeros(value.shape, np.float32) for name, value in original.state_dict().items()}
    fitted = read_all(fit_state_dict(state | by_name, params, source="PyTorch"))
    theirs = chain(flatten_dict(fitted), flatten_dict(adapters))
    names = {path: "/".join(path) for path in theirs}
    mine = {names[path]: np.asarray(leaf) for path, leaf in flatten_dict(mine).items()}
    assert_close(mine, {names[path]: leaf for path, leaf in theirs.items()}, rtol=1e-3)

    still = set()
    for path, name in names.items():
        layers = mine[name] if unstack(path) else mine[name][None]
        still |= {f"{name} {i}" for i, layer in enumerate(layers) if not np.abs(layer).max() > 1e-4}
    # What the prompt's tokens ask in the last layer of SD3 is not read any more.
    nobody = {f"transformer_blocks_4_to_4/attn/add_q_proj/{part} 0" for part in ("down", "up")}
    assert still == (nobody if kind == "sd35_medium" else set())


@pytest.mark.parametrize(("list_name", "prefix"), [("blocks", "blocks_"), ("", "")])
def test_few_layers_run_one_by_one_and_many_as_a_stack(list_name, prefix):
    x, shift = draw((np.zeros((2, 5)), np.ones(5)))
    for count in (0, 1, 3, 4, 7):
        rows = Rows(count, list_name)
        params = draw(rows.init(jax.random.key(0), x, shift).get("params", {}))
        one_by_one = {f"{prefix}{i}" for i in range(count)}
        assert set(params) == (one_by_one if count < 4 else {f"{prefix}0_to_{count - 1}"})

        layers, wanted = unstack_params(params), jnp.asarray(x)
        for i in range(count):
            kernel, bias = (layers[f"{prefix}{i}"]["linear"][name] for name in ("kernel", "bias"))
            wanted = wanted + jnp.tanh(wanted @ kernel + bias) * shift
        np.testing.assert_allclose(rows.apply({"params": params}, x, shift), wanted, atol=1e-5)
        program = jax.make_jaxpr(jax.grad(lambda p, r=rows: r.apply({"params": p}, x, shift).sum()))(params)
        assert bool(scans(program)) == (count >= 4)
        recomputes = any(equation.primitive.name.startswith("remat") for equation in equations(program))
        assert recomputes == (count >= 4)
