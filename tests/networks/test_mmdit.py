"""Parts of the transformers of FLUX and SD3: rotations, modulation, the order of tokens, precision."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rats_jax.networks.kernels import Kernels
from rats_jax.networks.mmdit import Attention, Modulation, modulate, rotary_tables, rotate
from tests.networks.jaxprs import dtypes_of, equations
from tests.networks.mmdit_originals import CONFIGS, draw_inputs, make_pair, output_of, run
from tests.networks.parity import Recorder, compile_quickly

KINDS = ("flux_dev", "sd35_medium")
SEQUENCE, IMAGE = (2, 5 + 24, 2, 24), (2, 24, 2, 24)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return {kind: make_pair(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_rotations_are_multiplications_by_complex_numbers():
    """Equation 34 of RoFormer, number by number: pair j of axis a turns by id[a] / theta ** (2 j / d_a)."""
    dims, x = (2, 4, 6), normal(2, 3, 2, 12)
    ids = np.array([[0, 0, 0], [0, 1, 5], [2, 7, 63]])
    turned = rotate(jnp.asarray(x), rotary_tables(ids, dims, theta=100.0))
    for b, token, head in np.ndindex(2, 3, 2):
        start = 0
        for axis, dim in enumerate(dims):
            for j in range(dim // 2):
                angle = ids[token, axis] / 100.0 ** (2 * j / dim)
                real, imaginary = x[b, token, head, start + 2 * j : start + 2 * j + 2]
                wanted = complex(real, imaginary) * np.exp(1j * angle)
                found = turned[b, token, head, start + 2 * j : start + 2 * j + 2]
                np.testing.assert_allclose(found, [wanted.real, wanted.imag], atol=1e-5)
            start += dim


def test_scores_depend_on_differences_of_positions_only():
    query, key = normal(1, 1, 1, 12), normal(1, 1, 1, 12, seed=1)

    def score(*positions):
        tables = (rotary_tables(np.array([position]), (2, 4, 6)) for position in positions)
        turned = (rotate(jnp.asarray(x), table) for x, table in zip((query, key), tables, strict=True))
        return np.sum(np.prod(list(turned), axis=0))

    near, far = score((0, 3, 1), (0, 5, 9)), score((4, 33, 51), (4, 35, 59))
    np.testing.assert_allclose(near, far, atol=1e-5)
    assert abs(near - score((0, 3, 1), (0, 9, 5))) > 1e-2


def test_modulation_is_a_norm_without_weights_and_then_scale_and_shift():
    x, shift, scale = 3 + 2 * normal(2, 4, 8), normal(2, 1, 8, seed=1), normal(2, 1, 8, seed=2)
    exact = x.astype(np.float64)
    normed = (exact - exact.mean(-1, keepdims=True)) / np.sqrt(exact.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(modulate(x, shift, scale), normed * (1 + scale) + shift, atol=1e-5)


@pytest.mark.parametrize("mean", [0.0, 100.0])
def test_norms_and_rotations_of_bfloat16_are_float32_inside(mean):
    x, shift, scale = (jnp.asarray(value, jnp.bfloat16) for value in (mean + normal(2, 4, 2, 12), 0.3, -0.7))
    tables = rotary_tables(np.arange(12).reshape(4, 3) * 31, (2, 4, 6))
    for fn in (lambda x: rotate(x, tables), lambda x: modulate(x, shift[None], scale[None])):
        rounded, exact = fn(x), fn(x.astype(jnp.float32))
        assert rounded.dtype == jnp.bfloat16 and exact.dtype == jnp.float32
        np.testing.assert_array_equal(rounded, exact.astype(jnp.bfloat16))


def test_numbers_of_a_modulation_lie_one_behind_the_other():
    params = {"linear": {"kernel": np.zeros((2, 6), np.float32), "bias": np.arange(6, dtype=np.float32)}}
    found = Modulation(3).apply({"params": params}, normal(5, 2))
    assert [np.unique(part).tolist() for part in found] == [[0, 1], [2, 3], [4, 5]]
    assert [part.shape for part in found] == [(5, 1, 2)] * 3


@pytest.mark.parametrize("text_first", [True, False])
def test_the_tokens_of_the_prompt_stand_where_they_should_and_come_back(text_first):
    seen = []

    def attend(query, key, value, mask=None):
        seen.extend([query, key, value])
        return value

    attention = Attention(1, 4, qk_norm=False, text_first=text_first, kernels=Kernels(attend=attend))
    image, text = np.full((1, 3, 4), 2.0, np.float32), np.full((1, 2, 4), -1.0, np.float32)
    params = jax.eval_shape(attention.init, jax.random.key(0), image, text)["params"]
    params = jax.tree.map(lambda leaf: np.eye(4) if leaf.ndim == 2 else np.zeros(4), params)
    seen.clear()
    read, c_read = attention.apply({"params": params}, image, text)
    wanted = [-1, -1, 2, 2, 2] if text_first else [2, 2, 2, -1, -1]
    assert len(seen) == 3 and all(x[0, :, 0, 0].tolist() == wanted for x in seen)
    np.testing.assert_array_equal(read, image)
    np.testing.assert_array_equal(c_read, text)


@pytest.mark.parametrize(
    ("kind", "attended", "softmaxes", "convolved"),
    [
        ("flux_dev", {SEQUENCE}, 2, set()),
        # Layers with two attentions, those with one, and the last one.
        ("sd35_medium", {SEQUENCE, IMAGE}, 4, {((2, 2, 4, 48), (2, 2), jnp.dtype(jnp.bfloat16))}),
    ],
)
def test_what_is_sensitive_is_float32_and_all_else_bfloat16(pairs, kind, attended, softmaxes, convolved):
    recorder, inputs = Recorder(), draw_inputs(CONFIGS[kind])
    network = dataclasses.replace(pairs[kind].network, dtype=jnp.bfloat16, kernels=recorder.kernels)
    program = jax.make_jaxpr(lambda params: run(network, {"params": params}, inputs))(pairs[kind].params)
    bfloat16 = jnp.dtype(jnp.bfloat16)
    assert set(recorder.attended) == {(shape, shape, bfloat16, bfloat16) for shape in attended}
    assert set(recorder.convolved) == convolved
    found = dtypes_of(program)
    for sensitive in ("sin", "cos", "exp", "rsqrt", "reduce_sum", "reduce_max"):
        assert found[sensitive] == {jnp.dtype(jnp.float32)}, sensitive
    for heavy in ("dot_general", "tanh", "scan"):
        assert found[heavy] == {jnp.dtype(jnp.bfloat16)}, heavy
    scores = [
        eqn for eqn in equations(program) if eqn.primitive.name == "exp" and eqn.outvars[0].aval.ndim == 4
    ]
    assert len(scores) == softmaxes


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_close_to_float32(pairs, kind):
    (original, network, params), inputs = pairs[kind], draw_inputs(CONFIGS[kind])
    network = dataclasses.replace(network, dtype=jnp.bfloat16)
    rounded = compile_quickly(lambda params: run(network, {"params": params}, inputs), params)(params)
    assert rounded.dtype == jnp.bfloat16
    exact = output_of(original, inputs)
    error = np.linalg.norm(np.asarray(rounded, np.float32) - exact) / np.linalg.norm(exact)
    assert 0 < error < 0.02, error  # eight bits of mantissa: 0.6 %
