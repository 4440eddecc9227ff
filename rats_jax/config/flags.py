"""Config files and their overrides on the command line; every mistake becomes one line and exit status 1."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

from rats_jax.config.fields import RULES, flatten
from rats_jax.config.find import find_config
from rats_jax.errors import (
    ConfigError,
    DivergedError,
    ExportError,
    HackingError,
    StoppedError,
    expect,
    reason_of,
    suggestion,
)
from rats_jax.paths import expect_model
from rats_jax.python_files import import_file, run_code
from rats_jax.texts import close_output

_SHOWN = 300

flags.disclaim_key_flags()  # those that are defined here are shown as the command's own


def load_config(path: str | Path) -> Any:
    """Run the `get_config()` of a config file.

    Args:
        path: as of `find_config`.

    Returns:
        The ConfigDict, unlocked; Any, because type checkers cannot know its fields.

    Raises:
        ConfigError: there is no such file, it does not run, or it defines no `get_config` that gives one.
    """
    file, arguments = find_config(str(path))
    module = import_file(file, f"{file.stem}_config", field="config")
    expect(hasattr(module, "get_config"), "config", str(path), "a file that defines get_config()")
    config = run_code(file, lambda: module.get_config(*arguments), field="config")
    kind = type(config).__name__
    expect(isinstance(config, ConfigDict), "config", str(path), f"a ConfigDict from get_config(), not {kind}")
    return config


def define_config() -> Any:
    """Define --config and its overrides --config.FIELD=VALUE, as every command of a config has them.

    Returns:
        The holder: its `value` is the ConfigDict, locked.
    """
    try:
        holder = config_flags.DEFINE_config_file(
            "config",
            None,
            "Config file, or the name of one; override its fields with --config.FIELD=VALUE.",
            lock_config=True,
        )
    except flags.Error as error:  # it reads --flagfile
        fail(error)
    flags.mark_flag_as_required("config")
    return holder


def validate_overrides(argv: Sequence[str]) -> None:
    """Check that the config file of a command line exists and has every field that is overridden.

    ml_collections finds an unknown field too, but ends in a traceback.

    Args:
        argv: the command line, e.g. [..., '--config=configs/emoji_cpu.py', '--config.student.num_steps=8'].

    Raises:
        ConfigError: names the file, or the field and the one that was probably meant.
    """
    line = list(argv[: argv.index("--")] if "--" in argv else argv)
    paths = [re.sub(r"^--?config=", "", a) for a in line if re.match(r"--?config=", a)]
    paths += [line[i + 1] for i, a in enumerate(line[:-1]) if re.fullmatch(r"--?config", a)]
    if not paths:
        return
    flat = flatten(load_config(paths[-1]))
    sections = {field.rsplit(".", depth)[0] for field in flat for depth in range(1, field.count(".") + 1)}
    for override in line:
        found = re.match(r"--?(?:no)?config\.([^=\[]*)(?:\[(.*?)\])?", override)
        if found and found[1] not in flat and found[1] not in sections:
            raise ConfigError(f"{override}: no field {found[1]!r} in {paths[-1]}{suggestion(found[1], flat)}")
        if found and found[2] is not None and not _has_item(flat.get(found[1]), found[2]):
            raise ConfigError(f"{override}: expected all of it, as in --config.{found[1]}='(1, 2)'")


def _has_item(value: Any, index: str) -> bool:
    """Tell whether ml_collections can set an item: of a list, one that is there."""
    return isinstance(value, list) and index.isdecimal() and int(index) < len(value)


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parse the command line, as the `flags_parser` of `absl.app.run`.

    Args:
        argv: the command line, the program's name first.

    Returns:
        What absl wants back: the program's name. A mistake prints one line and exits with status 1.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names and prompts hold any character
    try:
        given = flags.FLAGS.read_flags_from_files(list(argv), force_gnu=False)
        validate_overrides(given)
        arguments = flags.FLAGS(_expand_config(given))
        validate_once(flags.FLAGS)
        expect(len(arguments) == 1, "arguments", arguments[1:], "flags only, as in --config=FILE")
        return arguments
    except flags.IllegalFlagValueError as error:
        found = re.match(r"flag --config\.([\w.]+)=(\S*):", str(error))
        rule = RULES.get(found[1]) if found else None
        fail(ConfigError(f"{found[1]}={found[2]}: expected {rule.expected}") if found and rule else error)
    except (ConfigError, flags.Error) as error:
        fail(error)
    except BrokenPipeError:
        _end_with_reader()


def parse_rewards(texts: Sequence[str]) -> dict[str, str]:
    """Read the flags --reward, each KIND or KIND=PATH.

    Args:
        texts: of the flags.

    Returns:
        The path of each kind, '' for the published weights.

    Raises:
        ConfigError: a kind twice, or a path that is no folder, file or hub id.
    """
    found: dict[str, str] = {}
    for text in texts:
        kind, given, path = text.partition("=")
        expect(kind not in found, "reward", text, "each kind once")
        if given:
            expect_model(path, f"reward={kind}")
        found[kind] = path
    return found


def validate_once(values: flags.FlagValues) -> None:
    """Check that no flag was given twice but those that may be repeated; of others absl takes the last.

    Raises:
        ConfigError: names the flag.
    """
    for name in sorted(values):
        flag = values[name]
        if flag.present > 1 and not isinstance(flag, flags.MultiFlag):
            raise ConfigError(f"--{name}: expected once, it is given {flag.present} times")


def _expand_config(line: list[str]) -> list[str]:
    """Give the config of a command line the path of its file, for ml_collections knows no names."""
    expanded, end = list(line), line.index("--") if "--" in line else len(line)
    for i, argument in enumerate(line[:end]):
        if found := re.match(r"--?config=", argument):
            expanded[i] = found[0] + _with_path(argument[found.end() :])
        elif re.fullmatch(r"--?config", argument) and i + 1 < end:
            expanded[i + 1] = _with_path(line[i + 1])
    return expanded


def _with_path(config: str) -> str:
    file, arguments = find_config(config)
    return ":".join([str(file), *arguments])


@contextmanager
def errors_in_a_line() -> Iterator[None]:
    """End a command with one line where its input, a file or the memory is not as it should be.

    Errors that say what is wrong are shown as they are. Of what nobody foresaw those are shown that name a
    file, and those of memory; all others are faults of the program, and keep their traceback.
    """
    try:
        yield
    except (ConfigError, DivergedError, ExportError, HackingError, StoppedError) as error:
        fail(error)
    except BrokenPipeError:
        _end_with_reader()
    except OSError as error:
        if error.filename is None:
            raise
        path = os.fsdecode(error.filename)
        fail(ConfigError(f"{path!r}: expected a path that can be read and written ({reason_of(error)})"))
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        fail(ConfigError(f"memory: expected enough of it ({reason_of(error)[:_SHOWN]})"))
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)


def _end_with_reader() -> NoReturn:
    """End a command because whoever read what it prints has gone, as behind `| head`."""
    close_output(sys.stdout, sys.stderr)
    sys.exit(141)  # as a shell says it


def fail(error: Exception) -> NoReturn:
    """Print an error as one line on stderr and end the program with its status, or with 1."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(getattr(error, "status", 1))
