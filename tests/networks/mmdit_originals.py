"""PyTorch's transformers of FLUX.1 and Stable Diffusion 3 beside ours: tiny, random, weights from a file."""

import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline

from rats_jax.networks import flux, sd3
from rats_jax.weights.naming import to_torch_names
from rats_jax.weights.state_dict import open_weights
from rats_jax.weights.stored import read_all
from tests.networks.parity import compile_quickly, from_torch, make_original, to_torch, weights_of

FLUX = {
    "in_channels": 16,
    "num_layers": 2,
    "num_single_layers": 3,
    "attention_head_dim": 24,
    "num_attention_heads": 2,
    "joint_attention_dim": 40,
    "pooled_projection_dim": 20,
    "axes_dims_rope": [4, 8, 12],
}
SD3 = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 3,
    "attention_head_dim": 24,
    "num_attention_heads": 2,
    "joint_attention_dim": 40,
    "caption_projection_dim": 48,
    "pooled_projection_dim": 20,
    "pos_embed_max_size": 12,
}
CONFIGS = {
    "flux_dev": FLUX | {"guidance_embeds": True},
    "flux_schnell": FLUX,
    "sd3_medium": SD3,
    "sd35_medium": SD3 | {"num_layers": 5, "qk_norm": "rms_norm", "dual_attention_layers": [0, 1]},
    "sd35_large": SD3 | {"qk_norm": "rms_norm"},
}
# Fields that can only change together.
TOGETHER = (
    {"attention_head_dim", "num_attention_heads", "axes_dims_rope", "caption_projection_dim"},
    {"in_channels", "out_channels"},
)
# Outputs are about 2, and 3e-6 apart; with the exact GELU they are 5e-5 apart.
TOLERANCE = 2e-5


class Pair(NamedTuple):
    """The original, our network of the config file that it writes, and the weights in its file."""

    original: Any
    network: Any
    params: Any


class Inputs(NamedTuple):
    """What both networks take.

    Attributes:
        hidden: tokens [B, L, C] of FLUX, or latents [B, h, w, C] of SD3.
        context, pooled: of the prompt.
        sigma: [B], 0 to 1.
        guidance: [B], or None.
        size: rows and columns of tokens.
    """

    hidden: Any
    context: Any
    pooled: Any
    sigma: Any
    guidance: Any
    size: tuple[int, int]


def is_flux(config):
    return "caption_projection_dim" not in config


def make_pair(kind, folder):
    """Write PyTorch's network as it does, and open the files."""
    cls, family = (
        (FluxTransformer2DModel, flux.FluxTransformer2DModel)
        if is_flux(CONFIGS[kind])
        else (SD3Transformer2DModel, sd3.SD3Transformer2DModel)
    )
    original = make_original(cls, CONFIGS[kind])
    if not is_flux(CONFIGS[kind]):
        original.pos_embed.pos_embed.normal_()  # it is read from the file, so it may be any table
    original.save_pretrained(folder)
    network = family.from_config(json.loads((folder / "config.json").read_text()))
    file = folder / "diffusion_pytorch_model.safetensors"
    return Pair(original, network, read_all(open_weights(file, network.abstract_params())))


def draw_inputs(config, *, size=(4, 6), tokens=5):
    """Draw noisy tokens or latents and prompts of two pictures."""
    rng, (rows, columns) = np.random.default_rng(0), size

    def normal(*shape):
        return rng.normal(size=(2, *shape)).astype(np.float32)

    channels = config["in_channels"]
    return Inputs(
        normal(rows * columns, channels) if is_flux(config) else normal(2 * rows, 2 * columns, channels),
        normal(tokens, config["joint_attention_dim"]),
        normal(config["pooled_projection_dim"]),
        np.array([0.75, 0.3], np.float32),
        np.array([3.5, 1.25], np.float32) if config.get("guidance_embeds") else None,
        size,
    )


