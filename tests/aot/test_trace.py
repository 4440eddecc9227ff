"""What is said where an update cannot be traced."""

import pytest

from rats_jax.aot import trace as tracing
from rats_jax.errors import ConfigError


def test_without_cudnn_it_says_what_to_install(monkeypatch):
    def fails(*_):
        raise RuntimeError("cuDNN not found.")

    monkeypatch.setattr(tracing, "_trace", fails)
    with pytest.raises(ConfigError, match=r"^topology: expected cuDNN, .*\[cuda\]' .cuDNN not found"):
        tracing.trace(None, [])


def test_what_else_fails_is_not_taken_for_it(monkeypatch):
    def fails(*_):
        raise RuntimeError("RESOURCE_EXHAUSTED")

    monkeypatch.setattr(tracing, "_trace", fails)
    with pytest.raises(RuntimeError, match="^RESOURCE_EXHAUSTED$"):
        tracing.trace(None, [])
