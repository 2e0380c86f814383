"""Checks of what people give: names, scopes, ids, plans, expiry. Errors name the field."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import TypeGuard

from keyrush.core.key_text import KeyFormat
from keyrush.core.ledger import CHARGE, OPENING, REFILL
from keyrush.core.model import MAX_CONCURRENT, Scopes
from keyrush.core.policy import MAX_CREDITS, MAX_UNITS
from keyrush.core.times import LATEST, iso
from keyrush.errors import InvalidArgument

MAX_NAME = 120  # characters (contract O4)

#: Seconds for which a rotated key may go on working.
MAX_GRACE = 30 * 86_400

#: Keys that are made in one step; more would keep others that write waiting.
MAX_AT_ONCE = 5_000

#: What a scope looks like, whole: RFC 6749 §3.3, and no longer than need be.
SCOPE = r"[\x21\x23-\x5b\x5d-\x7e]{1,120}"
#: Bytes; a shorter pepper can be guessed by whoever has the database and one key.
MIN_PEPPER = 32

#: A command that makes a pepper.
MAKE_PEPPER = "python -c 'import secrets; print(secrets.token_urlsafe(32))'"

#: Characters of a wrong value that are shown: too few for a key.
_SHOWN = 16

_ID = re.compile(r"[A-Za-z0-9_.@-]{1,64}")
_LIMIT_NAME = re.compile(r"[\x20\x21\x23-\x5b\x5d-\x7e]{1,64}").fullmatch
_REFERENCE = re.compile(r"[\x21-\x7e]{1,80}")

MAX_NOTE = 200  # characters

#: OpenID Connect Core §2 allows no more of a subject.
_SUBJECT = re.compile(r"[\x20-\x7e]{1,255}")
_SCOPE = re.compile(SCOPE)
#: Besides markup: control characters, what turns the direction of text, and lone surrogates.
_UNSAFE = re.compile(r"[<>\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def is_id(text: object) -> bool:
    """True for what can be the id of an account or a key; nothing else is ever looked for."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def is_subject(text: object) -> TypeGuard[str]:
    """True for what an issuer may call somebody, and a session or a client of theirs."""
    return isinstance(text, str) and _SUBJECT.fullmatch(text) is not None


def refuse_keys(keys: KeyFormat, **given: object) -> None:
    """Raise where an argument has a key in it: it would be stored, logged or echoed (O22).

    Raises:
        InvalidArgument: Names the argument, and says nothing of the key.
    """
    for field, value in given.items():
        if keys.is_in(value):
            raise InvalidArgument(field, "must hold no API key")


def checked_account_id(account_id: str) -> str:
    """`account_id`, if an account may have it.

    Raises:
        InvalidArgument: It is too long, or has characters that ids don't have.
    """
    if not is_id(account_id):
        raise InvalidArgument(
            "account", f"{account_id!r} must be 1 to 64 letters, digits or characters of _.@-"
        )
    return account_id


def checked_issuer(issuer: str, issuers: Collection[str]) -> str:
    """`issuer`, if it is one of `issuers`.

    Raises:
        InvalidArgument: It is not; names those that are.
    """
    if issuer not in issuers:
        allowed = ", ".join(dict.fromkeys(issuers)) or "none; see KEYRUSH_ISSUERS"
        raise InvalidArgument("issuer", f"{issuer!r} is none of the issuers; there is {allowed}")
    return issuer


def checked_subject(subject: str) -> str:
    """`subject`, if an issuer may call somebody so.

    Raises:
        InvalidArgument: It is empty, too long, or no plain ASCII.
    """
    if not is_subject(subject):
        raise InvalidArgument("subject", "must be 1 to 255 printable ASCII characters")
    return subject


