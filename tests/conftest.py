"""What all tests share: eight fake CPU devices, set before anything imports jax."""

import collections
import gc
import importlib.metadata
import os
import tempfile

# Programs of tiny networks run for less time than it takes to optimise them.
_FLAGS = {
    "xla_force_host_platform_device_count": "8",
    "xla_backend_optimization_level": "0",
    "xla_llvm_disable_expensive_passes": "true",
}
# XLA ends a process over a flag that it does not know, so this one is for the version that we pin.
if importlib.metadata.version("jaxlib") == "0.10.2":
    _FLAGS["xla_cpu_use_fusion_emitters"] = "false"
_GIVEN = os.environ.get("XLA_FLAGS", "")
_MORE = " ".join(f"--{name}={value}" for name, value in _FLAGS.items() if name not in _GIVEN)
os.environ["XLA_FLAGS"] = f"{_GIVEN} {_MORE}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Where the workers of the tests share the cores, the threads of a small decomposition wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# A seventh of the tests' time went into looking for garbage among what jax traced.
gc.set_threshold(50_000, 20, 20)
# Runs that compile the same program again, as a resumed one does, load it; the folder goes with the tests.
_CACHE = tempfile.TemporaryDirectory(prefix="rats_jax_compiled_")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _CACHE.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

# A property's first example compiles, so its time says nothing.
hypothesis.settings.register_profile("default", deadline=None, max_examples=50, derandomize=True)
hypothesis.settings.load_profile("default")


def pytest_addoption(parser):
    """Add what `make stress` asks for."""
    parser.addoption("--stress", action="store_true", help="the full campaign of tests/stress")
    parser.addoption("--stress-seed", type=int, default=0, help="of its damage and its moments")


def pytest_collection_modifyitems(items):
    """Begin with the files of the slowest tests, so that no worker is left with one at the end."""
    slow = collections.Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def pytest_collection_finish():
    """Leave what was imported out of the search for garbage."""
    gc.freeze()


@pytest.fixture
def strict_ranks():
    """Make jax refuse to broadcast arrays of different rank, in the test that asks for it."""
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """The folders that runs of `tests.tiny.tiny_config` read."""
    from tests.tiny import write_tiny_models

    folder = tmp_path_factory.mktemp("models")
    write_tiny_models(folder)
    return folder
