"""Where compiled programs are kept, and tracing without collections."""

import gc

import jax
import pytest
from jax._src.lru_cache import LRUCache

from rats_jax.errors import ConfigError
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


def test_what_was_not_written_to_its_end_is_left_out(monkeypatch, tmp_path):
    """One program without its time, and jax would keep none from there on."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "rats_jax"
    folder.mkdir()
    for name in ("jit_whole-1-cache", "jit_whole-1-atime", "jit_half-2-cache"):
        (folder / name).write_bytes(bytes(8))
    keep_compiled()
    assert sorted(file.name for file in folder.iterdir()) == ["jit_whole-1-atime", "jit_whole-1-cache"]
    LRUCache(str(folder), max_size=2**20).put("jit_next-3", b"program")
    assert (folder / "jit_next-3-cache").read_bytes() == b"program"


@pytest.mark.parametrize(("named", "kept"), [("", None), ("~/elsewhere", "elsewhere")])
def test_the_variable_of_jax_decides(monkeypatch, options, tmp_path, named, kept):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", named)
    keep_compiled()
    folder = {"jax_compilation_cache_dir": str(tmp_path / kept)} if kept else {}
    assert {name: getattr(jax.config, name) for name in OPTIONS} == options | folder


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("file", "JAX_COMPILATION_CACHE_DIR='file': expected a folder, it is a file"),
        ("file/x", "JAX_COMPILATION_CACHE_DIR='file/x': expected a path that can be written, '.*file' is no"),
        ("~nobodyhere/x", "JAX_COMPILATION_CACHE_DIR='~nobodyhere/x': expected the home of a user"),
        ("foo://x", "JAX_COMPILATION_CACHE_DIR='foo://x': expected a folder, or an address as gs://"),
    ],
)
def test_a_folder_that_was_chosen_and_is_none_is_refused(monkeypatch, tmp_path, named, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", named)
    with pytest.raises(ConfigError, match=f"^{message}"):
        keep_compiled()


@pytest.mark.parametrize("variable", ["HOME", "XDG_CACHE_HOME"])
def test_without_a_home_that_can_be_written_no_programs_are_kept_and_it_is_said(
    monkeypatch, options, tmp_path, variable
):
    (tmp_path / "file").write_text("")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "file"))
    said = []
    monkeypatch.setattr("absl.logging.warning", lambda text, *values: said.append(text % values))
    keep_compiled()
    assert {name: getattr(jax.config, name) for name in OPTIONS} == options
    (line,) = said
    assert line.startswith(f"compiled programs are not kept: {variable}=") and "is no folder" in line


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
