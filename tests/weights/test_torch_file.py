"""Checkpoints that PyTorch wrote, read back to its numbers; and files made to do harm, real attempts."""

import contextlib
import io
import os
import pickle
import subprocess
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from rats_jax.errors import WeightsError
from rats_jax.weights.torch_file import read_torch_file, state_dict_of

torch = pytest.importorskip("torch")

DTYPES = "float32 float16 bfloat16 float64 int64 int32 int16 int8 uint8 bool".split()
ONE = np.ones(1, np.float32)


def saved(folder, content, **options):
    torch.save(content, folder / "w.pt", **options)
    return folder / "w.pt"


def write_archive(path, pickled, *, compression=zipfile.ZIP_STORED, **more):
    """Write a checkpoint by hand, with a storage "0" of 16 bytes; a record that is None is left out."""
    records = {"data.pkl": pickled, "version": b"3\n", "data/0": b"\0" * 16, **more}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name in (name for name in records if records[name] is not None):
            archive.writestr(f"archive/{name}", records[name])
    return path


class Call:
    """Pickled as a call of a function, and as a BUILD with the state if there is one."""

    def __init__(self, function, *args, state=None):
        self.reduced = (function, args, state)

    def __reduce__(self):
        return self.reduced


class Storage:
    """Pickled as a reference to a storage."""

    def __init__(self, key="0", numel=4, kind=torch.FloatStorage, tag="storage"):
        self.pid = (tag, kind, key, "cpu", numel)


def dumps(content):
    pickler = pickle.Pickler(stream := io.BytesIO(), 2)
    pickler.persistent_id = lambda made: getattr(made, "pid", None)
    pickler.dump(content)
    return stream.getvalue()


def tensor(storage=None, offset=0, shape=(4,), stride=(1,), *more, state=None):
    args = (storage or Storage(), offset, shape, stride, False, OrderedDict(), *more)
    return Call(torch._utils._rebuild_tensor_v2, *args, state=state)


def refusal(path):
    with pytest.raises(WeightsError) as caught:
        read_torch_file(path)
    message = str(caught.value)
    assert message.startswith(f"weights file {str(path)!r} ") and "\n" not in message
    return message


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_file_of_pytorch_gives_the_numbers_that_pytorch_saved(tmp_path, dtype):
    values = torch.arange(-6, 6).reshape(3, 4).to(getattr(torch, dtype))
    tensors = {
        "whole": values.clone(),
        "transposed": values.clone().T,
        "sliced": values.clone()[1:, 1::2],
        "scalar": values[1, 2].clone(),
        "empty": values.clone()[3:],
        "parameter": torch.nn.Parameter(values.clone(), requires_grad=False),
        "twice": values,
        "part": values[2],
    }
    read = state_dict_of(read_torch_file(saved(tmp_path, tensors)), source="w.pt")
    for name, expected in tensors.items():
        assert (read[name].dtype, read[name].shape) == (dtype, tuple(expected.shape))
        assert read[name].tolist() == expected.tolist()
    assert [np.shares_memory(read["twice"], read[name]) for name in ("part", "whole")] == [True, False]
    assert not read["whole"].flags.writeable


def test_a_training_checkpoint_gives_its_containers_and_its_state_dict(tmp_path):
    module = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3))
    content = {
        "state_dict": OrderedDict((f"module.{name}", value) for name, value in module.state_dict().items()),
        "bare": module.state_dict(),  # its `_metadata` is an attribute
        "epoch": 3,
        "notes": ["ä", (None, True, 1.5, 2**70)],
        "optimizer": torch.optim.SGD(module.parameters(), 0.1).state_dict(),
    }
    read = read_torch_file(saved(tmp_path, content))
    assert all(read[name] == content[name] for name in ("epoch", "notes", "optimizer"))
    assert isinstance(read["bare"], OrderedDict) and not vars(read["bare"])
    state = state_dict_of(read, source="w.pth")
    assert list(state_dict_of({"module.a": ONE, "b": ONE}, source="w.pt")) == ["module.a", "b"]
    assert list(state_dict_of({"model": {"a": ONE}, "epoch": 3}, source="w.pt")) == ["a"]
    assert list(state) == list(module.state_dict())
    assert all(np.array_equal(state[name], value) for name, value in module.state_dict().items())


