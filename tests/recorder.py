"""Recorders: what a function was called with, in the place of what it does."""

from types import SimpleNamespace


class Recorder:
    """Stands in for functions, and keeps what they were called with by name."""

    def __init__(self, monkeypatch):
        self.calls, self._monkeypatch = {}, monkeypatch

    def put(self, module, name, result=None):
        """Replace a function of a module by one that gives a result, or calls it if it is a function."""

        def record(*args, **kwargs):
            self.calls.setdefault(name, []).append(SimpleNamespace(args=args, **kwargs))
            return result(*args, **kwargs) if callable(result) else result

        self._monkeypatch.setattr(module, name, record)

    def __getattr__(self, name):
        (call,) = self.calls[name]
        return call

    def once(self, name):
        """Give the arguments of the only call: by position, and by name."""
        options = dict(vars(getattr(self, name)))
        return options.pop("args"), options
