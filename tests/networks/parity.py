"""PyTorch's networks beside ours: weights that make every layer count, and the same ones in both."""

import inspect
import re

import jax
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict

from rats_jax.networks.kernels import PLAIN, Kernels
from rats_jax.weights.naming import to_torch_names
from rats_jax.weights.state_dict import fit_state_dict
from rats_jax.weights.stored import read_all

torch.set_num_threads(1)  # on busy cores, threads that wait for each other take longer than this little work


def make_original(cls, config):
    """Build a network with random weights, which are the same whenever their shapes are."""
    torch.manual_seed(0)
    return with_random_vectors(cls(**config))


def with_random_vectors(network):
    """Ready a PyTorch network for a comparison, its norms and biases random as well.

    They begin as ones and zeros, where a mix-up is not seen.
    """
    for parameter in network.parameters():
        if parameter.ndim == 1:
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


def weights_of(original, network):
    """Arrange a PyTorch network's weights as the tree of ours; nothing may be missing or left over."""
    state = {name: as_numpy(value) for name, value in original.state_dict().items()}
    return read_all(fit_state_dict(state, network.abstract_params(), source="PyTorch"))


def compile_quickly(fn, *args):
    """Compile for one run on a CPU: without optimisations, which take longer than they save."""
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(fn).lower(*args).compile(compiler_options=options)


def as_numpy(tensor):
    return tensor.detach().numpy()


def to_torch(x):
    """Turn NHWC into NCHW, and NTHWC into NCTHW."""
    x = np.asarray(x)
    return torch.from_numpy((np.moveaxis(x, -1, 1) if x.ndim >= 4 else x).copy())


def from_torch(tensor):
    """Turn NCHW into NHWC, and NCTHW into NTHWC."""
    return np.moveaxis(as_numpy(tensor), 1, -1)


class Recorder:
    """Kernels that are what they stand for and keep what came."""

    def __init__(self):
        self.attended, self.convolved = [], []

    @property
    def kernels(self):
        return Kernels(attend=self.attend, convolve=self.convolve)

    def attend(self, query, key, value, mask=None):
        assert mask is None and key.shape == value.shape and query.dtype == key.dtype
        self.attended.append((query.shape, key.shape, query.dtype, value.dtype))
        return PLAIN.attend(query, key, value, mask)

    def convolve(self, inputs, kernel, strides, padding):
        self.convolved.append((kernel.shape, strides, inputs.dtype))
        return PLAIN.convolve(inputs, kernel, strides, padding)


def assert_weight_gradients(original, network, gradients):
    """Compare our gradients in all weights with those of a float64 original, whose weights they replace."""
    for parameter in original.parameters():
        parameter.data = parameter.grad
    theirs = flatten_dict(weights_of(original, network))
    largest = max(np.abs(leaf).max() for leaf in theirs.values())
    for path, mine in flatten_dict(gradients).items():
        size = np.abs(theirs[path]).max()
        if size < 1e-9 * largest:  # zero but for rounding: a bias before a norm of one channel a group
            assert np.abs(mine).max() < 2 * np.finfo(np.float32).eps * largest, path
            continue
        scale = max(size, 1e-3 * largest)
        np.testing.assert_allclose(mine / scale, theirs[path] / scale, atol=1e-4, err_msg="/".join(path))


def assert_given_back(original, params):
    """Check that our weights have the names and the numbers of PyTorch's."""
    tensors, wanted = to_torch_names(params), original.state_dict()
    assert tensors.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(tensors[name], as_numpy(value), err_msg=name)


def assert_walks_all(cases, fields, cls):
    """Check that a table has a case that is no default for each argument, and knows every default."""
    arguments = dict(list(inspect.signature(cls.__init__).parameters.items())[1:])
    assert set(arguments) == set(fields)
    assert {case[0] for case in cases} == set(arguments)
    for name, argument in arguments.items():
        default = argument.default
        default = tuple(default) if isinstance(default, list) else default
        assert fields[name].default == default, name
        assert any(case[1][name] != argument.default for case in cases if case[0] == name), name


def assert_refused(from_config, config, name):
    """Check that a config is refused in one line that begins with a field and its value."""
    value = config[name]
    values = [value, tuple(value)] if isinstance(value, list) else [value]
    choices = "|".join(re.escape(repr(value)) for value in values)
    with pytest.raises(ValueError, match=rf"^{name}=({choices}): expected [^\n]+$"):
        from_config(config)
