"""What every store decides in the very transaction that changes keys, so that none slips by."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Literal, NamedTuple

from keyrush.core.model import ApiKey, Link

#: What came of a change of keys; nothing has changed but where it is done.
Outcome = Literal[
    "done",
    "gone",  # there is no such account or key, or the key is revoked or has been replaced
    "caller_ended",  # the key that asks is revoked or expired, or is none of the account's
    "caller_retires",  # the key that asks has been replaced, and only goes on for a while
    "beyond_caller",  # the key would be one that the key or token that asks could not make
    "too_many_keys",  # the account has as many keys as it may have
    "too_many_active",  # with those that retire it has twice as many
]

#: What came of a link that was to be added; nothing has changed but where it is done.
LinkOutcome = Literal[
    "done",
    "taken",  # the issuer's subject is linked already
    "gone",  # there is no such account
    "ended",  # it was linked once, and is so again only when the operator says
    "too_many",  # as many of the issuer's have been added in the last minute as may
]

#: Begins what stands for whom the app itself lets in as the owner of an account, where else the id
#: of a key or a link is: no id is such. They may do with its keys what the operator may.
OWNER = "owner:"

#: Links that are listed at most.
MAX_LINKS = 1_000

#: Milliseconds in which new links are counted.
NEW_LINKS_IN = 60_000

#: Keys of an account that work at once, as a multiple of those it may have: a rotation leaves
#: the old one for a while.
RETIRING = 2


#: What a key and its successor have in common.
_KEPT = attrgetter("account_id", "name", "scopes", "limits", "max_concurrent")


class Revocation(NamedTuple):
    """What came of a revocation: the ids of the key itself, then of those that went along with
    it, oldest first.
    """

    outcome: Outcome
    key_ids: Sequence[str] = ()


class KeyCount(NamedTuple):
    """How many keys of an account are active."""

    staying: int  #: those that have not been replaced
    retiring: int  #: those that have been, and go on for a while


def is_trusted(by: str | None) -> bool:
    """Whether it is the operator that asks, or the account's owner."""
    return by is None or by.startswith(OWNER)


def judge_caller(caller: ApiKey | None, account_id: str, now: int) -> Outcome:
    """Whether `caller`, as stored, may still change keys of the account; `done` where it may."""
    if caller is None or caller.account_id != account_id or not caller.is_active(now):
        return "caller_ended"
    return "done" if caller.retires_at is None else "caller_retires"


def judge_session(link: Link | None, account_id: str, issued_at: int | None) -> Outcome:
    """The same of whom a token stands for that was issued then."""
    if link is None or link.account_id != account_id or not link.admits(issued_at):
        return "caller_ended"
    return "done"


def may_be_replaced(key: ApiKey, successor: ApiKey) -> bool:
    """Whether a key may have this successor: one of its account, made of it as it still is, where
    it has none, and is not revoked.
    """
    is_of_it = bool(_KEPT(key) == _KEPT(successor))
    return is_of_it and key.revoked_at is None and key.retires_at is None


def judge_room(count: KeyCount, max_keys: int | None, more: int = 1) -> Outcome:
    """Whether an account with so many keys may have so many `more`; `done` where it may."""
    if max_keys is not None and count.staying + more > max_keys:
        return "too_many_keys"
    return _judge_all(count, max_keys, more)


def judge_rotation(count: KeyCount, max_keys: int | None, *, ends_one: bool = False) -> Outcome:
    """Whether an account with so many keys may have one replaced, which is one more for a while,
    unless that `ends_one` at once; `done` where it may.
    """
    return _judge_all(count, max_keys, 0 if ends_one else 1)


def _judge_all(count: KeyCount, max_keys: int | None, more: int) -> Outcome:
    if max_keys is None:
        return "done"
    return "too_many_active" if sum(count) + more > RETIRING * max_keys else "done"
