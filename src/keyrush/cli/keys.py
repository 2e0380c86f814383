"""`keyrush keys …`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
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
    show_list,
    writing,
)
from keyrush.cli.finding import account_meant, keys_meant
from keyrush.cli.help import NUMBER, TEXT, Command, group, number
from keyrush.core.checks import is_id
from keyrush.core.key_text import KeyFormat
from keyrush.core.model import INHERIT, ApiKey
from keyrush.core.notation import counted
from keyrush.core.paging import DEFAULT_LIMIT
from keyrush.core.times import NEVER, parse_duration, parse_expiry
from keyrush.errors import InvalidArgument, NotFound
from keyrush.gate.gate import Gate
from keyrush.operations.documents import key_json, new_key_json
from keyrush.operations.keys import DEFAULT_GRACE, NewKey
from keyrush.settings.settings import Settings

_NOTE = "Copy the key now: it is shown this once, and can't be shown again."
_NOTE_MANY = "They are shown this once, and can't be shown again."

#: Keys that are made before they are printed: a fault, or Ctrl-C, costs these at most.
_AT_ONCE = 1_000

_NUMBER = re.compile("[1-9][0-9]{0,9}")

KeyId = Annotated[str, typer.Argument(metavar="ID", help="A cred_… id.")]
Expires = Annotated[
    str | None,
    typer.Option(
        metavar=TEXT, help="30d, 90d, 1y, a date (its beginning, UTC), a time with a zone, or none."
    ),
]

app = group("Create, list, rotate and revoke keys.")


@app.command("create", cls=Command)
def create_key(
    *,
    account: Annotated[
        str, typer.Option(metavar=TEXT, help="Whose key it is; the account is made if it is new.")
    ],
    name: Annotated[
        str, typer.Option(metavar=TEXT, help="What the key is for, 1 to 120 characters.")
    ],
    plan: Annotated[
        str | None, typer.Option(metavar=TEXT, help="Plan of a new account. [default: the first]")
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            metavar=TEXT,
            help="A scope of the key; repeat for more. Without any it may do everything.",
        ),
    ] = None,
    environment: Annotated[
        str | None, typer.Option(metavar=TEXT, help="Such as live or test. [default: the first]")
    ] = None,
    expires: Expires = None,
    limit: Annotated[
        str | None,
        typer.Option(metavar=TEXT, help='The key\'s own limits, such as "60/minute;1000/hour".'),
    ] = None,
    max_concurrent: Annotated[
        int | None,
        typer.Option(
            metavar=NUMBER,
            parser=number,
            help="How many requests may run at once, instead of the plan's number.",
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            metavar=NUMBER, parser=number, help="How many keys to create, all alike; one line each."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Create a key, or with --count many. It is printed once.

    With --count standard output is for programs: a line with id and key for each, or with --json
    an object. Everything else goes to standard error. Keys are made a thousand at a time.
    """
    if count is not None and count < 1:
        raise InvalidArgument("count", f"{count} is no number of keys; give 1 or more")
    is_aside = json or count is not None

    def make(
        gate: Gate,
    ) -> tuple[Callable[[int], Sequence[NewKey]], Sequence[NewKey], list[str]]:
        """What makes more of them, the first of them, and what there is to say."""
        expires_at = None if expires is None else parse_expiry(expires, gate.clock())
        _check_plan(gate, account, plan)
        create = partial(
            gate.keys.create_many,
            account,
            name,
            scopes=scope or (),
            environment=environment,
            expires_at=expires_at,
            limits=limit,
            max_concurrent=max_concurrent,
        )
        first = min(count or 1, _AT_ONCE)
        gate.keys.check_room(account, count or 1, plan)
        try:
            return create, create(first), []
        except NotFound:  # with all that the key needs in order
            near = account_meant(gate, account)
            made = gate.accounts.create(account, plan=plan)
            notes = [f"New account {made.id} on plan {made.plan}."]
            if near:
                notes.append(f"Did you mean {near}?")
            return create, create(first), notes

    with writing(is_aside, make) as gate:
        create, created, notes = make(gate)
        for note in notes:
            output.aside(note, json=is_aside)
        if not scope:
            output.aside("Full access: no --scope given.", json=is_aside)
        if count is None:
            _show_new(gate, created[0], json)
        else:
            _show_many(gate, created, create, count, json)