def checked_name(name: str) -> str:
    """`name` without the white space around it (contract O4).

    Raises:
        InvalidArgument: It is empty, over 120 characters, or holds markup.
    """
    if not isinstance(name, str):
        raise InvalidArgument("name", f"must be text, not {name!r}")
    stripped = name.strip()
    if not 1 <= len(stripped) <= MAX_NAME:
        raise InvalidArgument("name", f"must have 1 to {MAX_NAME} characters, not {len(stripped)}")
    if _UNSAFE.search(stripped):
        raise InvalidArgument("name", "must hold no < or > and no control characters")
    return stripped


def checked_plan(plan: str, plans: Iterable[str]) -> str:
    """`plan`, if it is one of `plans`.

    Raises:
        InvalidArgument: It is not; names those that are.
    """
    if plan not in plans:
        allowed = ", ".join(plans)
        raise InvalidArgument("plan", f"{plan!r} is not in the table; use one of {allowed}")
    return plan


def checked_environment(environment: str | None, environments: Sequence[str]) -> str | None:
    """`environment`, if it is one of `environments`; the first of them for None.

    Raises:
        InvalidArgument: It is not; names those that are.
    """
    if environment is None:
        return environments[0] if environments else None
    if environment not in environments:
        hint = f"use one of {', '.join(environments)}" if environments else "keys have none here"
        raise InvalidArgument("environment", f"{environment!r} is unknown; {hint}")
    return environment


def checked_scopes(scopes: Sequence[str], known: Collection[str]) -> tuple[str, ...]:
    """`scopes`, each once, if all are among `known` or wildcards over them; any if none is known.

    Raises:
        InvalidArgument: One is malformed or unknown; names those that are known.
    """
    if isinstance(scopes, str):
        raise InvalidArgument("scopes", f"must be a list, not {scopes!r}")
    for scope in scopes:
        if not isinstance(scope, str) or not _SCOPE.fullmatch(scope):
            raise InvalidArgument("scopes", f"{scope!r} is no scope; write one like read:articles")
        if known and not any(name in Scopes([scope]) for name in known):
            allowed = ", ".join(sorted(known))
            raise InvalidArgument(
                "scopes", f"{scope!r} is unknown; use *, {allowed}, or list it in KEYRUSH_SCOPES"
            )
    return tuple(dict.fromkeys(scopes))


def checked_expiry(expires_at: int | None, now: int, field: str = "expires_at") -> int | None:
    """`expires_at`, if it lies in the future; Unix milliseconds.

    Raises:
        InvalidArgument: It does not, or lies after the year 9999.
    """
    if expires_at is None:
        return None
    _check_instant(field, expires_at)
    if expires_at <= now:
        shown = f"{iso(expires_at)} " if expires_at >= 0 else ""
        is_in_seconds = now < expires_at * 1000 <= LATEST
        hint = "; give milliseconds, not seconds" if is_in_seconds else ""
        raise InvalidArgument(field, f"{shown}is in the past{hint}")
    return expires_at


def _check_instant(field: str, instant: object) -> None:
    if type(instant) is not int:
        is_short = isinstance(instant, str) and len(instant) <= _SHOWN
        shown = repr(instant) if is_short else f"a {type(instant).__name__}"
        raise InvalidArgument(
            field,
            f"{shown} is no Unix time in milliseconds; of a datetime with a time zone it is "
            "int(moment.timestamp() * 1000)",
        )
    if instant > LATEST:
        raise InvalidArgument(field, "is no Unix time in milliseconds before the year 10000")


def check_instants(**given: int | None) -> None:
    """Let through times, by the names of their fields; None stands for any.

    Raises:
        InvalidArgument: One is no Unix time in milliseconds before the year 10000.
    """
    for field, instant in given.items():
        if instant is None:
            continue
        _check_instant(field, instant)
        if instant < 0:
            raise InvalidArgument(field, "is before the year 1970")


def checked_grace(grace: int) -> int:
    """`grace`, if it is whole seconds from 0 to 30 days.

    Raises:
        InvalidArgument: It is not.
    """
    if type(grace) is not int or not 0 <= grace <= MAX_GRACE:
        raise InvalidArgument("grace", f"{grace!r} is not from 0 to {MAX_GRACE} seconds")
    return grace


