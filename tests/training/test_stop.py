"""Signals that ask a run to end: once to save and end, twice to end at once."""

import os
import signal

import pytest

from rats_jax.training.stop import watch_for_stop


@pytest.fixture(autouse=True)
def signals():
    numbers = signal.SIGTERM, signal.SIGINT
    before = [signal.getsignal(number) for number in numbers]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever runs the tests has
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_asked_for_between_updates(number, capfd):
    before = signal.getsignal(number)
    with watch_for_stop(None) as is_stopped:
        assert not is_stopped(1)
        os.kill(os.getpid(), number)
        assert is_stopped(2)
        assert signal.getsignal(number) == before  # the next one is nobody's to catch
    said = capfd.readouterr().err
    assert ("it ends after this update, which is saved" in said) == (number == signal.SIGINT)


def test_a_second_interrupt_ends_it_at_once():
    with pytest.raises(KeyboardInterrupt), watch_for_stop(None):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_that_is_ignored_stays_ignored():
    """As of a command that a shell runs in the background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with watch_for_stop(None) as is_stopped:
        os.kill(os.getpid(), signal.SIGINT)
        assert not is_stopped(1) and signal.getsignal(signal.SIGINT) == signal.SIG_IGN
