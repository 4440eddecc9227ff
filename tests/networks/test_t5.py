"""T5's and UMT5's encoders: every field, value and gradient against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax.traverse_util import flatten_dict

from rats_jax.errors import WeightsError
from rats_jax.networks import t5
from rats_jax.weights.state_dict import open_weights
from rats_jax.weights.stored import read_all
from tests.networks.parity import assert_refused, compile_quickly
from tests.pretrained_originals import PRECISION, arguments
from tests.pretrained_originals import WITHOUT_EFFECT as EVERY_CONFIGS

SIZES = {"vocab_size": 40, "d_model": 24, "d_kv": 6, "d_ff": 32, "num_layers": 3, "num_heads": 4} | {
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "feed_forward_proj": "gated-gelu",
}
KINDS = {
    "t5": (transformers.T5Config, transformers.T5EncoderModel, t5.T5EncoderModel),
    "umt5": (transformers.UMT5Config, transformers.UMT5EncoderModel, t5.UMT5EncoderModel),
}
# A value of each argument that is neither the default nor that of SIZES.
OTHER = {
    "vocab_size": [31],
    "d_model": [16],
    "d_kv": [5],
    "d_ff": [20],
    "num_layers": [2],
    "num_heads": [3],
    "relative_attention_num_buckets": [16],
    "relative_attention_max_distance": [9],
    "layer_norm_epsilon": [0.1],
    "feed_forward_proj": ["relu", "gelu", "gated-silu", "gated-relu", "gelu_new", "gated-gelu_new"],
}
# What changes nothing: of the decoder, of training, of other code than transformers'; of every config.
WITHOUT_EFFECT = EVERY_CONFIGS | {
    **{"num_decoder_layers": 1, "scale_decoder_outputs": False, "is_encoder_decoder": False},
    **{"dropout_rate": 0.5, "classifier_dropout": 0.5, "initializer_factor": 1.2},
    **{"n_positions": 5, "output_past": False, "scalable_attention": False},
}
REFUSED = {
    "relative_attention_num_buckets": 6,
    "relative_attention_max_distance": 2,
    "feed_forward_proj": "gated-tanh",
    "dense_act_fn": "relu",
    "is_gated_act": False,
    "layer_norm_epsilon": 0.0,
    "model_type": "bert",
    "num_layers": 0,
    "is_decoder": True,
    "pruned_heads": {"0": [1]},
    "tie_encoder_decoder": True,
    "new_field": 1,
}
RNG = np.random.default_rng(0)
IDS = RNG.integers(0, 31, (2, 30)).astype(np.int32)
MASK = np.arange(30) < np.array([[30], [11]])


def test_both_names_of_an_activation_are_one():
    first, second = (
        t5.T5EncoderModel.from_config({"feed_forward_proj": "gated-gelu", "dense_act_fn": name})
        for name in ("gelu_new", "gelu_pytorch_tanh")
    )
    assert first == second


def make_pair(kind, folder, **changes):
    """A PyTorch encoder that was written, and ours with its weights."""
    config, original, ours = KINDS[kind]
    torch.manual_seed(0)
    network = original(config(**(SIZES | changes))).eval()
    for parameter in network.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    network.save_pretrained(folder)
    made = ours.from_config(network.config.to_dict())
    return network, made, read_all(open_weights(folder / "model.safetensors", made.abstract_params()))


def run_original(network, ids, mask=None):
    mask = None if mask is None else torch.from_numpy(mask).long()
    return network(torch.from_numpy(ids).long(), attention_mask=mask).last_hidden_state


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_gradients_are_those_of_pytorch(kind, tmp_path):
    original, network, params = make_pair(kind, tmp_path)
    weight = RNG.normal(size=(2, 30, 24)).astype(np.float32)

    def total(params, mask):
        output = network.apply({"params": params}, IDS, mask)
        return jnp.sum(output * weight * MASK[..., None]), output

    for mask in (None, MASK):
        original.zero_grad()
        wanted = run_original(original, IDS, mask)
        (wanted * torch.from_numpy(weight * MASK[..., None])).sum().backward()
        gradient, output = compile_quickly(jax.grad(total, has_aux=True), params, mask)(params, mask)
        shown = np.ones_like(MASK) if mask is None else MASK
        np.testing.assert_allclose(output[shown], wanted.detach().numpy()[shown], atol=1e-4)
        grads = {"shared.weight": original.shared.weight.grad.numpy()}
        names = {name for name, _ in original.named_parameters()}
        from rats_jax.weights.naming import to_torch_names

        ours = to_torch_names(gradient)
        assert set(ours) == names - {"encoder.embed_tokens.weight"}
        grads |= {name: p.grad.numpy() for name, p in original.named_parameters()}
        for name, value in ours.items():
            scale = np.abs(grads[name]).max()
            assert scale > 0, name
            np.testing.assert_allclose(value, grads[name], atol=1e-3 * scale, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_every_argument_is_computed_or_refused(kind, tmp_path):
    assert set(arguments(KINDS[kind][0])) - {*WITHOUT_EFFECT, "is_decoder"} == set(OTHER)
    in_files = {"tie_word_embeddings": [False, True]}  # chooses under which names the table of tokens is
    for name, values in (OTHER | in_files).items():
        for i, value in enumerate(values):
            folder = tmp_path / f"{name}{i}"
            original, network, params = make_pair(kind, folder, **{name: value})
            with torch.no_grad():
                wanted = run_original(original, IDS).numpy()
            output = compile_quickly(network.apply, {"params": params}, IDS)({"params": params}, IDS)
            np.testing.assert_allclose(output, wanted, atol=1e-4, err_msg=f"{name}={value}")
    for name, value in REFUSED.items():
        assert_refused(KINDS[kind][2].from_config, SIZES | {name: value}, name)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_ignored_changes_nothing(kind):
    config, cls, ours = KINDS[kind]

    def run(**changes):
        torch.manual_seed(0)
        original = cls(config(**(SIZES | changes))).eval()
        for parameter in original.parameters():
            parameter.data.copy_(0.3 * torch.randn(parameter.shape))
        ids, mask = torch.from_numpy(IDS).long(), torch.from_numpy(MASK).long()
        with torch.no_grad():
            return original(ids, attention_mask=mask)[0]

    plain = run()
    assert set(t5.IGNORED) == {*WITHOUT_EFFECT, *PRECISION}
    for name, value in WITHOUT_EFFECT.items():
        np.testing.assert_allclose(run(**{name: value}), plain, atol=2e-6, err_msg=name)
        assert ours.from_config(SIZES | {name: value}) == ours.from_config(SIZES)
    assert np.abs(run(is_decoder=True) - plain).max() > 0.1  # which is refused


def test_the_published_configs_are_read():
    xxl = {
        "_name_or_path": "google/t5-v1_1-xxl",
        "architectures": ["T5EncoderModel"],
        "classifier_dropout": 0.0,
        "d_ff": 10240,
        "d_kv": 64,
        "d_model": 4096,
        "decoder_start_token_id": 0,
        "dense_act_fn": "gelu_new",
        "dropout_rate": 0.1,
        "eos_token_id": 1,
        "feed_forward_proj": "gated-gelu",
        "initializer_factor": 1.0,
        "is_encoder_decoder": True,
        "is_gated_act": True,
        "layer_norm_epsilon": 1e-06,
        "model_type": "t5",
        "num_decoder_layers": 24,
        "num_heads": 64,
        "num_layers": 24,
        "output_past": True,
        "pad_token_id": 0,
        "relative_attention_max_distance": 128,
        "relative_attention_num_buckets": 32,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.43.3",
        "use_cache": True,
        "vocab_size": 32128,
    }
    umt5 = xxl | {"architectures": ["UMT5EncoderModel"], "model_type": "umt5", "vocab_size": 256384}
    umt5 |= {"scalable_attention": True, "tokenizer_class": "T5Tokenizer"}
    for config, kind, expected in ((xxl, "t5", 4.762e9), (umt5, "umt5", 5.681e9)):
        params = KINDS[kind][2].from_config(config).abstract_params()
        count = sum(leaf.size for leaf in jax.tree.leaves(params))
        np.testing.assert_allclose(count, expected, rtol=1e-3)


@pytest.mark.parametrize(("num_buckets", "max_distance"), [(8, 20), (32, 128), (16, 9)])
def test_buckets_are_those_of_pytorch(num_buckets, max_distance):
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = torch.arange(300)[None, :] - torch.arange(300)[:, None]
    expected = T5Attention._relative_position_bucket(
        distance, bidirectional=True, num_buckets=num_buckets, max_distance=max_distance
    )
    ours = t5.position_buckets(300, num_buckets=num_buckets, max_distance=max_distance)
    np.testing.assert_array_equal(ours, expected)


def test_all_layers_are_one_loop_whose_biases_and_softmax_are_float32():
    network = t5.T5EncoderModel.from_config(SIZES, dtype=jnp.bfloat16)
    program = str(jax.make_jaxpr(network.apply)({"params": network.abstract_params()}, IDS))
    assert program.count("scan[") == 1
    exponentials = [line for line in program.splitlines() if " = exp " in line]
    assert exponentials and all("f32[2,4,30,30]" in line for line in exponentials)
    params = network.init_params(jax.random.key(0))
    full = t5.T5EncoderModel.from_config(SIZES).apply({"params": params}, IDS)
    half = network.apply({"params": params}, IDS)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), full, atol=0.3)
    assert np.abs(half.astype(jnp.float32) - full).mean() < 0.03


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_that_the_file_lacks_is_named(kind, tmp_path):
    from safetensors.numpy import load_file, save_file

    _, network, params = make_pair(kind, tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    name = "encoder.block.2.layer.1.DenseReluDense.wi_1.weight"
    save_file({key: value for key, value in state.items() if key != name}, file)
    with pytest.raises(WeightsError, match=f"missing {name}$"):
        open_weights(file, network.abstract_params())
    # Both names of the one table of tokens are used in files.
    tokens = state.pop("shared.weight")
    save_file(state | {"encoder.embed_tokens.weight": tokens}, file)
    read = read_all(open_weights(file, network.abstract_params()))
    np.testing.assert_array_equal(read["shared"]["embedding"], params["shared"]["embedding"])
    save_file(state | {"encoder.embed_tokens.weight": tokens, "shared.weight": tokens}, file)
    open_weights(file, network.abstract_params())
    save_file(state, file)
    with pytest.raises(WeightsError, match=r"missing shared.weight$"):
        open_weights(file, network.abstract_params())
    assert len([p for p in flatten_dict(params) if "relative_attention_bias" in p]) == 1
