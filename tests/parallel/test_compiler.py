"""Options of XLA: known to it, and given way to XLA_FLAGS."""

import jax
import jax.numpy as jnp
import pytest

from rats_jax.parallel.compiler import TRANSFORMER_ON_GPU, UNET_ON_GPU, choose_options


@pytest.mark.parametrize("options", [TRANSFORMER_ON_GPU, UNET_ON_GPU])
def test_xla_knows_every_option(options):
    double = jax.jit(lambda x: 2 * x, compiler_options=dict(options))
    assert double(jnp.float32(3)) == 6


def test_what_the_environment_sets_is_left_to_it(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/tmp --xla_gpu_enable_triton_gemm=true")
    assert choose_options(TRANSFORMER_ON_GPU) == {"xla_gpu_dot_merger_threshold_mb": 0}
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_dot_merger_threshold_mb")
    assert choose_options(TRANSFORMER_ON_GPU) == {"xla_gpu_enable_triton_gemm": False}
    monkeypatch.delenv("XLA_FLAGS")
    assert choose_options(TRANSFORMER_ON_GPU) == dict(TRANSFORMER_ON_GPU)
