"""`keyrush keys …`."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from keyrush import output
from keyrush.accounts import DEFAULT_GRACE, NewKey, as_json
from keyrush.arguments import is_id
from keyrush.commands import (
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
)
from keyrush.errors import InvalidArgument, NotFound
from keyrush.gate import Gate
from keyrush.keys import KeyFormat
from keyrush.notation import parse_duration, parse_expiry
from keyrush.paging import DEFAULT_LIMIT
from keyrush.settings import Settings

_NOTE = "Copy the key now: it is shown this once, and can't be shown again."

KeyId = Annotated[str, typer.Argument(metavar="ID", help="A cred_… id.")]
Expires = Annotated[
    str | None,
    typer.Option(help="30d, 90d, 1y, a date (its beginning, UTC), a time with a zone, or none."),
]

app = typer.Typer(help="Create, list, rotate and revoke keys.", rich_markup_mode=None)


@app.command("create")
def create_key(
    *,
    account: Annotated[str, typer.Option(help="Whose key; made where there is none yet.")],
    name: Annotated[str, typer.Option(help="What the key is for, 1 to 120 characters.")],
    plan: Annotated[str | None, typer.Option(help="Plan of a new account; else the first.")] = None,
    scope: Annotated[list[str] | None, typer.Option(help="May be repeated; none is *.")] = None,
    environment: Annotated[str | None, typer.Option(help="As in live or test.")] = None,
    expires: Expires = None,
    limit: Annotated[
        str | None, typer.Option(help='Limits of its own, as in "60/minute;1000/hour".')
    ] = None,
    json: Json = False,
) -> None:
    """Create a key. It is printed once."""
    with opened() as gate:
        expires_at = None if expires is None else parse_expiry(expires, gate.clock())
        _check_plan(gate, account, plan)
        create = partial(
            gate.accounts.create_key,
            account,
            name,
            scopes=scope or (),
            environment=environment,
            expires_at=expires_at,
            limits=limit,
        )
        try:
            created = create()
        except NotFound:  # with all that the key needs in order
            gate.accounts.create_account(account, plan=plan)
            created = create()
        _show_new(gate, created, json)


def _check_plan(gate: Gate, account_id: str, plan: str | None) -> None:
    account = gate.store.account(account_id) if is_id(account_id) else None
    if account is not None and plan not in {None, account.plan}:
        raise CommandError(
            f"{account.id} is on the plan {account.plan!r}; to change it: "
            f"keyrush accounts plan {account.id} {plan}"
        )


def _show_new(gate: Gate, created: NewKey, json: bool) -> None:
    if json:
        credential = as_json(created.key, gate.clock())
        output.dump({"key": created.text, "api_credential": credential})
        return
    output.details([("Key", created.text), *output.key_details(created.key, gate.clock())])
    output.say()
    output.say(_NOTE)


@app.command("list")
def list_keys(
    account: Annotated[str | None, typer.Option(help="Only the keys of this account.")] = None,
    limit: PageLimit = DEFAULT_LIMIT,
    cursor: Cursor = None,
    everything: All = False,
    json: Json = False,
) -> None:
    """List keys, revoked and expired ones too, oldest first, a page at a time."""
    with opened() as gate:
        if account is not None:
            gate.accounts.account(account)
        found = listed(
            lambda most, after: gate.accounts.keys(account, limit=most, after=after),
            limit,
            cursor,
            everything,
        )
        if json:
            output.dump([as_json(key, gate.clock()) for key in found])
        else:
            output.key_table(found, gate.clock())
    of_account = [] if account is None else ["--account", account]
    say_more(found, ["keys", "list", *of_account], limit, json)


@app.command("show")
def show_key(key_id: KeyId, json: Json = False) -> None:
    """Show what is known of a key; the key itself can't be shown again."""
    with opened() as gate:
        _show_key(gate, key_id, json)


def _show_key(gate: Gate, key_id: str, json: bool) -> None:
    key = gate.accounts.key(key_id)
    if json:
        output.dump(output.key_json(key, gate.clock()))
    else:
        output.details(output.key_details(key, gate.clock()))


@app.command("revoke")
def revoke_key(
    key_id: KeyId,
    with_descendants: Annotated[
        bool,
        typer.Option("--with-descendants", help="Also what it has made, directly or not."),
    ] = False,
    json: Json = False,
) -> None:
    """Revoke a key for good. Running apps refuse it within KEYRUSH_CACHE_TTL seconds.

    With --with-descendants and --json all that were revoked are listed, itself first.
    """
    with opened() as gate:
        operation = gate.accounts
        if not with_descendants:
            key, others = operation.revoke(key_id), []
        else:
            key, *others = operation.revoke_with_descendants(key_id)
        now = gate.clock()
    if json:
        shown = [as_json(one, now) for one in (key, *others)]
        output.dump(shown if with_descendants else shown[0])
        return
    output.say(f"{key.id} ({key.prefix}) is revoked since {output.when(key.revoked_at)}.")
    if with_descendants:
        noun = "key" if len(others) == 1 else "keys"
        output.say(f"With it, {len(others):,} {noun} that it had made, directly or not.")


@app.command("rotate")
def rotate_key(
    key_id: KeyId,
    grace: Annotated[
        str, typer.Option(help="How long the old key goes on working: 0, 45s, 30m, 24h, 7d.")
    ] = f"{DEFAULT_GRACE // 3600}h",
    expires: Expires = None,
    json: Json = False,
) -> None:
    """Replace a key: a new one with the same name, scopes, limits and counts.

    Without --expires it keeps the date of the old one.
    """
    with opened() as gate:
        old = gate.accounts.key(key_id)
        expires_at = None if expires is None else parse_expiry(expires, gate.clock())
        if not old.is_active(gate.clock()):
            raise CommandError(f"{key_id} is {output.state(old, gate.clock())}; create a new key")
        if old.retires_at is not None:
            raise CommandError(f"{key_id} has been rotated already; rotate its replacement")
        if expires is not None and expires_at is None and old.expires_at is not None:
            raise InvalidArgument("expires", "the key has a date, so its replacement needs one")
        created = gate.accounts.rotate(
            key_id, grace=parse_duration(grace, "grace"), expires_at=expires_at
        )
        _show_new(gate, created, json)
        if not json:
            ends = output.when(gate.accounts.key(key_id).ends_at)
            output.say(f"The old key, {old.prefix}, works until {ends}.")


@app.command("limits")
def limit_key(
    key_id: KeyId, limits: Limits = None, inherit: Inherit = False, json: Json = False
) -> None:
    """Give a key limits of its own, or with --inherit its account's again."""
    wanted = limits_or_inherit(limits, inherit)
    with opened() as gate:
        gate.accounts.set_key_limits(key_id, wanted)
        _show_key(gate, key_id, json)


@app.command("pattern")
def print_pattern(json: Json = False) -> None:
    """Print a regular expression with which secret scanners find keys."""
    settings = Settings()
    pattern = KeyFormat(settings.key_prefix, settings.key_environments).scanner_pattern()
    if json:
        output.dump({"pattern": pattern})
    else:
        output.say(pattern)
