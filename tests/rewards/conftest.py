"""Every reward that has weights, loaded from the file of its original in PyTorch."""

import pytest

from rats_jax.rewards import REWARDS

try:
    from tests.originals import ORIGINALS
except pytest.skip.Exception:  # without PyTorch
    ORIGINALS = {}


@pytest.fixture(scope="session")
def load_pair(tmp_path_factory):
    """By name: the original as a function of torch images [B, 3, H, W], our reward loaded from its file."""
    loaded = {}

    def load(name):
        if name not in loaded:
            kind, make = ORIGINALS[name]
            folder = tmp_path_factory.mktemp("original")
            loaded[name] = make(folder), REWARDS[kind](str(folder))
        return loaded[name]

    return load


def pytest_generate_tests(metafunc):
    """Run a test that asks for an `original` once for each."""
    if "original" in metafunc.fixturenames:
        metafunc.parametrize("original", ORIGINALS)
    if "any_reward" in metafunc.fixturenames:
        metafunc.parametrize("any_reward", [*ORIGINALS, "colour_target", "compressibility_proxy"])
