"""open_clip beside a CPU build of PyTorch, and what every comparison with an original network needs."""

import importlib
import sys
from unittest import mock

import numpy as np
import pytest

_TORCHVISION = ["", ".transforms", ".transforms.functional", ".ops", ".ops.misc"]


def import_open_clip():
    """Import open_clip; where torchvision is missing or broken, a stand-in takes its place meanwhile.

    Its networks need nothing of torchvision, only its picture transforms do. torchvision on PyPI is built for
    CUDA and cannot be imported beside a CPU build of PyTorch.
    """
    pytest.importorskip("torch")
    importlib.import_module("transformers")  # it looks for torchvision too, and must not find the stand-in
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError):
        stand_ins = {f"torchvision{name}": mock.MagicMock() for name in _TORCHVISION}
        sys.modules.update(stand_ins)
        try:
            return pytest.importorskip("open_clip")
        finally:
            for name in stand_ins:
                del sys.modules[name]
    return pytest.importorskip("open_clip")


def randomise(module, *, seed, scale=0.3):
    """Give a PyTorch network weights that make its outputs differ clearly from input to input."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim < 2:
                parameter.add_(0.1 * noise)
            else:
                parameter.copy_(scale * noise / np.sqrt(parameter[0].numel() ** 0.5))
    return module.eval()
