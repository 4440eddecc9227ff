"""Where compiled programs are kept, and tracing without collections."""

import gc

import jax
import pytest

from rats_jax.parallel.cache import keep_compiled, without_collections

OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture(autouse=True)
def options():
    before = {name: getattr(jax.config, name) for name in OPTIONS}
    yield before
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_are_kept_in_the_cache_of_the_user(monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keep_compiled()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "rats_jax")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    keep_compiled()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "home" / ".cache" / "rats_jax")


@pytest.mark.parametrize("named", ["", "/elsewhere"])
def test_the_variable_of_jax_decides(monkeypatch, options, named):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", named)
    keep_compiled()
    assert {name: getattr(jax.config, name) for name in OPTIONS} == options


def test_no_collection_interrupts_and_they_go_on_afterwards():
    collections = []
    gc.callbacks.append(lambda phase, info: collections.append(phase))
    try:
        for enabled in (True, False):
            (gc.enable if enabled else gc.disable)()
            with pytest.raises(ValueError, match="inside"), without_collections():
                collections.clear()
                cycles = [[] for _ in range(5000)]
                for cycle in cycles:
                    cycle.append(cycle)
                assert not collections
                raise ValueError("inside")
            assert gc.isenabled() == enabled
    finally:
        gc.callbacks.pop()
        gc.enable()
