"""The choice of kernels by the device."""

from types import SimpleNamespace

import jax
import pytest

from rats_jax.networks.attention import attend, attend_cudnn, attend_in_columns
from rats_jax.networks.attention_flash import attend_flash
from rats_jax.networks.convolution import convolve, convolve_in_loops
from rats_jax.networks.group_norm import group_norm, group_norm_by_products
from rats_jax.networks.kernels import PLAIN, Kernels, find_kernels


@pytest.mark.parametrize(
    ("platform", "version", "capability", "wanted"),
    [
        (
            "gpu",
            "PJRT C API\nNVIDIA H100 80GB HBM3",
            "9.0",
            Kernels(attend=attend_cudnn),
        ),  # only compiled for
        ("gpu", "cuda 13000", "9.0", Kernels(attend=attend_cudnn)),
        ("gpu", "cuda 12090", "10.3", Kernels(attend=attend_cudnn)),
        ("gpu", "cuda 12090", "8.0", Kernels(attend=attend_cudnn)),
        ("gpu", "cuda 12090", "7.5", PLAIN),
        ("gpu", "rocm 60000", "gfx942", PLAIN),
        ("tpu", "PJRT", None, Kernels(attend=attend_flash)),
        ("cpu", "cpu", None, Kernels(attend_in_columns, convolve_in_loops, group_norm_by_products)),
    ],
)
def test_a_device_has_its_kernels(platform, version, capability, wanted):
    client = SimpleNamespace(platform_version=version)
    kind = version.rpartition("\n")[2]
    device = SimpleNamespace(
        platform=platform, client=client, device_kind=kind, compute_capability=capability
    )
    assert find_kernels(device) == wanted


def test_a_real_device_is_understood():
    ours = Kernels(attend_in_columns, convolve_in_loops, group_norm_by_products)
    assert find_kernels(jax.devices("cpu")[0]) == ours
    assert Kernels(attend, convolve, group_norm) == PLAIN