NO_STATE_DICT = {
    "one list": [ONE],
    "one NoneType": None,
    "no tensors": {},
    "'net' of type dict, which is no tensor": {"net": {"a": ONE}},
    "'version' of type int, which is no tensor": {"a": ONE, "version": 2},
    "'b' of type str, which is no tensor": {"state_dict": {"a": ONE, "b": "x"}},
    "a name of type int": {3: ONE},
}


@pytest.mark.parametrize("found", NO_STATE_DICT)
def test_a_content_without_a_state_dict_is_refused_by_what_it_holds(found):
    with pytest.raises(WeightsError, match=f"weights file 'w.pt' holds {found}; expected tensors by name"):
        state_dict_of(NO_STATE_DICT[found], source="w.pt")


@pytest.mark.parametrize("protocol", [2, 4])  # GLOBAL, STACK_GLOBAL
@pytest.mark.parametrize("how", ["system", "eval", "exec", "Popen", "load"])
def test_a_pickle_that_calls_something_is_refused_before_it_runs(tmp_path, how, protocol):
    marker = tmp_path / "ran"
    python = f"open({str(marker)!r}, 'w').close()"
    attack = {
        "system": Call(os.system, f"touch {marker}"),
        "eval": Call(eval, python),
        "exec": Call(exec, python),
        "Popen": Call(subprocess.Popen, ["touch", str(marker)]),
        "load": Call(torch.load, str(marker)),
    }[how]
    path = saved(tmp_path, {"a": torch.ones(2), "b": attack}, pickle_protocol=protocol)
    assert f".{how}', which is no tensor" in refusal(path)
    assert not marker.exists()
    if how in ("system", "eval", "exec"):  # the attempt is real: an ordinary unpickler runs it
        pickle.loads(pickle.dumps(attack, protocol))
        assert marker.exists()


@pytest.mark.parametrize("module", ["collections", "torch._utils", "torch", "os\nx"])
@pytest.mark.parametrize("name", ["OrderedDict.__init__.__globals__", "_rebuild_qtensor", "QInt8Storage"])
def test_a_global_beside_the_list_is_refused_by_name(tmp_path, module, name):
    texts = [b"X" + len(text).to_bytes(4, "little") + text.encode() for text in (module, name)]
    pickles = [b"\x80\x04" + b"".join(texts) + b"\x93.", f"c{module}\n{name}\n.".encode()]
    for pickled in pickles[: 2 - module.count("\n")]:  # GLOBAL cannot write a name of two lines
        message = refusal(write_archive(tmp_path / "w.pt", pickled))
        assert f"asks for {f'{module}.{name}'!r}, which is no tensor" in message


STATES = [{"function": 1, "dtype": 1}, (None, {"function": 1, "__defaults__": (1,)})]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", ["collections OrderedDict", "torch IntStorage"])
def test_a_pickle_cannot_change_what_a_global_stands_for(tmp_path, name, state):
    named = "c{}\n{}\n".format(*name.split()).encode()
    path = write_archive(tmp_path / "w.pt", named + dumps(state)[:-1] + b"b.")
    assert "sets the attributes of a global" in refusal(path)


def test_a_pickle_cannot_set_attributes_on_what_it_makes(tmp_path):
    path = tmp_path / "w.pt"
    for state in ({"items": None, "__setstate__": None}, (None, {"items": None, "__class__": None})):
        read = read_torch_file(write_archive(path, dumps(Call(OrderedDict, [("a", 1)], state=state))))
        assert not vars(read) and list(read.items()) == [("a", 1)]
    for state in (*STATES, (1, (9,), "f4", False, "x" * 36)):
        assert "cannot be read" in refusal(write_archive(path, dumps(tensor(state=state))))
        assert "cannot be read" in refusal(write_archive(path, b"}" + dumps(state)[:-1] + b"b."))
    assert "sets the attributes" in refusal(write_archive(path, dumps(Storage())[:-1] + b"}b."))


