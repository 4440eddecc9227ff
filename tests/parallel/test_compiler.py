"""Options of XLA: known to it, and given way to XLA_FLAGS."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp

from rats_jax.parallel.compiler import GPU_OPTIONS, compiler_options

GPU, TPU = (SimpleNamespace(platform=platform) for platform in ("gpu", "tpu"))


def test_xla_knows_every_option():
    double = jax.jit(lambda x: 2 * x, compiler_options=dict(GPU_OPTIONS))
    assert double(jnp.float32(3)) == 6


def test_what_the_environment_sets_is_left_to_it(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/tmp --xla_gpu_enable_triton_gemm=true")
    assert compiler_options(GPU) == {"xla_gpu_dot_merger_threshold_mb": 0}
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_dot_merger_threshold_mb")
    assert compiler_options(GPU) == {"xla_gpu_enable_triton_gemm": False}
    monkeypatch.delenv("XLA_FLAGS")
    assert compiler_options(GPU) == GPU_OPTIONS
    assert compiler_options(TPU) == {}
