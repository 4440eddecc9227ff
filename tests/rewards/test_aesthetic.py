"""The aesthetic predictor: its original in PyTorch, and its size."""

import jax.numpy as jnp
import torch

from rats_jax.rewards.aesthetic import describe_aesthetic
from tests.originals import crop_torchvision, make_head, normalise, write_transformers
from tests.rewards.sizes import VIT_L, count


def make_aesthetic(folder):
    model = write_transformers(folder, seed=5, hidden_act="quick_gelu")
    head = make_head(24, seed=6)
    torch.save(head.state_dict(), folder / "sac+logos+ava1-l14-linearMSE.pth")

    def score(images):
        image = model.get_image_features(normalise(crop_torchvision(images)))
        return head.layers(torch.nn.functional.normalize(image, dim=-1))[:, 0]

    return score


ORIGINALS = {"aesthetic": ("aesthetic", make_aesthetic)}


def test_it_has_the_published_number_of_weights():
    assert count(describe_aesthetic(dtype=jnp.bfloat16).params) == VIT_L + 768 + 1