BAD_TENSORS = {
    "outside its storage of 4": [tensor(offset=1), tensor(shape=(2, 2), stride=(3, 1)), tensor(stride=(2,))],
    "outside its storage": [tensor(shape=(0,), offset=5), tensor(shape=(), stride=(), offset=4)],
    "(4611686018427387904, 4)": [tensor(shape=(2**62, 4), stride=(2**62, 1))],
    "storage of 2 elements": [tensor(Storage(numel=2), shape=(3,))],
    "is negative or no integer": [tensor(offset=-1), tensor(shape=(-4,)), tensor(offset=3, stride=(-1,))],
    "negative or no integer": [tensor(shape=(4.0,)), tensor(shape=(True,)), tensor(offset=None)],
    "one stride per dimension": [tensor(shape=(2, 2)), tensor(shape=[4])],
    "without storage or one": [tensor("0"), tensor(None, 0, (1,) * 65, (1,) * 65)],
    "repeats its 4 elements": [tensor(shape=(10**9,), stride=(0,))],
    "negative view": [tensor(None, 0, (4,), (1,), {"neg": True})],
    "storage '0' of fewer than": [tensor(Storage(numel=5)), tensor(Storage(numel=2**62))],
    "lacks the record 'data/1'": [tensor(Storage("1"))],
    "'../data/0', which is no number": [tensor(Storage("../data/0"))],
    "is no storage": [tensor(Storage(numel=-4)), tensor(Storage(tag="module")), tensor(Storage(kind="x"))],
    "Parameter that is no tensor": [Call(torch._utils._rebuild_parameter, [1], False, None)],
}


@pytest.mark.parametrize("found", BAD_TENSORS)
def test_a_tensor_that_its_storage_does_not_hold_is_refused(tmp_path, found):
    for made in BAD_TENSORS[found]:
        assert found in refusal(write_archive(tmp_path / "w.pt", dumps(made)))


BAD_RECORDS = {
    "big-endian": {"byteorder": b"big"},
    "TorchScript": {"constants.pkl": b""},
    "is a program": {"code/__torch__.py": b""},
    "lacks the record 'data/0'": {"data/0": None},
    "0 data.pkl": {"data.pkl": None},
    "cannot be read, it may be damaged": {"data.pkl": dumps(tensor())[:-9]},
    "opcode LONG_BINPUT 2147483647": {"data.pkl": b"\x80\x02Nr\xff\xff\xff\x7f."},
    "opcode EXT1": {"data.pkl": b"\x80\x02\x82\x01."},
}


@pytest.mark.parametrize("found", BAD_RECORDS)
def test_an_archive_with_the_wrong_records_is_refused(tmp_path, found):
    assert found in refusal(write_archive(tmp_path / "w.pt", dumps(tensor()), **BAD_RECORDS[found]))


def test_files_of_other_formats_are_refused_by_what_they_are(tmp_path):
    assert "does not exist" in refusal(path := tmp_path / "w.pt")
    assert "cannot be read (Is a directory)" in refusal(tmp_path)
    assert "is no zip archive" in refusal(saved(tmp_path, {}, _use_new_zipfile_serialization=False))
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    assert "TorchScript" in refusal(path)
    assert "_rebuild_sparse_tensor" in refusal(saved(tmp_path, torch.ones(3).to_sparse()))
    assert "negative view" in refusal(saved(tmp_path, torch._neg_view(torch.ones(2))))
    write_archive(path, dumps(tensor()), compression=zipfile.ZIP_DEFLATED)
    assert "compressed or encrypted record 'data.pkl'" in refusal(path)
    good = write_archive(path, dumps(tensor())).read_bytes()
    path.write_bytes(good.replace(b"\x10\0\0\0" * 2, b"\0\0\0\x40" * 2))
    assert "lacks some of the 1073741824 bytes of the record 'data/0'" in refusal(path)


def test_a_file_cut_or_changed_anywhere_is_refused_or_right(tmp_path):
    path = saved(tmp_path, {"a": torch.arange(64.0)})
    good, rng = path.read_bytes(), np.random.default_rng(0)
    for end in range(0, len(good) - 1, 7):
        path.write_bytes(good[:end])
        refusal(path)
    for _ in range(1000):
        changed = bytearray(good)
        changed[rng.integers(len(good))] ^= rng.integers(1, 256)
        path.write_bytes(changed)
        with contextlib.suppress(WeightsError):
            assert read_torch_file(path)["a"].tolist() == list(range(64))
