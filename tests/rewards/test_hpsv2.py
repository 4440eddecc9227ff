"""HPSv2.0 and HPSv2.1: their original of open_clip, their size, and one taken for the other."""

import jax.numpy as jnp
import pytest

from rats_jax.errors import WeightsError
from rats_jax.rewards.hpsv2 import describe_hpsv2, load_hpsv2_0, load_hpsv2_1
from tests.originals import make_open_clip, normalise, pad
from tests.rewards.sizes import VIT_H, count


def make_hpsv2(version, seed):
    def make(folder):
        cosine = make_open_clip(
            folder, seed=seed, file=f"HPS_{version}_compressed.pt", wrap=lambda state: {"state_dict": state}
        )
        return lambda images: cosine(normalise(pad(images)))

    return make


ORIGINALS = {
    "hpsv2.0": ("hpsv2.0", make_hpsv2("v2", 3)),
    "hpsv2.1": ("hpsv2.1", make_hpsv2("v2.1", 4)),
}


def test_it_has_the_published_number_of_weights():
    assert count(describe_hpsv2(dtype=jnp.bfloat16).params) == VIT_H


def test_one_version_of_hpsv2_is_not_taken_for_the_other(load_folder):
    file = load_folder("hpsv2.1") / "HPS_v2.1_compressed.pt"
    load_hpsv2_1(str(file))
    with pytest.raises(WeightsError, match="HPS_v2.1_compressed.pt' is the other version of HPSv2, expected"):
        load_hpsv2_0(str(file))
