"""Train a dual encoder as a reward on synthetic preferences: what is spoilt less is preferred."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rats_jax.networks.clip import CLIPModel, embed_text
from rats_jax.pretraining.corrupt import Corruption, spoil
from rats_jax.pretraining.fit import fit_as
from rats_jax.types import Array, Key, Params


class DualEncoder(NamedTuple):
    """What is trained.

    Attributes:
        module: a CLIP, of pictures or of videos.
        init: (module, key) -> weights.
        embed: (module, weights, pictures [B, H, W, 3] or videos [B, T, H, W, 3] in [0, 1]) -> [B, D] of
            length 1.
    """

    module: CLIPModel
    init: Callable[[Any, Key], Params]
    embed: Callable[[Any, Params, Array], Array]


class Drawn(NamedTuple):
    """A batch that a reward learns from.

    Attributes:
        images: pictures [B, H, W, 3], or videos [B, T, H, W, 3], in [0, 1], as they should be.
        input_ids: [B, L] int32, of their prompts.
        wrong: the same shape, as good, but not what the prompt asks for; None has none.
        fits: [B, B] bool, whether prompt i asks for no more than image j shows; None is the diagonal.
    """

    images: Array
    input_ids: Array
    wrong: Array | None = None
    fits: Array | None = None


def train_dual_encoder(
    data: Any,
    draw_fn: Callable[[Any, Key, int], Drawn],
    encoder: DualEncoder,
    corruptions: Mapping[str, Corruption],
    training: Any,
    *,
    seed: int,
    start: Params | None = None,
    state_file: Path | None = None,
) -> Params:
    """Train image and text towers with three losses in one pass over clean, spoilt and worse pictures.

    Contrastive: a text picks its clean picture among all clean, all worse and all wrong ones that it does not
    fit, and a picture its text.
    Preference (the Bradley-Terry loss of PickScore): clean over spoilt, spoilt over worse, clean over wrong.
    Worse pictures, and with `attack_wrong` half of the wrong ones, are moved one sign-gradient step towards a
    higher score first, so that the score is not raised by patterns that no eye sees: a reward that training
    climbs must not be fooled by its own gradient.

    Args:
        data: what `draw_fn` draws from, kept on the device.
        draw_fn: (data, keys [2], B) -> a batch.
        encoder: what is trained.
        corruptions: by name; the batch is divided evenly among them.
        training: num_updates, images_per_corruption, learning_rate, ema_decay, attack_step, max_logit_scale;
            attack_wrong, where batches have wrong pictures.
        seed: of initialisation and draws.
        start: weights to go on from; None starts anew.
        state_file: see `fit`.

    Returns:
        Averaged weights, with logit_scale = log of the score of a perfect match.

    Source:
        Kirstain et al., Pick-a-Pic, arXiv 2305.01569, section 4 (the preference loss);
        Goodfellow et al., arXiv 1412.6572 (the sign-gradient step).
    """
    module = encoder.module
    params = start or jax.jit(lambda k: encoder.init(module, k))(jax.random.key(seed))
    per_kind = training.images_per_corruption
    batch_size = per_kind * len(corruptions)
    max_log_scale = math.log(training.max_logit_scale)

    def loss_fn(params: Params, data: Any, key: Key) -> tuple[Array, dict[str, Array]]:
        keys = jax.random.split(key, 5)
        key_spoil, key_mild, key_more = keys[2:]
        params = params | {"logit_scale": jnp.minimum(params["logit_scale"], max_log_scale)}
        scale = jnp.exp(params["logit_scale"])
        drawn = draw_fn(data, keys[:2], batch_size)
        clean, wrong = drawn.images, [] if drawn.wrong is None else [drawn.wrong]
        elsewhere = jnp.zeros((batch_size, batch_size), bool) if drawn.fits is None else drawn.fits
        elsewhere = elsewhere & ~jnp.eye(batch_size, dtype=bool)
        mild = jax.random.uniform(key_mild, (batch_size,), minval=0.05, maxval=0.5)
        more = mild + jax.random.uniform(key_more, (batch_size,), minval=0.15, maxval=0.5)
        spoilt, worse = (spoil(key_spoil, corruptions, clean, severity) for severity in (mild, more))
        text = embed_text(module, params, drawn.input_ids)

        worse = lift(encoder, params, text, worse, training.attack_step)
        if wrong and training.attack_wrong:
            # Half of them not at all: else the step, which is easy to see, tells them from the right ones.
            each = (batch_size, *(1,) * (clean.ndim - 1))
            share = jax.random.uniform(jax.random.fold_in(key, 5), each, minval=-1.0)
            steps = training.attack_step * jnp.maximum(share, 0.0)
            wrong = [lift(encoder, params, text, images, steps) for images in wrong]
        embeds = encoder.embed(module, params, jnp.concatenate([clean, spoilt, worse, *wrong]))
        e_clean, e_spoilt, e_worse, *e_wrong = jnp.split(embeds, 3 + len(wrong))
        labels = jnp.arange(batch_size)
        # What a prompt fits although it was not drawn for it is neither right nor wrong.
        of_text = [jnp.where(elsewhere, -jnp.inf, scale * text @ e_clean.T)]
        of_text = jnp.concatenate([*of_text, *(scale * text @ e.T for e in (e_worse, *e_wrong))], axis=1)
        of_image = jnp.where(elsewhere.T, -jnp.inf, scale * e_clean @ text.T)
        contrastive = optax.softmax_cross_entropy_with_integer_labels(of_text, labels).mean()
        contrastive += optax.softmax_cross_entropy_with_integer_labels(of_image, labels).mean()
        score = [scale * jnp.sum(text * e, axis=-1) for e in (e_clean, e_spoilt, e_worse, *e_wrong)]
        preference = jax.nn.softplus(score[1] - score[0]).mean() + jax.nn.softplus(score[2] - score[1]).mean()
        for other in score[3:]:
            preference += jax.nn.softplus(other - score[0]).mean()
        metrics = {
            "clean": score[0].mean(),
            "spoilt": score[1].mean(),
            "worse": score[2].mean(),
            "retrieval": jnp.mean(jnp.argmax(of_image, axis=-1) == labels),
            "preferred": jnp.mean(score[1] > score[2]),
            "scale": scale,
        } | ({"told_from_wrong": jnp.mean(score[0] > score[3])} if wrong else {})
        return contrastive + preference, metrics

    params = fit_as(training, loss_fn, params, data, seed=seed + 1, name="reward", state_file=state_file)
    return params | {"logit_scale": jnp.minimum(params["logit_scale"], max_log_scale)}


def lift(encoder: DualEncoder, params: Params, text: Array, images: Array, step: Array | float) -> Array:
    """Move pictures or videos one sign-gradient step towards a higher score.

    Args:
        encoder: of the reward.
        params: its weights.
        text: [B, D], embeddings of their prompts.
        images: in [0, 1].
        step: how far, in units of the pictures; one number, or one for each of them.

    Returns:
        As `images`, in [0, 1]; no gradient flows through it.
    """
    gradient = jax.grad(lambda x: jnp.sum(text * encoder.embed(encoder.module, params, x)))(images)
    return jax.lax.stop_gradient(jnp.clip(images + step * jnp.sign(gradient), 0.0, 1.0))
