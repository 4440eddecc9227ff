"""Damage as files meet it, and worse: flipped, cut and repeated bytes, values of other types and sizes."""

import io
import json
import random
import struct
import zipfile

_BYTES = (
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xed\xa0\xbd",
    b"\r",
    b"\x1a",
    b'"',
    b"{",
    b"]",
    b"[" * 20_000,
    b"\\ud83d",
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"9" * 5_000,
    b"A" * 100_000,
)
_VALUES = (
    *(None, True, False, 0, -1, 1, 3, 1 << 40, 10**400),
    *(0.5, -0.5, 1e-300, 1e300, float("nan"), float("inf")),
    *("", "x", "../../etc/passwd", "\0", "\ud83d", "null", "64"),
    *([], {}, [1, [2, [3]]], {"a": None}, [None] * 9),
)


def mutate(content: bytes, suffix: str, rng: random.Random) -> bytes:
    """Damage the content of a file, half of the time below the form that its suffix says."""
    if rng.random() < 0.5:
        inner = {".json": _mutate_json, ".safetensors": _mutate_header, ".pt": _mutate_archive}.get(suffix)
        if inner is not None:
            return inner(content, rng)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        content = rng.choice((_flip, _zero, _cut, _drop, _repeat, _insert))(content, rng)
    return content


def _span(content: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(content) + 1)
    return start, min(len(content), start + rng.choice((1, 2, 8, 64, 1000)))


def _flip(content: bytes, rng: random.Random) -> bytes:
    if not content:
        return content
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ (1 << rng.randrange(8))]) + content[place + 1 :]


def _zero(content: bytes, rng: random.Random) -> bytes:
    start, end = _span(content, rng)
    return content[:start] + bytes(end - start) + content[end:]


def _cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _drop(content: bytes, rng: random.Random) -> bytes:
    start, end = _span(content, rng)
    return content[:start] + content[end:]


def _repeat(content: bytes, rng: random.Random) -> bytes:
    start, end = _span(content, rng)
    return content[:start] + content[start:end] * rng.choice((2, 3, 50)) + content[end:]


def _insert(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content) + 1)
    return content[:place] + rng.choice(_BYTES) + content[place:]


def _mutate_json(content: bytes, rng: random.Random) -> bytes:
    """Put another value in the place of one, or leave it out, or name it otherwise."""
    try:
        root = [json.loads(content)]
    except ValueError:
        return _flip(content, rng)
    parent, key = root, 0
    while isinstance(parent[key], dict | list) and parent[key] and rng.random() < 0.9:
        parent = parent[key]
        key = rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
    change = rng.randrange(6)
    if change == 0 and parent is not root:
        del parent[key]
    elif change == 1 and isinstance(parent, dict):
        parent[f"{key}_x"] = parent.pop(key)
    else:
        parent[key] = rng.choice(_VALUES)
    return json.dumps(root[0]).encode()


def _mutate_header(content: bytes, rng: random.Random) -> bytes:
    """Change the header of a safetensors file, and its length so that it is read."""
    (size,) = struct.unpack("<Q", content[:8])
    header = _mutate_json(content[8 : 8 + size], rng)
    length = len(header) if rng.random() < 0.9 else rng.choice((0, 1, 1 << 31, 1 << 63))
    return struct.pack("<Q", length) + header + content[8 + size :]


def _mutate_archive(content: bytes, rng: random.Random) -> bytes:
    """Change a record of a .pt file, in an archive that is whole."""
    source, target = zipfile.ZipFile(io.BytesIO(content)), io.BytesIO()
    records = {name: source.read(name) for name in source.namelist()}
    pickles = [name for name in records if name.endswith(".pkl")]
    chosen = rng.choice(pickles if rng.random() < 0.8 else list(records))
    change = rng.choice((_flip, _zero, _cut, _drop, _repeat, _insert))
    records[chosen] = change(records[chosen], rng)
    with zipfile.ZipFile(target, "w") as archive:
        for name, record in records.items():
            archive.writestr(name, record)
    return target.getvalue()
