"""What an export says before it writes: the bytes that its weights will take."""

from types import SimpleNamespace

import numpy as np
import pytest

from rats_jax.student.formats import count_bytes


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("float16", 2), ("bfloat16", 2)])
@pytest.mark.parametrize("kept", [np.float32, np.float16])
def test_all_weights_are_counted_in_the_dtype_on_disk(dtype, size, kept):
    pipeline = SimpleNamespace(
        network={"a": {"kernel": np.zeros((2, 3), kept)}, "b": np.zeros(5, kept)},
        text_encoder={"one": np.zeros((7, 1, 2), kept), "two": {"c": np.zeros((), kept)}},
        decoder={"d": np.zeros(11, kept)},
    )
    assert count_bytes(SimpleNamespace(pipeline=pipeline), dtype) == size * (6 + 5 + 14 + 1 + 11)
