"""Every reward that has weights, loaded from the file of its original in PyTorch."""

import pytest

from rats_jax.rewards import REWARDS
from tests.tiny import read_reward

try:
    import torch

    from tests.originals import ORIGINALS
except ImportError:
    ORIGINALS = {}


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """By name: the folder of a reward's weights, and its original as a function of images [B, 3, H, W]."""
    made = {}

    def write(name):
        if name not in made:
            folder = tmp_path_factory.mktemp("original")
            torch.manual_seed(0)
            made[name] = folder, ORIGINALS[name][1](folder)
        return made[name]

    return write


@pytest.fixture(scope="session")
def load_folder(written):
    """By name: the folder of a reward's weights."""
    return lambda name: written(name)[0]


@pytest.fixture(scope="session")
def load_pair(written):
    """By name: the original, and our reward loaded from its file."""
    loaded = {}

    def load(name):
        if name not in loaded:
            folder, original = written(name)
            loaded[name] = original, read_reward(REWARDS[ORIGINALS[name][0]](str(folder)))
        return loaded[name]

    return load


def pytest_generate_tests(metafunc):
    """Run a test that asks for an `original` once for each."""
    if "original" in metafunc.fixturenames:
        metafunc.parametrize("original", ORIGINALS)
    if "any_reward" in metafunc.fixturenames:
        metafunc.parametrize("any_reward", [*ORIGINALS, "colour_target", "compressibility_proxy"])
