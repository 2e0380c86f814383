"""How the commands' help reads: summaries are never cut, and types are in people's words."""

from __future__ import annotations

import re
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from keyrush.cli import output

#: Characters; longer than any summary.
_WHOLE = 1_000

#: What options take.
TEXT, NUMBER = "TEXT", "NUMBER"


def number(text: str) -> int:
    """The whole number that an option is given.

    Raises:
        BadParameter: It is none; says what was given.
    """
    if isinstance(text, int):  # a default
        return text
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r:.80} is no whole number") from None


def _in_words(text: str) -> str:
    """Without typer's braces round arguments and names of Python's types."""
    text = re.sub(r"\{(\w+)\}", r"\1", text)
    return re.sub(r" <(str|int)>", lambda found: " " * len(found[0]), text)


class Command(TyperCommand):
    """A command whose summary stands whole in the help of its group."""

    def get_short_help_str(self, limit: int = _WHOLE) -> str:  # noqa: ARG002  # named by typer
        """The first sentence, however long."""
        return super().get_short_help_str(_WHOLE)

    def get_help(self, ctx: Any) -> str:
        """The help of the command."""
        return _in_words(super().get_help(ctx))


class Group(TyperGroup):
    """A group of commands whose summary stands whole in the help of its own group."""

    def get_short_help_str(self, limit: int = _WHOLE) -> str:  # noqa: ARG002  # named by typer
        """The first sentence, however long."""
        return super().get_short_help_str(_WHOLE)


def group(summary: str) -> typer.Typer:
    """A group of commands, which prints its help when none of them is named."""
    app = typer.Typer(cls=Group, help=summary, rich_markup_mode=None)

    @app.callback(invoke_without_command=True, help=summary)
    def _alone(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            output.say(context.get_help())

    return app
