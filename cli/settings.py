"""Where the options' values come from: ``--set``, then the environment, then ``promptweir.toml``, then the defaults.

A wrong value is refused here, with its source, before anything starts.  Options of mitmproxy itself may be given by
``--set`` too; mitmproxy checks those.
"""

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs

from promptweir.cli.state import ENVIRONMENT, UserError
from promptweir.layers.config import BY_NAME, OPTIONS, PREFIX, Option, Value, config_of, value_of

FILE = "promptweir.toml"
ENVIRONMENT_PREFIX = "PROMPTWEIR_"
MAX_FILE_BYTES = 1 << 20

type Setting = bool | int | str | list[str]


@dataclass(frozen=True, slots=True)
class Settings:
    """The values that differ from nothing said, and where each was said."""

    values: Mapping[str, Value] = field(default_factory=dict)
    """Our options."""
    sources: Mapping[str, str] = field(default_factory=dict)
    others: Mapping[str, list[str]] = field(default_factory=dict)
    """mitmproxy's options, as given."""

    @property
    def all(self) -> dict[str, Setting]:
        """Return both kinds, for the proxy."""
        return {**self.values, **{name: given if len(given) > 1 else given[0] for name, given in self.others.items()}}


def collect(assignments: Iterable[str], folder: Path | None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Gather all values; *folder* is the state folder, if it is known already."""
    values: dict[str, Value] = {}
    sources: dict[str, str] = {}
    others: dict[str, list[str]] = {}
    path = find_file(folder)
    if path is not None:
        for option, value in _from_file(path).items():
            values[option.name], sources[option.name] = _checked(option, value, str(path)), str(path)
    for option in OPTIONS:
        variable = variable_of(option)
        if variable in environ and variable != ENVIRONMENT:
            values[option.name] = _checked(option, _read(option, environ[variable], variable), variable)
            sources[option.name] = variable
    for assignment in assignments:
        name, sign, text = assignment.partition("=")
        if not sign or not name:
            raise UserError(f"--set takes option=value, not {assignment!r}")
        if name.startswith(PREFIX):
            option = named(name, "--set")
            values[name], sources[name] = _checked(option, _read(option, text, "--set"), "--set"), "--set"
        else:
            others.setdefault(name, []).append(text)
    return Settings(values, sources, others)


def find_file(folder: Path | None) -> Path | None:
    """Return the user's file of options: the state folder's, else that of the user's configuration folder."""
    candidates = [*([folder] if folder else []), platformdirs.user_config_path("promptweir")]
    return next((path for path in (candidate / FILE for candidate in candidates) if path.is_file()), None)


def variable_of(option: Option) -> str:
    """Return the environment variable that sets *option*."""
    return ENVIRONMENT_PREFIX + option.name.removeprefix(PREFIX).upper()


def strangers(environ: Mapping[str, str]) -> list[str]:
    """Return the variables that look like ours and set nothing; most likely misspelt."""
    known = {variable_of(option) for option in OPTIONS} | {ENVIRONMENT, "PROMPTWEIR_PYTHON"}
    return sorted(name for name in environ if name.startswith(ENVIRONMENT_PREFIX) and name not in known)


def named(name: str, source: str) -> Option:
    """Return the option called *name*."""
    if option := BY_NAME.get(name):
        return option
    close = difflib.get_close_matches(name, BY_NAME, n=1)
    hint = f"did you mean {close[0]}?" if close else "`promptweir options` lists them"
    raise UserError(f"{source}: no option is called {name}; {hint}")


def _read(option: Option, text: str, source: str) -> Value:
    try:
        return value_of(option, text)
    except ValueError as error:
        raise UserError(f"{source}: {error}") from error


def _checked(option: Option, value: object, source: str) -> Value:
    try:
        config_of({option.name: value})
    except ValueError as error:
        raise UserError(f"{source}: {error}") from error
    if not isinstance(value, bool | int | str):  # config_of has refused all else
        raise TypeError(option.name)
    return value


def _from_file(path: Path) -> dict[Option, object]:
    """Read *path*: option names with or without the prefix, lists for options that are lists."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
        if len(raw) > MAX_FILE_BYTES:
            raise UserError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
        document = tomllib.loads(raw.decode())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    found: dict[Option, object] = {}
    for key, value in document.items():
        option = named(key if key.startswith(PREFIX) else PREFIX + key, str(path))
        is_list = option.unit == "list" and isinstance(value, list) and all(isinstance(item, str) for item in value)
        found[option] = ",".join(value) if is_list else value
    return found
