"""`keyrush accounts …`."""

from __future__ import annotations

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
    listed,
    opened,
    say_more,
    say_where,
)
from keyrush.cli.help import NUMBER, TEXT, Command, group
from keyrush.core.checks import checked_account_id
from keyrush.core.model import Account
from keyrush.core.notation import format_limits
from keyrush.core.paging import DEFAULT_LIMIT
from keyrush.operations.documents import account_json, key_json, usage_json

AccountId = Annotated[str, typer.Argument(metavar="ID", help="An account's id.")]

app = group("Create accounts, set plans, grant credits.")


@app.command("create", cls=Command)
def create_account(
    account_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="Else one is made up.")
    ] = None,
    plan: Annotated[
        str | None, typer.Option(metavar=TEXT, help="Else the first of the table.")
    ] = None,
    limit: Annotated[
        str | None,
        typer.Option(metavar=TEXT, help='Instead of the plan\'s, as in "60/minute;1000/hour".'),
    ] = None,
    json: Json = False,
) -> None:
    """Create an account."""
    with opened(make=True) as gate:
        if account_id is not None and gate.store.account(checked_account_id(account_id)):
            raise CommandError(f"account {account_id} exists already")
        _show_account(gate.accounts.create_account(account_id, plan=plan, limits=limit), json)
        say_where(gate, json)


def _show_account(account: Account, json: bool) -> None:
    if json:
        output.dump(account_json(account))
    else:
        output.details(_account_details(account))


def _account_details(account: Account) -> list[tuple[str, str]]:
    return [
        ("ID", account.id),
        ("Plan", account.plan),
        ("Limits", format_limits(account.limits) or "as its plan"),
        ("Credits", f"{account.balance:,}"),
        ("Created", output.when(account.created_at)),
    ]


@app.command("list", cls=Command)
def list_accounts(
    limit: PageLimit = DEFAULT_LIMIT,
    cursor: Cursor = None,
    everything: All = False,
    json: Json = False,
) -> None:
    """List accounts, oldest first, a page at a time."""
    with opened() as gate:
        found = listed(
            lambda most, after: gate.accounts.accounts(limit=most, after=after),
            limit,
            cursor,
            everything,
        )
    if json:
        output.dump([account_json(account) for account in found])
    elif found:
        output.table(
            ["ID", "PLAN", "CREDITS", "CREATED", "LIMITS"],
            [
                [
                    account.id,
                    account.plan,
                    f"{account.balance:,}",
                    output.when(account.created_at),
                    format_limits(account.limits) or "as its plan",
                ]
                for account in found
            ],
        )
    else:
        output.say("No accounts.")
    say_more(found, ["accounts", "list"], limit, json)


@app.command("show", cls=Command)
def show_account(account_id: AccountId, json: Json = False) -> None:
    """Show an account: plan, limits, credits, this month's usage, keys."""
    with opened() as gate:
        account = gate.accounts.account(account_id)
        found = gate.accounts.keys(account_id)
        plan = gate.catalog.plans.get(account.plan)
        # On a plan that has left the table, the account is refused, and has no quota.
        per_key = plan is not None and plan.quota_per == "key"
        active = gate.store.active_keys(account.id, gate.clock())
        usage = {key.id: gate.accounts.usage(account_id, key.id) for key in found if per_key}
        total = gate.accounts.usage(account_id) if plan is not None else None
        now = gate.clock()
    limits = None if plan is None else format_limits(plan.limits)
    if json:
        output.dump(
            account_json(account)
            | {
                "plan_limits": limits,
                "counted_per": None if plan is None else plan.per,
                "quota_per": None if plan is None else plan.quota_per,
                "active_keys": sum(active),
                "max_keys": None if plan is None else plan.max_keys,
                "usage": None if total is None else usage_json(total),
                "keys": [
                    key_json(key, now) | ({"usage": usage_json(usage[key.id])} if per_key else {})
                    for key in found
                ],
            }
        )
        say_more(found, _keys_of(account), DEFAULT_LIMIT, json)
        return
    rows = _account_details(account)
    if plan is None or total is None:
        rows[1] = ("Plan", f"{account.plan}, which is not in the table: its keys are refused")
    else:
        rows[1] = ("Plan", f"{account.plan} ({limits} per {plan.per})")
        counted = f"{total.counted:,}" if per_key else output.usage_text(total)
        rows.append(("This month", f"{counted} requests"))
        rows.append(("Active keys", f"{sum(active):,} of {plan.max_keys:,}"))
    output.details(rows)
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
    plan: Annotated[str, typer.Argument(help="A plan of the table.")],
    json: Json = False,
) -> None:
    """Put an account on a plan; its counts stay."""
    with opened() as gate:
        _show_account(gate.accounts.set_plan(account_id, plan), json)
        say_where(gate, json)


@app.command("limits", cls=Command)
def limit_account(
    account_id: AccountId, limits: Limits = None, inherit: Inherit = False, json: Json = False
) -> None:
    """Give an account limits of its own, or with --inherit its plan's again."""
    wanted = limits_or_inherit(limits, inherit)
    with opened() as gate:
        _show_account(gate.accounts.set_account_limits(account_id, wanted), json)
        say_where(gate, json)


@app.command("credits", cls=Command)
def credits_of_account(
    account_id: AccountId,
    grant: Annotated[int | None, typer.Option(metavar=NUMBER, help="Credits to add.")] = None,
    json: Json = False,
) -> None:
    """Show an account's credits, after adding some with --grant."""
    with opened() as gate:
        if grant is None:
            balance = gate.accounts.account(account_id).balance
        else:
            balance = gate.accounts.grant(account_id, grant)
    if json:
        output.dump({"balance": balance})
    else:
        output.say(f"{account_id} has {balance:,} credits.")
    if grant is not None:
        say_where(gate, json)
