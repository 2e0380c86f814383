"""Edits of keys and what is kept of them: as values, and as every store decides them in the very
transaction that makes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from keyrush.core.model import INHERIT, ApiKey, Scopes
from keyrush.core.times import NEVER
from keyrush.store.decisions import Outcome

#: Events that are kept of each key; of more, the oldest go.
MAX_EVENTS = 100


class Edit(NamedTuple):
    """What is to be of a key; None leaves what is there.

    `by` is the id of the key or link that asks, or stands for the account's owner
    (`decisions.OWNER`); None is the operator. `granted` are the scopes of the token by which a link
    asks, `issued_at` is when it was issued.
    """

    at: int
    name: str | None = None
    scopes: tuple[str, ...] | None = None
    expires_at: int | None = None  #: `NEVER` where it is to end by itself no more
    by: str | None = None
    issued_at: int | None = None
    granted: tuple[str, ...] | None = None
    max_concurrent: int | None = None  #: `INHERIT` where it is to be the plan's


#: What has been done to a key.
What = Literal["created", "edited", "replaced", "revoked"]

#: A value as it was, or has become: as JSON has it.
Value = str | int | list[str] | None


class KeyEvent(NamedTuple):
    """What has been done to a key, and by whom: `by` is as in `Edit`.

    `changes` are by field, each as it was and as it has become. That a key was created is kept of
    those alone that were made in place of another: `predecessor` is its id. Of one that was
    replaced, `retires_at`, and the id of its `successor`.
    """

    at: int
    what: What
    by: str | None
    changes: Mapping[str, tuple[Value, Value]]


def edited(key: ApiKey, edit: Edit) -> ApiKey:
    """The key as it is to be."""
    ends = key.expires_at if edit.expires_at is None else edit.expires_at
    at_once = key.max_concurrent if edit.max_concurrent is None else edit.max_concurrent
    return replace(
        key,
        name=key.name if edit.name is None else edit.name,
        scopes=key.scopes if edit.scopes is None else edit.scopes,
        expires_at=None if ends == NEVER else ends,
        max_concurrent=None if at_once == INHERIT else at_once,
    )


def judge_edit(caller: ApiKey | None, key: ApiKey, edit: Edit) -> Outcome:
    """Whether a key that is stored as `key` may be edited; `done` where it may.

    Whoever may revoke it may also take from it. What gives something must leave a key that
    `caller`, the key that asks, or the token with the scopes `Edit.granted`, could make.
    """
    if not key.is_active(edit.at):
        return "gone"
    wanted = edited(key, edit)
    if _is_within(wanted, key.scopes, key.expires_at, key.max_concurrent):
        return "done"
    if caller is None:
        may = edit.granted is None or Scopes(edit.granted).covers(wanted.scopes)
        return "done" if may else "beyond_caller"
    if caller.is_limited or caller.environment != key.environment:
        return "beyond_caller"
    return judge_made(caller, wanted)


def judge_made(caller: ApiKey | None, made: ApiKey) -> Outcome:
    """Whether a key, as `caller` is stored, is one that it may make, or have in place of one: with
    no scope that it lacks, no later end, and no more at once.
    """
    if caller is None or _is_within(made, caller.scopes, caller.ends_at, caller.max_concurrent):
        return "done"
    return "beyond_caller"


def judge_all_made(caller: ApiKey | None, made: Sequence[ApiKey]) -> Outcome:
    """Whether all of them are such."""
    judged = (judge_made(caller, one) for one in made)
    return next((one for one in judged if one != "done"), "done")


def _is_within(
    key: ApiKey, scopes: tuple[str, ...], ends_at: int | None, max_concurrent: int | None
) -> bool:
    bounds = (key.expires_at, ends_at), (key.max_concurrent, max_concurrent)
    within = all(most is None or (own is not None and own <= most) for own, most in bounds)
    return within and Scopes(scopes).covers(key.scopes)


def event_of(before: ApiKey, after: ApiKey, edit: Edit) -> KeyEvent | None:
    """What is kept of an edit; None where it changes nothing."""
    fields: dict[str, tuple[Value, Value]] = {
        "name": (before.name, after.name),
        "scopes": ([*before.scopes], [*after.scopes]),
        "expires_at": (before.expires_at, after.expires_at),
        "max_concurrent": (before.max_concurrent, after.max_concurrent),
    }
    changes = {name: values for name, values in fields.items() if values[0] != values[1]}
    return KeyEvent(edit.at, "edited", edit.by, changes) if changes else None


def rotation(
    old: str, successor: ApiKey, retires_at: int, by: str | None
) -> tuple[KeyEvent, KeyEvent]:
    """What is kept of the key with the id `old` that has been replaced, and of its successor."""
    at = successor.created_at
    ends: dict[str, tuple[Value, Value]] = {
        "retires_at": (None, retires_at),
        "successor": (None, successor.id),
    }
    return (
        KeyEvent(at, "replaced", by, ends),
        KeyEvent(at, "created", by, {"predecessor": (None, old)}),
    )


def revocation(at: int, by: str | None) -> KeyEvent:
    """What is kept of a key that has been revoked."""
    return KeyEvent(at, "revoked", by, {})
