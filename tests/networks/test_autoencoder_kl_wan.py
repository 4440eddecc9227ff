"""The autoencoder of videos against PyTorch's: all at once, in turn, gradients, and every argument."""

import functools

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from rats_jax.networks.autoencoder_kl_wan import FIELDS, AutoencoderKLWan, decode_clip, decode_in_turn
from rats_jax.networks.convolution import convolve_in_loops
from rats_jax.networks.kernels import Kernels
from rats_jax.networks.vae_wan import HISTORY
from rats_jax.weights.naming import to_torch_names
from tests.networks.jaxprs import dtypes_of
from tests.networks.mmdit_originals import assert_close
from tests.networks.parity import (
    assert_given_back,
    assert_refused,
    assert_walks_all,
    compile_quickly,
    from_torch,
    make_original,
    to_torch,
    weights_of,
)

TINY = {
    "base_dim": 6,
    "z_dim": 3,
    "dim_mult": [1, 2, 2],
    "num_res_blocks": 1,
    "temperal_downsample": [True, True],
    "scale_factor_spatial": 4,
    "latents_mean": [0.1, 0.2, -0.3],
    "latents_std": [1.5, 0.5, 2.0],
}
LEVELS = {
    "dim_mult": [1, 3],
    "temperal_downsample": [True],
    "scale_factor_temporal": 2,
    "scale_factor_spatial": 2,
}
LATENTS = {"z_dim": 2, "latents_mean": [0.5, 1.0], "latents_std": [2.0, 1.5]}
WIDTHS = {"base_dim": 4, "decoder_base_dim": 8, "in_channels": 4, "out_channels": 2, "num_res_blocks": 2}
PATCHES = {"patch_size": 2, "in_channels": 12, "out_channels": 8, "scale_factor_spatial": 8}
COMPUTED = {"levels": LEVELS, "widths": WIDTHS | LATENTS | {"dropout": 0.5}, "patches": PATCHES}
WALK = [(name, change) for change in COMPUTED.values() for name in change]
# Of training, and for the pipeline; the factors follow from other fields.
WITHOUT_EFFECT = {"dropout", "latents_mean", "latents_std", "patch_size"}
WITHOUT_EFFECT |= {"scale_factor_temporal", "scale_factor_spatial"}
REFUSED = [
    ("base_dim", {"base_dim": 0}),
    ("decoder_base_dim", {"decoder_base_dim": 0}),
    ("z_dim", {"z_dim": None}),
    ("dim_mult", {"dim_mult": []}),
    ("num_res_blocks", {"num_res_blocks": 0}),
    ("attn_scales", {"attn_scales": [0.5]}),
    ("temperal_downsample", {"temperal_downsample": [False, True, True]}),
    ("latents_mean", {"latents_mean": [0.1, 0.2]}),
    ("latents_std", {"latents_std": [1.0, 1.0, 0.0]}),
    ("latents_std", {"latents_std": [1.0]}),
    ("is_residual", {"is_residual": True}),
    ("in_channels", {"in_channels": 0}),
    ("out_channels", {"out_channels": 0}),
    ("in_channels", PATCHES | {"in_channels": 3}),
    ("out_channels", PATCHES | {"out_channels": 3}),
    ("patch_size", {"patch_size": 0}),
    ("scale_factor_temporal", {"scale_factor_temporal": 8}),
    ("scale_factor_spatial", {"scale_factor_spatial": 8}),
    ("scale_factor_spatial", PATCHES | {"scale_factor_spatial": 4}),
    ("scale_factor_spatial", {"scale_factor_spatial": None}),
    ("a_field_of_tomorrow", {"a_field_of_tomorrow": 1}),
]
# Outputs are about 0.5, and 1e-6 apart.
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def pair():
    original = make_original(diffusers.AutoencoderKLWan, TINY)
    network = AutoencoderKLWan.from_config(TINY)
    return original, network, weights_of(original, network)


def draw_latents(config, count=5, size=(3, 2)):
    return np.random.default_rng(0).normal(size=(2, count, *size, config["z_dim"])).astype(np.float32)


def decode(network, params, latents):
    def run(params, latents):
        return network.apply({"params": params}, latents, method=network.decode)

    return compile_quickly(run, params, latents)(params, latents)


def encode(network, params, videos):
    def run(params, videos):
        return network.apply({"params": params}, videos, method=network.encode)

    return compile_quickly(run, params, videos)(params, videos)


def assert_encodes_as(original, network, params, videos):
    with torch.no_grad():
        theirs = original.encode(to_torch(videos)).latent_dist
    ours = encode(network, params, videos)
    for mine, tensor in zip(ours, (theirs.mean, theirs.logvar), strict=True):
        np.testing.assert_allclose(mine, from_torch(tensor), atol=TOLERANCE)


def test_the_table_has_every_argument_of_the_original():
    cases = [*WALK, *(case for case in REFUSED if case[0] in FIELDS)]
    assert_walks_all(cases, FIELDS, diffusers.AutoencoderKLWan)


@pytest.fixture(scope="module")
def decoded(pair):
    """Frames of the first latents of one clip, all at once."""
    _, network, params = pair
    return {count: decode(network, params, draw_latents(TINY)[:, :count]) for count in (1, 2, 5)}


@pytest.mark.parametrize("count", [1, 2, 5])
def test_it_decodes_as_pytorch_does(pair, decoded, count):
    with torch.no_grad():
        theirs = from_torch(pair[0].decode(to_torch(draw_latents(TINY)[:, :count])).sample)
    assert theirs.shape == (2, 1 + 4 * (count - 1), 12, 8, 3) and theirs.std() > 0.1
    np.testing.assert_allclose(np.clip(decoded[count], -1, 1), theirs, atol=TOLERANCE)


