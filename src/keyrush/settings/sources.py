"""Where settings come from: arguments, then the environment, then the TOML file.

The first that names a setting gives all of it; tables such as the plans are never mixed.
"""

from __future__ import annotations

import bisect
import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from keyrush.errors import ConfigurationError

#: What the variables of settings begin with.
PREFIX = "KEYRUSH_"

_CONFIG = f"{PREFIX}CONFIG"

#: The file of the working folder, which needs no `KEYRUSH_CONFIG`.
FILE_NAME = "keyrush.toml"

#: The table whose settings have names that begin so.
DASHBOARD = "dashboard"


class Whole(PydanticBaseSettingsSource):
    """A source of those settings alone that no earlier one names."""

    def __init__(
        self, settings_cls: type[BaseSettings], source: PydanticBaseSettingsSource
    ) -> None:
        super().__init__(settings_cls)
        self._source = source

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        """What the source itself says of one setting."""
        return self._source.get_field_value(field, field_name)

    def __call__(self) -> dict[str, Any]:
        given = self._source()
        return {name: given[name] for name in given if name not in self.current_state}


class TomlFile(PydanticBaseSettingsSource):
    """The file that the argument `config` names, or `KEYRUSH_CONFIG`, or `keyrush.toml` here."""

    def __init__(self, settings_cls: type[BaseSettings], init: PydanticBaseSettingsSource) -> None:
        super().__init__(settings_cls)
        self._given = init()

    def get_field_value(
        self,
        field: Any,  # noqa: ARG002  # named by pydantic
        field_name: str,
    ) -> tuple[Any, str, bool]:
        """Nothing: the file is read as a whole."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        try:
            path = chosen(self._given)
        except TypeError:
            raise ConfigurationError(f"{_CONFIG}: must be the path of a file") from None
        if path is None:
            return {}
        try:
            values = tomllib.loads(read(path))
        except OSError as error:
            raise ConfigurationError(f"{_CONFIG}: can't read {path}: {error.strerror}") from None
        except ValueError as error:  # no TOML, no UTF-8, or no path
            raise ConfigurationError(f"{_CONFIG}: {path!s:.200}: {error}") from None
        if "config" in values:
            raise ConfigurationError(f"config: {path} can't name another file")
        return _flat(values) | {"config": path}


def is_in_environment() -> bool:
    """Whether any variable is one of settings."""
    return any(name.upper().startswith(PREFIX) for name in os.environ)


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """The settings in the file, those of `[dashboard]` by their whole names."""
    table = values.get(DASHBOARD)
    if not isinstance(table, dict):
        return values
    rest = {name: value for name, value in values.items() if name != DASHBOARD}
    return rest | {f"{DASHBOARD}_{name}": value for name, value in table.items()}


def chosen(given: dict[str, Any]) -> Path | None:
    """The TOML file to read, by the arguments that are given; an empty name is for none."""
    if "config" in given:
        named = given["config"]
    else:
        named = next((os.environ[name] for name in os.environ if name.upper() == _CONFIG), None)
        if named is None:
            return Path(FILE_NAME).absolute() if Path(FILE_NAME).is_file() else None
    return Path(named) if named else None


def read(path: Path) -> str:
    """The text of the file, without the byte order mark that some editors begin it with.

    Raises:
        OSError: It can't be read.
        UnicodeDecodeError: It is no UTF-8.
    """
    return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")


def place(location: Sequence[int | str], given: dict[str, Any]) -> str | None:
    """File and line of a setting, by its names and numbers from the outermost inwards.

    None where it comes from elsewhere, or the file can't be read any more.
    """
    name = str(location[0])
    if name in given or any(variable.upper() == PREFIX + name.upper() for variable in os.environ):
        return None
    path = chosen(given)
    if path is None:
        return None
    try:
        line = _line(read(path), location)
    except (OSError, ValueError):
        return None
    return None if line is None else f"{path}, line {line}"


def _line(text: str, location: Sequence[int | str]) -> int | None:
    """Where the statement begins that sets what is at `location`, or what is around it.

    TOML's own reader tells: of the beginnings of a text that are TOML, the first that has it.
    """
    lines = text.split("\n")
    within = str(location[0]).removeprefix(f"{DASHBOARD}_")
    if within != location[0] and _holds(tomllib.loads(text), (DASHBOARD, within)):
        location = (DASHBOARD, within, *location[1:])
    if not _holds(tomllib.loads(text), location[:1]):
        return None
    while not _holds(tomllib.loads(text), location):  # as of a setting that is missing
        location = location[:-1]
    ends = range(len(lines) + 1)
    return bisect.bisect_left(ends, True, key=lambda end: _holds(_beginning(lines, end), location))


def _beginning(lines: Sequence[str], end: int) -> dict[str, Any]:
    """What so many lines hold, or as many more as the last statement needs to be whole."""
    for whole in range(end, len(lines)):
        try:
            return tomllib.loads("\n".join(lines[:whole]))
        except tomllib.TOMLDecodeError:
            continue
    return tomllib.loads("\n".join(lines))


def _holds(values: Any, location: Sequence[int | str]) -> bool:
    for part in location:
        try:
            values = values[part]
        except (LookupError, TypeError):
            return False
    return True
