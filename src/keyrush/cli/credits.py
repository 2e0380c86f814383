"""`keyrush accounts credits`, `ledger` and `check`."""

from __future__ import annotations

from functools import partial
from typing import Annotated

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
    writing,
)
from keyrush.cli.help import NUMBER, TEXT, Command, number
from keyrush.core.ledger import Reason
from keyrush.core.notation import counted
from keyrush.core.paging import DEFAULT_LIMIT
from keyrush.core.times import parse_expiry, parse_past
from keyrush.errors import InvalidArgument
from keyrush.gate.gate import Gate
from keyrush.operations.credits import ADDED, REASONS, SOURCES
from keyrush.operations.documents import balance_json, check_json, entry_json


@app.command("credits", cls=Command)
def credits_of_account(
    account_id: AccountId,
    *,
    grant: Annotated[
        int | None,
        typer.Option(
            metavar=NUMBER,
            parser=number,
            help="Credits to add; an adjustment may be negative, such as -5.",
        ),
    ] = None,
    reason: Annotated[
        str | None,
        typer.Option(metavar=TEXT, help=f"One of {', '.join(ADDED)}. [default: {ADDED[0]}]"),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar=TEXT,
            help="The number of an invoice, say; credits with the same one are added once.",
        ),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            metavar=TEXT, help="When unused ones expire: 30d, 2027-01-31, a time with a zone."
        ),
    ] = None,
    note: Annotated[
        str | None, typer.Option(metavar=TEXT, help="A note in the account's ledger.")
    ] = None,
    json: Json = False,
) -> None:
    """Show an account's credits; --grant adds some first."""
    if grant is None:
        given = {"reason": reason, "reference": reference, "expires": expires, "note": note}
        for name, value in given.items():
            if value is not None:
                raise InvalidArgument(name, "is of credits to add: give --grant as well")
        with opened() as gate:
            _show_balance(gate, account_id, json)
        return
    with writing(json) as gate:
        began = gate.clock()
        entry = gate.credits.add(
            account_id,
            grant,
            reason=_reason(reason or ADDED[0]),
            reference=reference,
            note=note,
            expires_at=None if expires is None else parse_expiry(expires, began),
        )
        if entry.at < began:
            text = f"{entry.reference} was added before, at {output.when(entry.at)}; nothing is new"
            output.aside(text, json=json)
        _show_balance(gate, account_id, json)


def _reason(text: str) -> Reason:
    """One of the reasons that credits are added for.

    Raises:
        InvalidArgument: It is none.
    """
    for reason in ADDED:
        if text == reason:
            return reason
    raise InvalidArgument("reason", f"{text!r} is none of {', '.join(ADDED)}")


def _show_balance(gate: Gate, account_id: str, json: bool) -> None:
    balance = gate.credits.balance(account_id)
    if json:
        output.dump(balance_json(balance))
    else:
        output.say(f"{account_id} has {balance:,} credits.")


@app.command("ledger", cls=Command)
def ledger_of_account(
    account_id: AccountId,
    *,
    reason: Annotated[
        list[str] | None,
        typer.Option(
            metavar=TEXT,
            help=f"Only entries with this reason; repeat for more: {', '.join(REASONS)}.",
        ),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            metavar=TEXT,
            help=f"Only entries from this source; repeat for more: {', '.join(SOURCES)}.",
        ),
    ] = None,
    since: Since = None,
    until: Until = None,
    limit: PageLimit = DEFAULT_LIMIT,
    cursor: Cursor = None,
    everything: All = False,
    json: Json = False,
) -> None:
    """List the changes of an account's credits, newest first, with the balance after each."""
    with opened() as gate:
        now = gate.clock()
        read = partial(
            gate.credits.ledger,
            account_id,
            reasons=reason or (),  # type: ignore[arg-type]  # checked by the operation
            sources=source or (),  # type: ignore[arg-type]  # checked by the operation
            since=None if since is None else parse_past(since, now, "since"),
            until=None if until is None else parse_past(until, now, "until"),
        )
        show_list(
            lambda most, after: read(limit=most, cursor=after),
            limit,
            cursor,
            everything,
            json,
            command=[
                *("accounts", "ledger", account_id),
                *(
                    word
                    for name, values in (
                        *(("reason", reason), ("source", source)),
                        *(("since", since and [since]), ("until", until and [until])),
                    )
                    for value in values or ()
                    for word in (f"--{name}", value)
                ),
            ],
            document=entry_json,
            table=output.entry_table,
        )


@app.command("check", cls=Command)
def check_ledgers(json: Json = False) -> None:
    """Check that every account's balance is the sum of its ledger, and say where it is not.

    Exit code 1 if there is such an account.
    """
    with opened() as gate:
        found = gate.credits.check()
    if json:
        output.dump(check_json(found))
    else:
        looked = f"{counted(found.accounts, 'account')}, {counted(found.entries, 'entry')}"
        for wrong in found.discrepancies:
            place = "" if wrong.number is None else f", entry {wrong.number}"
            output.say(f"{wrong.account_id}{place}: {wrong.what}")
        if not found.discrepancies:
            output.say(f"{looked}: every balance is the sum of its ledger.")
        else:
            more = "" if found.is_complete else " There may be more: the check has ended early."
            output.say(f"{looked}: {len(found.discrepancies):,} wrong.{more}")
    raise typer.Exit(1 if found.discrepancies else 0)