def test_the_first_latents_give_the_first_frames(decoded):
    for count in (1, 2):
        frames = decoded[count].shape[1]
        np.testing.assert_allclose(decoded[count], decoded[5][:, :frames], atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_one_latent_after_another_gives_the_same(pair, decoded, count):
    _, network, params = pair
    latents = draw_latents(TINY)[:, :count]
    in_turn = compile_quickly(functools.partial(decode_clip, network), params, latents)(params, latents)
    np.testing.assert_allclose(in_turn, decoded[count], atol=1e-6)


def test_without_a_gradient_a_clip_is_decoded_in_turn_and_with_one_at_once(pair):
    _, network, params = pair
    latents = draw_latents(TINY)

    def total(latents):
        return jnp.sum(decode_clip(network, params, latents))

    def loops(function):
        return dtypes_of(jax.make_jaxpr(function)(latents)).keys() & {"scan"}

    assert loops(total) and not loops(jax.grad(total))


def test_gradients_are_those_of_the_original(pair):
    original, network, params = pair
    network = network.clone(kernels=Kernels(convolve=convolve_in_loops))
    latents = draw_latents(TINY)[:, :3]
    weights = np.random.default_rng(1).normal(size=(2, 9, 12, 8, 3)).astype(np.float32)
    hidden = to_torch(latents).requires_grad_()
    original.zero_grad()
    # `decode` clips, which stops gradients.
    frames = [original.decoder(original.post_quant_conv(hidden)[:, :, :1], **caches(original, True))]
    for i in (1, 2):
        part = original.post_quant_conv(hidden)[:, :, i : i + 1]
        original._conv_idx = [0]
        frames.append(original.decoder(part, **caches(original, False)))
    torch.sum(torch.cat(frames, 2) * to_torch(weights)).backward()
    theirs = {
        name: parameter.grad.numpy()
        for name, parameter in original.named_parameters()
        if parameter.grad is not None
    }

    def total(params, latents):
        return jnp.sum(decode_clip(network, params, latents) * weights)

    take = compile_quickly(jax.grad(total, argnums=(0, 1)), params, latents)
    of_params, of_latents = take(params, latents)
    assert_close({"": np.asarray(of_latents)}, {"": from_torch(hidden.grad)}, rtol=1e-3)
    mine = to_torch_names(of_params)
    assert all(mine[name].any() == (name in theirs) for name in mine)
    assert_close({name: mine[name] for name in theirs}, theirs, rtol=1e-3)


def caches(original, first):
    if first:
        original.clear_cache()
    return {"feat_cache": original._feat_map, "feat_idx": original._conv_idx, "first_chunk": first}


@pytest.mark.parametrize("count", [1, 9])
def test_it_encodes_as_pytorch_does(pair, count):
    videos = np.random.default_rng(0).uniform(-1, 1, (2, count, 8, 12, 3)).astype(np.float32)
    assert_encodes_as(*pair, videos)


@pytest.mark.parametrize("name", COMPUTED)
def test_what_is_accepted_is_computed(name):
    config = TINY | COMPUTED[name]
    original = make_original(diffusers.AutoencoderKLWan, config)
    network = AutoencoderKLWan.from_config(config)
    params, latents = weights_of(original, network), draw_latents(config, 2)
    with torch.no_grad():
        theirs = from_torch(original.decode(to_torch(latents)).sample)
    np.testing.assert_allclose(np.clip(decode(network, params, latents), -1, 1), theirs, atol=TOLERANCE)
    patch = config.get("patch_size", 1)
    shape = 2, 5, 8 * patch, 4 * patch, config.get("in_channels", 3) // patch**2
    videos = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    assert_encodes_as(original, network, params, videos)


@pytest.mark.parametrize(("name", "change"), WALK)
def test_what_changes_weights_is_known(name, change):
    alone = change | {"temperal_downsample": [True, False]}  # the levels of TINY need two
    one, other = (
        {key: value.shape for key, value in diffusers.AutoencoderKLWan(**config).state_dict().items()}
        for config in (TINY, TINY | {name: alone[name]})
    )
    assert (one == other) == (name in WITHOUT_EFFECT)


@pytest.mark.parametrize(("name", "change"), REFUSED)
def test_what_is_not_computed_is_refused(name, change):
    assert_refused(AutoencoderKLWan.from_config, TINY | change, name)


def test_names_and_numbers_are_given_back_as_pytorch_has_them(pair):
    original, _, params = pair
    assert_given_back(original, params)


@pytest.mark.slow
def test_the_memory_in_turn_hardly_grows_with_the_clip(pair):
    _, network, params = pair

    def memory(count):
        args = params, draw_latents(TINY, count, size=(16, 16))
        compiled = compile_quickly(functools.partial(decode_in_turn, network), *args)
        return compiled.memory_analysis().temp_size_in_bytes

    frames = np.zeros((2, 8 * 4, 64, 64, 3), np.float32).nbytes  # of eight more latents
    assert memory(12) - memory(4) < 3 * frames


def test_clips_of_other_lengths_are_refused(pair):
    _, network, params = pair
    with pytest.raises(ValueError, match="^6 frames: expected 1 more than a multiple of 4"):
        encode(network, params, np.zeros((1, 6, 8, 8, 3), np.float32))


def test_the_published_size_has_as_many_weights_as_its_file():
    params = AutoencoderKLWan.from_config({}).abstract_params()
    assert HISTORY not in params
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    np.testing.assert_allclose(4 * count, 508e6, rtol=2e-3)
