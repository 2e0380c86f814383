"""What the commands print: JSON for programs, lines and tables for people.

Nothing is wrapped or cut, however narrow the terminal: ids and keys are there to be copied.
Text of users is printed as it is, never read as rich markup.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import typer
from rich.console import Console
from rich.table import Table

from keyrush.core.activity import Activity
from keyrush.core.ledger import Entry
from keyrush.core.model import Account, ApiKey, Link
from keyrush.core.notation import format_limits
from keyrush.core.portal import PortalSession
from keyrush.operations.usage import MonthlyUsage

#: Characters; wider than any table gets, so that rich neither wraps nor cuts.
_WIDE = 10_000


def say(text: str = "") -> None:
    """One line for people."""
    typer.echo(text)


def aside(text: str, *, json: bool) -> None:
    """One line for people, out of the way of JSON."""
    typer.echo(text, err=json)


def dump(value: object) -> None:
    """JSON for programs."""
    typer.echo(json.dumps(value, indent=2))


def dump_line(value: object) -> None:
    """JSON for programs that read line by line."""
    typer.echo(json.dumps(value))


def console(width: int | None = None) -> Console:
    """A console on the present standard output that takes text as it is."""
    return Console(width=width, markup=False, emoji=False, highlight=False)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table without lines, as wide as it needs to be."""
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        grid.add_column(column, no_wrap=True)
    for row in rows:
        grid.add_row(*row)
    console(_WIDE).print(grid)


def details(rows: Iterable[tuple[str, str]]) -> None:
    """Names and values, one a line."""
    named = list(rows)
    width = max(len(name) for name, _ in named)
    for name, value in named:
        say(f"{name:{width}}  {value}")


def show(document: object, rows: Iterable[tuple[str, str]], *, json: bool) -> None:
    """One thing: the document for programs, or its details for people."""
    if json:
        dump(document)
    else:
        details(rows)


