"""What the commands share: the store they open, the options they take, how they refuse."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Annotated, TypeVar

import typer

from keyrush.cli import output
from keyrush.cli.help import NUMBER, TEXT, number
from keyrush.core.paging import DEFAULT_LIMIT, MAX_LIMIT, Page
from keyrush.errors import ConfigurationError, InvalidArgument, KeyrushError
from keyrush.gate.gate import Gate
from keyrush.gate.starting import place_of
from keyrush.limiter.opening import open_limiter
from keyrush.settings.settings import Settings
from keyrush.store.memory import MemoryStore
from keyrush.store.opening import is_made

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Limits = Annotated[
    str | None,
    typer.Argument(metavar="LIMITS", help='Such as "60/minute;1000/hour", or unlimited.'),
]
PageLimit = Annotated[
    int,
    typer.Option(
        "--limit", metavar=NUMBER, parser=number, help=f"How many to list, at most {MAX_LIMIT}."
    ),
]
Cursor = Annotated[
    str | None, typer.Option(metavar=TEXT, help="Where to go on; the page before says it.")
]
All = Annotated[bool, typer.Option("--all", help="List all, not only one page.")]
_WHEN = "2h for two hours ago, 2026-11-18, or a time with a zone."
Since = Annotated[str | None, typer.Option(metavar=TEXT, help=f"Only from this time on: {_WHEN}")]
Until = Annotated[str | None, typer.Option(metavar=TEXT, help=f"Only before this time: {_WHEN}")]
Inherit = Annotated[bool, typer.Option("--inherit", help="Remove its own limits.")]


class CommandError(KeyrushError):
    """What was asked for is well-formed, but not possible as things stand."""


@contextmanager
def opened(make: Callable[[Gate], object] | None = None) -> Iterator[Gate]:
    """The gate that `KEYRUSH_*` names, closed afterwards.

    With `make` its store may be a new one. `make` is what the command will do to it, and is done
    in memory first: what is refused there is raised, and leaves neither a store nor a pepper.

    Raises:
        ConfigurationError: A setting is wrong, or the store is nowhere but in memory.
        CommandError: There is no store yet, as in the wrong folder, and none is to be made.
    """
    settings = Settings()
    if settings.is_store_in_memory:
        raise ConfigurationError(
            "KEYRUSH_STORE_URL: memory:// is the memory of one process: nothing made "
            "here would reach your app; use a database such as sqlite:///keyrush.db"
        )
    if not is_made(settings.store_url):
        if make is None:
            raise CommandError(
                f"there is no store yet at {place_of(settings)}; KEYRUSH_STORE_URL names another, "
                "'keyrush keys create' makes this one"
            )
        _try_out(settings, make)
    # Commands count nothing, and whoever gives them may be another user than the app: its windows
    # are left alone where there is no server that passes on what is changed.
    is_alone = settings.limiter_url.partition(":")[0] in {"store", "file"}
    gate = Gate.open(settings, limiter=open_limiter("memory://").limiter if is_alone else None)
    try:
        yield gate
    finally:
        gate.close()


def _try_out(settings: Settings, make: Callable[[Gate], object]) -> None:
    """Do in memory what is to be done to a new store; keys are made there without the hashing."""
    cheap = settings.model_copy(update={"verify": "fingerprint"})
    log = logging.getLogger("keyrush")
    log.disabled = True  # what it would warn of, the gate of the command will
    try:
        in_memory = open_limiter("memory://").limiter
        with closing(Gate.open(cheap, store=MemoryStore(), limiter=in_memory)) as gate:
            make(gate)
    finally:
        log.disabled = False


@contextmanager
def writing(json: bool, make: Callable[[Gate], object] | None = None) -> Iterator[Gate]:
    """As `opened`, for what writes: once that is done and shown, it is said where."""
    with opened(make) as gate:
        yield gate
        output.aside(f"Written to {place_of(gate.settings)}", json=json)


T = TypeVar("T")


def show_list(
    pages: Callable[[int, str | None], Page[T]],
    limit: int,
    cursor: str | None,
    everything: bool,
    json: bool,
    *,
    command: Sequence[str],
    document: Callable[[T], object],
    table: Callable[[Sequence[T]], None],
) -> None:
    """Print a page of what `pages` gives for a limit and a cursor, or with `everything` all from
    there: as `document` has each for programs, and `table` all of them for people. `command` is
    that of the next page.

    Raises:
        InvalidArgument: The limit or the cursor is wrong.
    """
    found = _listed(pages, limit, cursor, everything)
    if json:
        output.dump([document(one) for one in found])
    else:
        table(found)
    say_more(found, command, limit, json)


def _listed(
    pages: Callable[[int, str | None], Page[T]], limit: int, cursor: str | None, everything: bool
) -> Page[T]:
    page = pages(MAX_LIMIT if everything else limit, cursor)
    items = list(page)
    while everything and page.cursor is not None:
        page = pages(MAX_LIMIT, page.cursor)
        items += page
    return Page(tuple(items), page.cursor)


def say_more(page: Page[T], command: Sequence[str], limit: int, json: bool) -> None:
    """Say by which command the next page comes, if there is one; away from what programs read."""
    if page.cursor is None:
        return
    own_limit = [] if limit == DEFAULT_LIMIT else ["--limit", str(limit)]
    words = ["keyrush", *command, *own_limit, "--cursor", page.cursor]
    words += ["--json"] if json else []
    output.aside(f"There are more: {shlex.join(words)}", json=json)


def limits_or_inherit(limits: str | None, inherit: bool) -> str | None:
    """The limits to set, None to inherit them.

    Raises:
        InvalidArgument: Neither was asked for, or both.
    """
    if (limits is not None) is inherit:
        raise InvalidArgument("limits", 'give either limits, as in "60/minute", or --inherit')
    return limits