def run_original(original, inputs):
    """Call PyTorch's network as its pipeline does; `hidden` may be one of its tensors already."""
    hidden = inputs.hidden if isinstance(inputs.hidden, torch.Tensor) else to_torch(inputs.hidden)
    context, pooled, sigma = map(torch.from_numpy, inputs[1:4])
    if isinstance(original, SD3Transformer2DModel):
        return original(hidden, context, pooled, 1000 * sigma).sample
    return original(
        hidden,
        context,
        pooled,
        sigma,
        img_ids=FluxPipeline._prepare_latent_image_ids(2, *inputs.size, "cpu", torch.float32),
        txt_ids=torch.zeros(context.shape[1], 3),
        guidance=None if inputs.guidance is None else torch.from_numpy(inputs.guidance),
    ).sample


def run(network, variables, inputs):
    """Call our network as its pipeline does."""
    arrays = *inputs[:3], 1000 * inputs.sigma
    if isinstance(network, sd3.SD3Transformer2DModel):
        return network.apply(variables, *arrays)
    rows, columns = inputs.size
    image_ids = np.array([(0, row, column) for row in range(rows) for column in range(columns)])
    return network.apply(
        variables,
        *arrays,
        None if inputs.guidance is None else 1000 * inputs.guidance,
        image_ids=image_ids,
        text_ids=np.zeros((inputs.context.shape[1], 3)),
    )


def output_of(original, inputs):
    """Compute what the original gives, in our layout."""
    with torch.no_grad():
        return in_our_layout(run_original(original, inputs))


def in_our_layout(tensor):
    return from_torch(tensor) if tensor.ndim == 4 else tensor.detach().numpy()


def gradients_of(original, inputs, weights):
    """Differentiate sum(weights * output): by PyTorch's names, and in the tokens or latents."""
    hidden = to_torch(inputs.hidden).requires_grad_()
    original.zero_grad()
    torch.sum(run_original(original, inputs._replace(hidden=hidden)) * to_torch(weights)).backward()
    by_name = {name: parameter.grad.numpy() for name, parameter in original.named_parameters()}
    return by_name, in_our_layout(hidden.grad)


def total(network, inputs, weights):
    """Give our side of `gradients_of`: (variables, hidden) -> the sum, and the output."""

    def total_fn(variables, hidden):
        output = run(network, variables, inputs._replace(hidden=hidden))
        return jnp.sum(output.astype(jnp.float32) * weights), output

    return total_fn


def assert_as_original(cls, family, config, inputs):
    """Compare both networks of a config."""
    original, network = make_original(cls, config), family.from_config(config)
    variables = {"params": weights_of(original, network)}
    actual = compile_quickly(lambda v: run(network, v, inputs), variables)(variables)
    np.testing.assert_allclose(actual, output_of(original, inputs), atol=TOLERANCE)


def assert_matters(cls, name, base, change):
    """Check that PyTorch computes something else with the value of a field that a change has than without."""
    together = {name}.union(*(fields for fields in TOGETHER if name in fields))
    without = base | {key: value for key, value in change.items() if key not in together}
    one, other = (
        output_of(make_original(cls, config), draw_inputs(config)) for config in (without, base | change)
    )
    assert one.shape != other.shape or np.abs(one - other).max() > 1e-3


def assert_gradients_as_original(pair, inputs, *, constants=()):
    """Compare gradients in all weights and in the tokens or latents; those of `constants` are zero."""
    original, network, params = pair
    weights = np.random.default_rng(1).normal(size=inputs.hidden.shape).astype(np.float32)
    theirs, of_hidden = gradients_of(original, inputs, weights)
    args = {"params": params}, inputs.hidden
    take = compile_quickly(jax.grad(total(network, inputs, weights), argnums=(0, 1), has_aux=True), *args)
    (of_variables, found), output = take(*args)
    assert output.dtype == jnp.float32
    np.testing.assert_allclose(output, output_of(original, inputs), atol=TOLERANCE)
    assert_close({"": np.asarray(found)}, {"": of_hidden}, rtol=1e-3)
    mine = to_torch_names(of_variables["params"])
    assert not any(mine.pop(name).any() for name in constants)
    assert_close(mine, theirs, rtol=1e-3)


def assert_close(mine, theirs, *, rtol):
    """Compare tensors by name, each by its largest number; what is zero but for rounding has the least."""
    assert mine.keys() == theirs.keys()
    least = 1e-4 * max(np.abs(value).max() for value in theirs.values())
    for name, value in theirs.items():
        scale = max(np.abs(value).max(), least)
        np.testing.assert_allclose(mine[name] / scale, value / scale, atol=rtol, err_msg=name)
