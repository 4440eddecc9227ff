"""Tuples inside each other in a pickle, counted without loading it."""

import pickle
import zipfile

import pytest

from rats_jax.errors import WeightsError
from rats_jax.weights.pickle_depth import tuple_depth
from rats_jax.weights.torch_file import read_torch_file

DEPTHS = [
    (1, 0),
    ("a", 0),
    ([[[]]], 0),
    ((), 1),
    (((),), 2),
    (((1, (2,)), 3, 4, 5), 3),
    ({("a", (1, 2)): [3], "b": ((((),),),)}, 4),
    ([(1,), ((1,),), (1,)], 2),
    (frozenset({(1,)}), 2),
]


@pytest.mark.parametrize(("content", "depth"), DEPTHS)
@pytest.mark.parametrize("protocol", range(6))
def test_the_depth_is_that_of_the_object(content, depth, protocol):
    if protocol < 4 and isinstance(content, frozenset):
        pytest.skip("before protocol 4 a frozen set is made by a call, whose result has no depth")
    assert tuple_depth(pickle.dumps(content, protocol)) == depth


def test_what_is_shared_counts_where_it_is_used():
    inner = ((),)
    assert tuple_depth(pickle.dumps([inner, (inner, inner), {inner: inner}])) == 3


DEEP = b")" + b"\x85" * 1_000_000
PICKLES = {
    "a key": b"}" + DEEP + b"K\x01s.",
    "keys": b"}(" + DEEP + b"K\x01u.",
    "a dict": b"(" + DEEP + b"K\x01d.",
    "a set": b"\x8f(" + DEEP + b"\x90.",
    "a frozen set": b"(" + DEEP + b"\x91.",
    "a key by marks": b"}" + b"(" * 1_000_000 + b"t" * 1_000_000 + b"K\x01s.",
    "a key by the memo": b")q\x000" + b"h\x00\x85q\x000" * 200_000 + b"}h\x00K\x01s.",
    "a key of an OrderedDict": b"ccollections\nOrderedDict\n]" + DEEP + b"K\x01\x86a\x85R.",
}


@pytest.mark.parametrize("what", PICKLES)
def test_a_key_too_deep_to_hash_is_refused(tmp_path, what):
    """To load it would end Python: its hash of a tuple calls itself for each one inside."""
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x04" + PICKLES[what])
        archive.writestr("a/version", b"3\n")
    with pytest.raises(WeightsError, match=r"w.pt' has \d+ tuples inside each other in its pickle: refused"):
        read_torch_file(tmp_path / "w.pt")