def _show_many(
    gate: Gate,
    created: Sequence[NewKey],
    create: Callable[[int], Sequence[NewKey]],
    count: int,
    json: bool,
) -> None:
    """Print the first that were created, then create and print the others."""
    done, now = 0, gate.clock()
    try:
        while created:
            for one in created:
                if json:
                    output.dump_line(new_key_json(one, key_json(one.key, now)))
                else:
                    output.say(f"{one.key.id}  {one.text}")
            done += len(created)
            created = create(min(count - done, _AT_ONCE)) if done < count else ()
    finally:
        output.aside(f"Made {counted(done, 'key')}. {_NOTE_MANY}", json=True)


def _check_plan(gate: Gate, account_id: str, plan: str | None) -> None:
    account = gate.store.account(account_id) if is_id(account_id) else None
    if account is not None and plan not in {None, account.plan}:
        raise CommandError(
            f"{account.id} is on the plan {account.plan!r}; to change it: "
            f"keyrush accounts plan {account.id} {plan}"
        )


def _show_new(gate: Gate, created: NewKey, json: bool) -> None:
    key, now = created.key, gate.clock()
    rows = [("Key", created.text), *output.key_details(key, now)]
    output.show(new_key_json(created, key_json(key, now)), rows, json=json)
    if not json:
        output.say()
        output.say(_NOTE)


@app.command("list", cls=Command)
def list_keys(
    account: Annotated[
        str | None, typer.Option(metavar=TEXT, help="Only the keys of this account.")
    ] = None,
    limit: PageLimit = DEFAULT_LIMIT,
    cursor: Cursor = None,
    everything: All = False,
    json: Json = False,
) -> None:
    """List keys, also revoked and expired ones, oldest first, a page at a time."""
    with opened() as gate:
        if account is not None:
            gate.accounts.get(account)
        show_list(
            lambda most, after: gate.keys.list(account, limit=most, after=after),
            limit,
            cursor,
            everything,
            json,
            command=["keys", "list", *([] if account is None else ["--account", account])],
            document=partial(key_json, now=gate.clock()),
            table=partial(output.key_table, now=gate.clock()),
        )


@app.command("show", cls=Command)
def show_key(
    key: Annotated[
        str,
        typer.Argument(
            metavar="KEY", help="A cred_… id, a whole key, or its beginning: kr_live_abc123..."
        ),
    ],
    json: Json = False,
) -> None:
    """Show what is known of a key; the key itself can't be shown again.

    A whole key is looked up by its fingerprint and never printed. Give - to have it read from
    standard input, so that it appears in no shell history and in no list of processes. If several
    keys begin that way, all are listed.
    """
    with opened() as gate:
        found = keys_meant(gate, key)
        if len(found) == 1:
            _show_key(gate, found[0], json)
        elif json:
            output.dump([key_json(one, gate.clock()) for one in found])
        else:
            output.key_table(found, gate.clock())


def _show_key(gate: Gate, key: ApiKey, json: bool) -> None:
    now = gate.clock()
    output.show(key_json(key, now), output.key_details(key, now), json=json)


