"""Checkpoints damaged at random: never a wrong state without a word."""

import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np

from rats_jax.errors import ConfigError
from rats_jax.workdir.checkpoint import open_manager, restore, restore_student, save_now

STEPS = (2, 4, 6)
LIKE = {"student": {name: jax.ShapeDtypeStruct((64, 8), jnp.float32) for name in ("a", "b")}}


def state_of(step):
    """The state that the checkpoint of an update holds."""
    values = np.random.default_rng(step).normal(size=(2, 64, 8)).astype(np.float32)
    return {"student": {"a": jnp.asarray(values[0]), "b": jnp.asarray(values[1])}}


def cut(file, rng):
    file.write_bytes(file.read_bytes()[: rng.randrange(file.stat().st_size)])


def zero(file, rng):
    content = bytearray(file.read_bytes())
    start = rng.randrange(len(content))
    content[start : start + 64] = bytes(len(content[start : start + 64]))
    file.write_bytes(content)


def flip(file, rng):
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def remove(file, rng):
    file.unlink()


def restored_wrongly(folder, damaged, rng):
    """Damage files of a checkpoint and restore: what was right, was said, and is the state a saved one?"""
    found = (folder / str(damaged)).rglob("*")
    files = sorted(file for file in found if file.is_file() and file.stat().st_size)
    change = rng.choice((cut, zero, flip, remove))
    before = {file: file.read_bytes() for file in files}
    chosen = rng.sample(files, rng.choice((1, 1, 1, 2)))
    for file in chosen:
        change(file, rng)
    changed = any(not file.exists() or file.read_bytes() != before[file] for file in chosen)
    what = f"{change.__name__} {', '.join(str(file.relative_to(folder)) for file in chosen)}"
    said, faults = [], []
    try:
        step, student = restore_student(folder, LIKE["student"], step=None)
        if not matches(student, step):
            faults.append(f"{what}: read as {step}, it is another state")
        if damaged == max(STEPS) and step < damaged and not changed:
            faults.append(f"{what}: {step} was read, {damaged} was whole")
    except ConfigError as error:
        faults.append(f"{what}: older ones were whole: {error}")
    with open_manager(folder, keep=9, every=1, say=said.append) as manager:
        state, position = restore(manager, LIKE, say=said.append)
    step = position["at"]
    if not matches(state["student"], step):
        faults.append(f"{what}: restored as {step}, it is another state")
    if (step < max(STEPS) and not said) or (not changed and said) or any("\n" in line for line in said):
        faults.append(f"{what}: restored {step}, and said {said}")
    return faults


def matches(student, step):
    expected = state_of(step)["student"]
    return all(np.array_equal(np.asarray(student[name]), expected[name]) for name in expected)


def test_a_damaged_checkpoint_is_never_taken_for_a_whole_one(tmp_path, campaign):
    with open_manager(tmp_path / "good", keep=9, every=1) as manager:
        for step in STEPS:
            save_now(manager, step, state_of(step), {"at": step})
    rng, faults = random.Random(campaign.seed), []
    count = campaign.dose(full=200, small=12)
    for number in range(count):
        folder = tmp_path / str(number) / "checkpoints"
        shutil.copytree(tmp_path / "good", folder)
        try:
            faults += restored_wrongly(folder, rng.choice(STEPS), rng)
        except Exception as error:
            faults.append(f"{number}: {type(error).__name__}: {error}")
        shutil.rmtree(folder.parent)
    campaign.report("damaged checkpoints", count, "the damaged one is named, an older one used", faults)
    assert not faults, "\n".join(faults)
