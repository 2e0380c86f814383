"""`keyrush accounts activity`."""

from __future__ import annotations

from typing import Annotated, get_args

import typer

from keyrush.cli import output
from keyrush.cli.accounts import AccountId, app
from keyrush.cli.common import (
    All,
    Cursor,
    Json,
    PageLimit,
    Since,
    Until,
    opened,
    show_list,
)
from keyrush.cli.following import follow
from keyrush.cli.help import TEXT, Command
from keyrush.core.activity import Outcome, Source, Where
from keyrush.core.paging import DEFAULT_LIMIT
from keyrush.core.times import parse_past
from keyrush.errors import InvalidArgument
from keyrush.operations.activity import MOST_COUNTED
from keyrush.operations.documents import activity_json


@app.command("activity", cls=Command)
def activity_of_account(
    account_id: AccountId,
    *,
    source: Annotated[
        str | None,
        typer.Option(metavar=TEXT, help=f"Only from this source: {', '.join(get_args(Source))}."),
    ] = None,
    key: Annotated[
        str | None, typer.Option(metavar=TEXT, help="Only of this key or link, by its id.")
    ] = None,
    outcome: Annotated[
        str | None,
        typer.Option(metavar=TEXT, help=f"Only with this outcome: {', '.join(get_args(Outcome))}."),
    ] = None,
    rule: Annotated[
        str | None,
        typer.Option(metavar=TEXT, help="Only of this rule: its path, or the name of a tool."),
    ] = None,
    since: Since = None,
    until: Until = None,
    limit: PageLimit = DEFAULT_LIMIT,
    cursor: Cursor = None,
    everything: All = False,
    following: Annotated[
        bool, typer.Option("--follow", help="Wait for new rows and print them, until Ctrl-C.")
    ] = False,
    json: Json = False,
) -> None:
    """List the requests of an account, newest first; with --follow oldest first.

    With --follow --json each row is printed as one line.
    """
    if following and (cursor is not None or everything or until is not None):
        raise InvalidArgument("follow", "goes on from now: give no --cursor, --all or --until")
    with opened() as gate:
        now = gate.clock()
        where = Where(
            source,  # type: ignore[arg-type]  # checked by the operation
            key,
            outcome,  # type: ignore[arg-type]  # checked by the operation
            rule,
            None if since is None else parse_past(since, now, "since"),
            None if until is None else parse_past(until, now, "until"),
        )
        if following:
            follow(gate, account_id, where, limit, json)
            return
        total = gate.activity.count(account_id, where)
        show_list(
            lambda most, after: gate.activity.page(account_id, where, limit=most, cursor=after),
            limit,
            cursor,
            everything,
            json,
            command=[
                *("accounts", "activity", account_id),
                *(
                    word
                    for name, value in (
                        *(("source", source), ("key", key), ("outcome", outcome), ("rule", rule)),
                        *(("since", since), ("until", until)),
                    )
                    if value is not None
                    for word in (f"--{name}", value)
                ),
            ],
            document=activity_json,
            table=output.activity_table,
        )
        if not json and total > limit and not everything:
            shown = f"{MOST_COUNTED - 1:,}+" if total >= MOST_COUNTED else f"{total:,}"
            output.say(f"{shown} in all.")