def when(instant: int | None, otherwise: str = "never") -> str:
    """An instant for people: UTC, to the minute."""
    if instant is None:
        return otherwise
    return datetime.fromtimestamp(instant / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def moment(instant: int) -> str:
    """An instant for people: UTC, to the millisecond."""
    return datetime.fromtimestamp(instant / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def state(key: ApiKey, now: int) -> str:
    """`active`, `revoked` or `expired`."""
    if key.revoked_at is not None:
        return "revoked"
    return "active" if key.is_active(now) else "expired"


def key_details(key: ApiKey, now: int) -> list[tuple[str, str]]:
    """A key for people, as `details` takes it."""
    return [
        ("ID", key.id),
        ("Account", key.account_id),
        ("Name", key.name),
        ("Prefix", key.prefix),
        ("Environment", key.environment or "none"),
        ("Scopes", ", ".join(key.scopes)),
        ("Limits", format_limits(key.limits) or "as its account"),
        ("Concurrent", "as its plan" if key.max_concurrent is None else f"{key.max_concurrent:,}"),
        ("State", state(key, now)),
        ("Created", when(key.created_at)),
        ("Made by", key.created_by or "the operator"),
        ("Expires", when(key.ends_at)),
        ("Last used", when(key.last_used_at)),
        ("Revoked", when(key.revoked_at)),
    ]


def key_table(keys: Sequence[ApiKey], now: int) -> None:
    """Keys for people."""
    if not keys:
        say("No keys.")
        return
    table(
        ["ID", "ACCOUNT", "PREFIX", "STATE", "EXPIRES", "LAST USED", "NAME"],
        [
            [
                key.id,
                key.account_id,
                key.prefix,
                state(key, now),
                when(key.ends_at),
                when(key.last_used_at),
                key.name,
            ]
            for key in keys
        ],
    )


def account_details(account: Account, now: int) -> list[tuple[str, str]]:
    """An account for people, as `details` takes it."""
    return [
        ("ID", account.id),
        ("Plan", account.plan),
        ("Limits", _limits_of(account, now)),
        ("Credits", f"{account.balance:,}"),
        ("Created", when(account.created_at)),
    ]


def link_details(link: Link) -> list[tuple[str, str]]:
    """A link for people, as `details` takes it."""
    return [
        ("ID", link.id),
        ("Account", link.account_id),
        ("Issuer", link.issuer),
        ("Subject", link.subject),
        ("Linked", when(link.created_at)),
        ("Revoked before", when(link.revoked_before)),
        ("Unlinked", when(link.ended_at)),
    ]


def link_table(links: Sequence[Link]) -> None:
    """Whose tokens act for which account, for people."""
    table(
        ["ID", "ACCOUNT", "ISSUER", "SUBJECT", "SINCE", "REVOKED BEFORE"],
        [
            [
                link.id,
                link.account_id,
                link.issuer,
                link.subject,
                when(link.created_at),
                when(link.revoked_before),
            ]
            for link in links
        ],
    )


def session_table(sessions: Sequence[PortalSession]) -> None:
    """Sessions of the dashboard, for people."""
    if not sessions:
        say("No sessions.")
        return
    table(
        ["ID", "ACCOUNT", "MAY", "SINCE", "UNTIL"],
        [
            [
                one.id,
                one.account_id,
                "change" if one.write else "look",
                when(one.created_at),
                when(one.ends_at),
            ]
            for one in sessions
        ],
    )


def entry_table(entries: Sequence[Entry]) -> None:
    """Entries of a ledger for people, with what each has left."""
    if not entries:
        say("No entries.")
        return
    table(
        ["ID", "TIME", "AMOUNT", "BALANCE", "REASON", "BY", "RULE", "EXPIRES", "REFERENCE", "NOTE"],
        [
            [
                str(entry.number),
                when(entry.at),
                f"{entry.amount:+,}",
                f"{entry.balance:,}",
                entry.reason,
                entry.by.credential_id or entry.by.source,
                entry.by.rule or "",
                when(entry.expires_at, ""),
                entry.reference or entry.reverses or "",
                entry.note or "",
            ]
            for entry in entries
        ],
    )


#: What `activity_table` and `activity_line` show of a row.
_ACTIVITY = ("TIME", "SOURCE", "METHOD", "PATH", "STATUS", "OUTCOME", "CREDITS", "MS", "BY", "FROM")


def activity_table(rows: Sequence[Activity]) -> None:
    """Rows of activity for people."""
    if not rows:
        say("No activity.")
        return
    table(_ACTIVITY, [_activity_cells(row) for row in rows])


def activity_line(row: Activity) -> None:
    """A row of activity for people who read rows as they come."""
    say("  ".join(_activity_cells(row)))


def _activity_cells(row: Activity) -> list[str]:
    """What people see of a row; what clients have sent is shown without what moves the cursor."""
    cells = [
        moment(row.at),
        row.source,
        row.method,
        row.path,
        str(row.status),
        row.outcome if row.reason is None else f"{row.outcome}: {row.reason}",
        str(row.credits),
        f"{row.duration / 1000:.1f}",
        row.credential_id,
        row.address or "",
    ]
    return [_shown(cell) for cell in cells]


def _shown(text: str) -> str:
    """Text of clients without control characters, which terminals would obey."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


def account_table(accounts: Sequence[Account], now: int) -> None:
    """Accounts for people."""
    if not accounts:
        say("No accounts.")
        return
    table(
        ["ID", "PLAN", "CREDITS", "CREATED", "LIMITS"],
        [
            [
                account.id,
                account.plan,
                f"{account.balance:,}",
                when(account.created_at),
                _limits_of(account, now),
            ]
            for account in accounts
        ],
    )


def _limits_of(account: Account, now: int) -> str:
    for_good = format_limits(account.limits) or "as its plan"
    override = account.override_at(now)
    if override is None:
        return for_good
    return f"{format_limits(override.limits)} until {when(override.until)}, then {for_good}"


def usage_text(usage: MonthlyUsage) -> str:
    """This month's use for people."""
    text = f"{usage.counted:,}"
    if usage.limit is not None:
        text += f" of {usage.limit:,}"
    return text + (f" ({usage.overage:,} over)" if usage.overage else "")
