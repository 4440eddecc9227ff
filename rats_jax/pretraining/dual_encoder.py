"""Train a reward in PickScore's form on synthetic preferences: the less spoilt picture is preferred."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rats_jax.networks import clip
from rats_jax.pretraining.augment import flip_and_shift
from rats_jax.pretraining.corrupt import Corruption
from rats_jax.pretraining.fit import fit
from rats_jax.types import Array, Key, Params


def train_dual_encoder(
    images: np.ndarray,
    input_ids: np.ndarray,
    config: dict[str, Any],
    corruptions: Mapping[str, Corruption],
    training: Any,
    *,
    seed: int,
) -> Params:
    """Train image and text towers with three losses in one pass over clean, spoilt and worse pictures.

    Contrastive: a text picks its clean picture among all clean and all worse ones, and a picture its text.
    Preference (the Bradley-Terry loss of PickScore): clean over spoilt, spoilt over worse.
    The worse pictures are moved one sign-gradient step towards a higher score first, so that the score is not
    raised by patterns that no eye sees: a reward that training climbs must not be fooled by its own gradient.

    Args:
        images: [N, H, W, 3] uint8, one picture per caption.
        input_ids: [N, L] int32.
        config: a transformers CLIPConfig.
        corruptions: by name; the batch is divided evenly among them.
        training: num_updates, images_per_corruption, learning_rate, ema_decay, max_shift, attack_step,
            max_logit_scale.
        seed: of initialisation and draws.

    Returns:
        Averaged weights, with logit_scale = log of the score of a perfect match.

    Source:
        Kirstain et al., Pick-a-Pic, arXiv 2305.01569, section 4 (the preference loss);
        Goodfellow et al., arXiv 1412.6572 (the sign-gradient step).
    """
    module = clip.make_clip(config)
    params = jax.jit(lambda k: clip.init_clip(module, k))(jax.random.key(seed))
    per_kind = training.images_per_corruption
    batch_size = per_kind * len(corruptions)
    max_log_scale = math.log(training.max_logit_scale)

    def spoil(key: Key, clean: Array, severity: Array) -> Array:
        keys = jax.random.split(key, len(corruptions))
        groups = zip(
            keys,
            corruptions.values(),
            jnp.split(clean, len(keys)),
            jnp.split(severity, len(keys)),
            strict=True,
        )
        return jnp.concatenate([corrupt(k, x, s) for k, corrupt, x, s in groups])

    def loss_fn(params: Params, data: Any, key: Key) -> tuple[Array, dict[str, Array]]:
        key_pick, key_augment, key_spoil, key_mild, key_more = jax.random.split(key, 5)
        params = params | {"logit_scale": jnp.minimum(params["logit_scale"], max_log_scale)}
        scale = jnp.exp(params["logit_scale"])
        pick = jax.random.choice(key_pick, data["images"].shape[0], (batch_size,), replace=False)
        clean = flip_and_shift(key_augment, data["images"][pick] / 255.0, max_shift=training.max_shift)
        mild = jax.random.uniform(key_mild, (batch_size,), minval=0.05, maxval=0.5)
        more = mild + jax.random.uniform(key_more, (batch_size,), minval=0.15, maxval=0.5)
        spoilt, worse = spoil(key_spoil, clean, mild), spoil(key_spoil, clean, more)
        text = clip.embed_text(module, params, data["input_ids"][pick])

        def total_score(images: Array) -> Array:
            return jnp.sum(text * clip.embed_images(module, params, images))

        attack = training.attack_step * jnp.sign(jax.grad(total_score)(worse))
        worse = jax.lax.stop_gradient(jnp.clip(worse + attack, 0.0, 1.0))

        embeds = clip.embed_images(module, params, jnp.concatenate([clean, spoilt, worse]))
        e_clean, e_spoilt, e_worse = jnp.split(embeds, 3)
        labels = jnp.arange(batch_size)
        of_text = scale * text @ jnp.concatenate([e_clean, e_worse]).T
        of_image = scale * e_clean @ text.T
        contrastive = optax.softmax_cross_entropy_with_integer_labels(of_text, labels).mean()
        contrastive += optax.softmax_cross_entropy_with_integer_labels(of_image, labels).mean()
        score = [scale * jnp.sum(text * e, axis=-1) for e in (e_clean, e_spoilt, e_worse)]
        preference = jax.nn.softplus(score[1] - score[0]).mean() + jax.nn.softplus(score[2] - score[1]).mean()
        metrics = {
            "clean": score[0].mean(),
            "spoilt": score[1].mean(),
            "worse": score[2].mean(),
            "retrieval": jnp.mean(jnp.argmax(of_image, axis=-1) == labels),
            "preferred": jnp.mean(score[1] > score[2]),
            "scale": scale,
        }
        return contrastive + preference, metrics

    params = fit(
        loss_fn,
        params,
        {"images": jnp.asarray(images), "input_ids": jnp.asarray(input_ids)},
        num_updates=training.num_updates,
        learning_rate=training.learning_rate,
        ema_decay=training.ema_decay,
        seed=seed + 1,
        name="reward",
    )
    return params | {"logit_scale": jnp.minimum(params["logit_scale"], max_log_scale)}
