"""`keyrush accounts …`."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from keyrush.cli import output
from keyrush.cli.common import (
    All,
    CommandError,
    Cursor,
    Inherit,
    Json,
    Limits,
    PageLimit,
    limits_or_inherit,
    opened,
    say_more,
    show_list,
    writing,
)
from keyrush.cli.help import TEXT, Command, group
from keyrush.core.checks import checked_account_id
from keyrush.core.model import Account, Link
from keyrush.core.notation import format_limits
from keyrush.core.paging import DEFAULT_LIMIT
from keyrush.core.times import parse_expiry
from keyrush.errors import InvalidArgument
from keyrush.gate.gate import Gate
from keyrush.operations.documents import (
    account_json,
    key_json,
    link_json,
    usage_json,
)
from keyrush.store.opening import keeps_links

AccountId = Annotated[str, typer.Argument(metavar="ID", help="An account's id.")]

Issuer = Annotated[
    str, typer.Option(metavar=TEXT, help="Who issues the tokens: an iss of [[issuers]].")
]
Subject = Annotated[str, typer.Option(metavar=TEXT, help="The person: the sub of their tokens.")]

app = group("Create accounts, set plans and limits, grant credits, read activity.")


@app.command("create", cls=Command)
def create_account(
    account_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="Its id. [default: a new one]")
    ] = None,
    plan: Annotated[
        str | None, typer.Option(metavar=TEXT, help="Its plan. [default: the first]")
    ] = None,
    limit: Annotated[
        str | None,
        typer.Option(metavar=TEXT, help='Its own limits, such as "60/minute;1000/hour".'),
    ] = None,
    json: Json = False,
) -> None:
    """Create an account."""

    def make(gate: Gate) -> Account:
        if account_id is not None and gate.store.account(checked_account_id(account_id)):
            raise CommandError(f"account {account_id} exists already")
        return gate.accounts.create(account_id, plan=plan, limits=limit)

    with writing(json, make) as gate:
        _show(gate, make(gate), json)


def _show(gate: Gate, account: Account, json: bool) -> None:
    now = gate.clock()
    output.show(account_json(account, now), output.account_details(account, now), json=json)


@app.command("list", cls=Command)
def list_accounts(
    limit: PageLimit = DEFAULT_LIMIT,
    cursor: Cursor = None,
    everything: All = False,
    json: Json = False,
) -> None:
    """List accounts, oldest first, a page at a time."""
    with opened() as gate:
        show_list(
            lambda most, after: gate.accounts.list(limit=most, after=after),
            limit,
            cursor,
            everything,
            json,
            command=["accounts", "list"],
            document=partial(account_json, now=gate.clock()),
            table=partial(output.account_table, now=gate.clock()),
        )


@app.command("show", cls=Command)
def show_account(account_id: AccountId, json: Json = False) -> None:
    """Show an account: plan, limits, credits, this month's usage, keys."""
    with opened() as gate:
        account = gate.accounts.get(account_id)
        found = gate.keys.list(account_id)
        plan = gate.catalog.plans.get(account.plan)
        # On a plan that has left the table, the account is refused, and has no quota.
        per_key = plan is not None and plan.quota_per == "key"
        active = gate.store.active_keys(account.id, gate.clock())
        usage = {key.id: gate.usage.this_month(account_id, key.id) for key in found if per_key}
        total = gate.usage.this_month(account_id) if plan is not None else None
        links = gate.accounts.links(account_id) if keeps_links(gate.store) else ()
        now = gate.clock()
    limits = None if plan is None else format_limits(plan.limits)
    if json:
        output.dump(
            account_json(account, now)
            | {
                "plan_limits": limits,
                "counted_per": None if plan is None else plan.per,
                "quota_per": None if plan is None else plan.quota_per,
                "active_keys": sum(active),
                "max_keys": None if plan is None else plan.max_keys,
                "usage": None if total is None else usage_json(total),
                "links": [link_json(link) for link in links],
                "keys": [
                    key_json(key, now) | ({"usage": usage_json(usage[key.id])} if per_key else {})
                    for key in found
                ],
            }
        )
        say_more(found, _keys_of(account), DEFAULT_LIMIT, json)
        return
    rows = output.account_details(account, now)
    if plan is None or total is None:
        rows[1] = ("Plan", f"{account.plan}, which is not in the table: its keys are refused")
    else:
        rows[1] = ("Plan", f"{account.plan} ({limits} per {plan.per})")
        counted = f"{total.counted:,}" if per_key else output.usage_text(total)
        rows.append(("This month", f"{counted} requests"))
        rows.append(("Active keys", f"{sum(active):,} of {plan.max_keys:,}"))
    output.details(rows)
    if links:
        output.say()
        output.link_table(links)
    output.say()
    output.key_table(found, now)
    if usage:
        output.say()
        output.table(
            ["KEY", "THIS MONTH"], [[key_id, output.usage_text(of)] for key_id, of in usage.items()]
        )
    say_more(found, _keys_of(account), DEFAULT_LIMIT, json)


def _keys_of(account: Account) -> list[str]:
    return ["keys", "list", "--account", account.id]


@app.command("plan", cls=Command)
def set_plan(
    account_id: AccountId,
    plan: Annotated[str, typer.Argument(help="The name of a plan.")],
    json: Json = False,
) -> None:
    """Put an account on a plan; its counts stay."""
    with writing(json) as gate:
        _show(gate, gate.accounts.set_plan(account_id, plan), json)


@app.command("limits", cls=Command)
def limit_account(
    account_id: AccountId,
    limits: Limits = None,
    until: Annotated[
        str | None,
        typer.Option(
            metavar=TEXT,
            help="When they end: 30d, a date (its beginning, UTC), a time with a zone.",
        ),
    ] = None,
    inherit: Inherit = False,
    json: Json = False,
) -> None:
    """Give an account limits of its own, or with --inherit its plan's again.

    With --until they apply until then. Afterwards the permanent ones apply again: the limits that
    were given without --until, or else the plan's. Limits without --until end them sooner.
    """
    wanted = limits_or_inherit(limits, inherit)
    with writing(json) as gate:
        ends = None if until is None else _end(until, gate.clock())
        _show(gate, gate.accounts.set_limits(account_id, wanted, until=ends), json)


def _end(until: str, now: int) -> int:
    """The instant until which limits are to hold.

    Raises:
        InvalidArgument: It is none, or never.
    """
    ends = parse_expiry(until, now, "until")
    if ends is None:
        raise InvalidArgument("until", "must be a time; leave it out for limits that are for good")
    return ends


@app.command("link", cls=Command)
def link_account(
    account_id: AccountId, *, issuer: Issuer, subject: Subject, json: Json = False
) -> None:
    """Let a person's tokens act for an account."""
    with writing(json) as gate:
        _show_link(gate.accounts.link(account_id, issuer=issuer, subject=subject), json)


@app.command("unlink", cls=Command)
def unlink_account(
    account_id: AccountId, *, issuer: Issuer, subject: Subject, json: Json = False
) -> None:
    """Undo a link; the person's tokens are refused until they are linked again."""
    with writing(json) as gate:
        _show_link(gate.accounts.unlink(account_id, issuer=issuer, subject=subject), json)


def _show_link(link: Link, json: bool) -> None:
    output.show(link_json(link), output.link_details(link), json=json)