def checked_count(count: int) -> int:
    """`count`, if so many keys can be made in one step.

    Raises:
        InvalidArgument: It is no whole number from 1 to 5,000.
    """
    if type(count) is not int or not 1 <= count <= MAX_AT_ONCE:
        raise InvalidArgument("count", f"{count!r} is no whole number from 1 to {MAX_AT_ONCE:,}")
    return count


def checked_max_concurrent(max_concurrent: int | None) -> int | None:
    """`max_concurrent`, if so many requests of a key may be under way at once; None is its plan's.

    Raises:
        InvalidArgument: It is no whole number from 1 to 1,000,000.
    """
    if max_concurrent is None:
        return None
    if type(max_concurrent) is not int or not 1 <= max_concurrent <= MAX_CONCURRENT:
        said = f"{max_concurrent!r} is no whole number from 1 to {MAX_CONCURRENT:,}"
        raise InvalidArgument("max_concurrent", said)
    return max_concurrent


def checked_credits(credits: int) -> int:
    """`credits`, if it can be a price.

    Raises:
        InvalidArgument: It is no whole number from 0 to 1,000,000,000.
    """
    if type(credits) is not int or not 0 <= credits <= MAX_CREDITS:
        raise InvalidArgument(
            "credits", f"{credits!r} is no whole number from 0 to {MAX_CREDITS:,}"
        )
    return credits


def checked_cost(units: int) -> int:
    """`units`, if a request can cost so many of its windows.

    Raises:
        InvalidArgument: It is no whole number from 0 to 1,000,000,000.
    """
    if type(units) is not int or not 0 <= units <= MAX_UNITS:
        raise InvalidArgument("cost", f"{units!r} is no whole number from 0 to {MAX_UNITS:,}")
    return units


def checked_limit_name(name: str) -> str:
    """`name`, if limits can be called that.

    Raises:
        InvalidArgument: It is not 1 to 64 printable characters of ASCII, or has a quote or a
            backslash.
    """
    if not isinstance(name, str) or not _LIMIT_NAME(name):
        raise InvalidArgument(
            "name", "must be 1 to 64 printable characters of ASCII, without quotes or backslash"
        )
    return name


def checked_change(credits: int) -> int:
    """`credits`, if a balance can be changed by them.

    Raises:
        InvalidArgument: It is no whole number from -1,000,000,000 to 1,000,000,000.
    """
    if type(credits) is not int or not -MAX_CREDITS <= credits <= MAX_CREDITS:
        raise InvalidArgument(
            "credits", f"{credits!r} is no whole number from -{MAX_CREDITS:,} to {MAX_CREDITS:,}"
        )
    return credits


def checked_reference(reference: str | None) -> str | None:
    """`reference`, if an entry of a ledger may have it; None is none.

    Raises:
        InvalidArgument: It is too long, has white space or no plain ASCII, or is of those that
            keyrush gives itself.
    """
    if reference is None:
        return None
    if not isinstance(reference, str) or not _REFERENCE.fullmatch(reference):
        raise InvalidArgument("reference", "must be 1 to 80 printable ASCII characters, no space")
    if reference == OPENING or reference.startswith((REFILL, CHARGE)):
        names = f"neither {OPENING} nor begin with {REFILL} or {CHARGE}"
        raise InvalidArgument("reference", f"must be {names}")
    return reference


def checked_note(note: str | None) -> str | None:
    """`note` without the white space around it; None where there is none.

    Raises:
        InvalidArgument: It is over 200 characters, or holds markup.
    """
    if note is None:
        return None
    if not isinstance(note, str):
        raise InvalidArgument("note", f"must be text, not {note!r}")
    stripped = note.strip()
    if len(stripped) > MAX_NOTE:
        raise InvalidArgument("note", f"must have {MAX_NOTE} characters at most")
    if _UNSAFE.search(stripped):
        raise InvalidArgument("note", "must hold no < or > and no control characters")
    return stripped or None
