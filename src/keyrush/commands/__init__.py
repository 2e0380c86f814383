"""What the commands share: the store they open, the options they take, how they refuse."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from keyrush.errors import ConfigurationError, InvalidArgument, KeyrushError
from keyrush.gate import Gate
from keyrush.settings import Settings

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Limits = Annotated[str | None, typer.Argument(help='As in "60/minute;1000/hour", or unlimited.')]
Inherit = Annotated[bool, typer.Option("--inherit", help="No limits of its own any more.")]


class CommandError(KeyrushError):
    """What was asked for is well-formed, but not possible as things stand."""


@contextmanager
def opened() -> Iterator[Gate]:
    """The gate that `KEYRUSH_*` names, closed afterwards.

    Raises:
        ConfigurationError: A setting is wrong, or the store is nowhere but in memory.
    """
    settings = Settings()
    if settings.is_store_in_memory:
        raise ConfigurationError(
            f"KEYRUSH_STORE_URL: {settings.store_url} is the memory of one process: nothing made "
            "here would reach your app; use a database such as sqlite:///keyrush.db"
        )
    gate = Gate.open(settings)
    try:
        yield gate
    finally:
        gate.close()


def limits_or_inherit(limits: str | None, inherit: bool) -> str | None:
    """The limits to set, None to inherit them.

    Raises:
        InvalidArgument: Neither was asked for, or both.
    """
    if (limits is not None) is inherit:
        raise InvalidArgument("limits", 'give either limits, as in "60/minute", or --inherit')
    return limits
