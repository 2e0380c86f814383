"""Objects that settings name as `package.module:Name`."""

from __future__ import annotations

import importlib
from typing import Any

from keyrush.core.urls import OWN
from keyrush.errors import ConfigurationError


def attribute(name: str, setting: str, allowed: str = "package.module:Name") -> Any:
    """What `package.module:Name` stands for; `allowed` is what is said of any other text.

    Raises:
        ConfigurationError: It is no such name, or can't be imported; `setting` is named.
    """
    if not OWN.fullmatch(name):  # which may hold a password
        raise ConfigurationError(f"{setting}: must be {allowed}")
    module, _, attr = name.partition(":")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise ConfigurationError(f"{setting}: can't import {module!r}: {error}") from error
    try:
        return getattr(found, attr)
    except AttributeError:  # nor shown, for "redis:password" is no name
        raise ConfigurationError(f"{setting}: can't import it: not in {module!r}") from None


def load(name: str, setting: str, allowed: str) -> Any:
    """An instance of the class that `package.module:Name` stands for, made without arguments;
    `allowed` is what is said of any other text.

    Raises:
        ConfigurationError: There is no such class, or it can't be made.
    """
    try:
        return attribute(name, setting, allowed)()
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(f"{setting}: {name} can't be made: {error!r}") from error