@app.command("revoke", cls=Command)
def revoke_key(
    key_id: KeyId,
    with_descendants: Annotated[
        bool,
        typer.Option(
            "--with-descendants",
            help="Also revoke the keys that it has made, and those that they have made.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Revoke a key for good. Running apps refuse it within a fraction of a second, or within
    KEYRUSH_CACHE_TTL seconds if no news of it reaches them.

    With --with-descendants --json all revoked keys are listed, this one first.
    """
    with writing(json) as gate:
        if not with_descendants:
            key, others = gate.keys.revoke(key_id), []
        else:
            key, *others = gate.keys.revoke_with_descendants(key_id)
        if json:
            shown = [key_json(one, gate.clock()) for one in (key, *others)]
            output.dump(shown if with_descendants else shown[0])
            return
        output.say(f"{key.id} ({key.prefix}) is revoked since {output.when(key.revoked_at)}.")
        if with_descendants:
            keys = counted(len(others), "key")
            output.say(f"With it, {keys} that it had made, directly or not.")


@app.command("rotate", cls=Command)
def rotate_key(
    key_id: KeyId,
    grace: Annotated[
        str,
        typer.Option(metavar=TEXT, help="How long the old key still works: 0, 45s, 30m, 24h, 7d."),
    ] = f"{DEFAULT_GRACE // 3600}h",
    expires: Expires = None,
    json: Json = False,
) -> None:
    """Replace a key: a new one with the same name, scopes, limits and counts.

    Without --expires it expires when the old one would.
    """
    with writing(json) as gate:
        old = gate.keys.get(key_id)
        expires_at = None if expires is None else parse_expiry(expires, gate.clock())
        if not old.is_active(gate.clock()):
            raise CommandError(f"{key_id} is {output.state(old, gate.clock())}; create a new key")
        if old.retires_at is not None:
            raise CommandError(f"{key_id} has been rotated already; rotate its replacement")
        if expires is not None and expires_at is None and old.expires_at is not None:
            raise InvalidArgument("expires", "the key has a date, so its replacement needs one")
        created = gate.keys.rotate(
            key_id, grace=parse_duration(grace, "grace"), expires_at=expires_at
        )
        _show_new(gate, created, json)
        if not json:
            ends = output.when(gate.keys.get(key_id).ends_at)
            output.say(f"The old key, {old.prefix}, works until {ends}.")


@app.command("edit", cls=Command)
def edit_key(
    key_id: KeyId,
    *,
    name: Annotated[
        str | None, typer.Option(metavar=TEXT, help="What the key is for, 1 to 120 characters.")
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(metavar=TEXT, help="A scope; repeat for more. They replace the old ones."),
    ] = None,
    expires: Expires = None,
    max_concurrent: Annotated[
        str | None,
        typer.Option(
            metavar=TEXT, help="How many requests may run at once; none for the plan's number."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Change the name, scopes, expiry or --max-concurrent of a key; the rest stays."""
    if name is None and not scope and expires is None and max_concurrent is None:
        raise InvalidArgument("edit", "give --name, --scope, --expires or --max-concurrent")
    at_once = None if max_concurrent is None else _number_or_none(max_concurrent)
    with writing(json) as gate:
        ends = None if expires is None else parse_expiry(expires, gate.clock()) or NEVER
        edited = gate.keys.edit(
            key_id, name=name, scopes=scope, expires_at=ends, max_concurrent=at_once
        )
        _show_key(gate, edited, json)


def _number_or_none(text: str) -> int:
    """The `max_concurrent` that is meant, `INHERIT` for `none`.

    Raises:
        InvalidArgument: It is neither a number from 1 on nor `none`.
    """
    if text.strip().lower() == "none":
        return INHERIT
    if not _NUMBER.fullmatch(text.strip()):
        raise InvalidArgument("max_concurrent", f"{text!r} is no number from 1 on, and not none")
    return int(text)


@app.command("limits", cls=Command)
def limit_key(
    key_id: KeyId, limits: Limits = None, inherit: Inherit = False, json: Json = False
) -> None:
    """Give a key limits of its own, or with --inherit its account's again."""
    wanted = limits_or_inherit(limits, inherit)
    with writing(json) as gate:
        _show_key(gate, gate.keys.set_limits(key_id, wanted), json)


@app.command("pattern", cls=Command)
def print_pattern(json: Json = False) -> None:
    """Print a regular expression for secret scanners, which finds keys."""
    settings = Settings()
    pattern = KeyFormat(settings.key_prefix, settings.key_environments).scanner_pattern()
    if json:
        output.dump({"pattern": pattern})
    else:
        output.say(pattern)
