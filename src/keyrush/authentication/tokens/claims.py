"""What a token says of its holder, judged: pure, and before any signature."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

from keyrush.core.audience import canonical
from keyrush.core.checks import SCOPE, is_subject
from keyrush.core.identity import API
from keyrush.core.issuers import Issuer, Kind
from keyrush.core.times import LATEST, SECOND

#: Milliseconds by which an issuer's clock may be ahead (S47).
_LEEWAY = 60 * SECOND

#: Of Supabase, what its two role tokens say, which anybody may read in a page's source (S52).
_ROLE_TOKENS = ("anon", "service_role")

_SCOPE = re.compile(SCOPE).fullmatch

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch


class Presented(NamedTuple):
    """What a token is worth, if its signature is good. Instants are Unix milliseconds."""

    issuer: str
    kind: Kind
    subject: str
    session_id: str | None
    client_id: str | None
    scopes: tuple[str, ...]
    audience: frozenset[str]  #: as in `Claims`
    issued_at: int | None
    ends_at: int


def presented(
    payload: Mapping[str, object], issuer: Issuer, resources: Collection[str], now: int
) -> Presented | None:
    """What a token of the issuer is worth, None where it is worth nothing here.

    `resources` are the audiences that are good for something beside the issuer's own.
    """
    subject, client_id = payload.get("sub"), _client(payload)
    ends_at, audience = _instant(payload.get("exp")), _audience(payload.get("aud"), issuer)
    scopes = issuer.scopes if issuer.scopes is not None else _scopes(payload, issuer)
    if payload.get("iss") != issuer.issuer or not is_subject(subject):  # S45
        return None
    if ends_at is None or now >= ends_at or _is_early(payload, now):  # S47
        return None
    if not (API in audience or audience.intersection(resources)):  # S46
        return None
    if payload.get("role") in _ROLE_TOKENS or scopes is None:
        return None
    if issuer.kind == "session" and "client_id" in payload:  # S53
        return None
    if issuer.preset == "supabase" and not _is_supabase(payload, issuer):
        return None
    return Presented(
        issuer=issuer.issuer,
        kind=issuer.kind,
        subject=subject,
        session_id=_name(payload.get("session_id", payload.get("sid"))),
        client_id=client_id,
        scopes=scopes,
        audience=audience,
        issued_at=_instant(payload.get("iat")),
        ends_at=ends_at,
    )


def _client(payload: Mapping[str, object]) -> str | None:
    """The OAuth client that a token was issued to (RFC 9068 §2.2; some say `azp`)."""
    return _name(payload.get("client_id", payload.get("azp")))


def _name(claim: object) -> str | None:
    """What can be an id, of a session or a client."""
    return claim if is_subject(claim) else None


def _instant(claim: object) -> int | None:
    """A NumericDate (RFC 7519 §2), Unix milliseconds: a number, which a bool is not."""
    if type(claim) is not int and type(claim) is not float:
        return None
    if not 0 < claim <= LATEST:  # nor is NaN; what is far beyond has no milliseconds
        return None
    instant = int(claim * SECOND)
    return instant if 0 < instant <= LATEST else None


def _is_early(payload: Mapping[str, object], now: int) -> bool:
    if "nbf" not in payload:
        return False
    begins_at = _instant(payload["nbf"])
    return begins_at is None or begins_at > now + _LEEWAY


def _audience(claim: object, issuer: Issuer) -> frozenset[str]:
    """What a token is good for, by its `aud`; nothing where that is malformed."""
    names = [claim] if isinstance(claim, str) else claim
    if not isinstance(names, list) or not all(isinstance(it, str) and it for it in names):
        return frozenset()
    found = frozenset(canonical(name) for name in names)
    return found | {API} if issuer.audience.intersection(names) else found


def _scopes(payload: Mapping[str, object], issuer: Issuer) -> tuple[str, ...] | None:
    """The scopes in a token, as text or a list (S64); None where they are neither."""
    found: dict[str, None] = {}
    for claim in (issuer.scope_claim,) if issuer.scope_claim else ("scope", "scp"):
        value = payload.get(claim, "")
        names = value.split(" ") if isinstance(value, str) else value
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            return None
        found.update(dict.fromkeys(filter(_SCOPE, names)))
    return tuple(found)


def _is_supabase(payload: Mapping[str, object], issuer: Issuer) -> bool:
    """What Supabase says in every token of a person (S52, S53)."""
    subject, session, is_anonymous = (
        payload.get(name) for name in ("sub", "session_id", "is_anonymous")
    )
    if payload.get("role") != "authenticated" or payload.get("aud") != "authenticated":
        return False
    if not (isinstance(subject, str) and _UUID(subject) and is_subject(session)):
        return False
    if is_anonymous not in (None, False, True) or (is_anonymous and not issuer.anonymous):
        return False
    return issuer.kind == "session" or _name(payload.get("client_id")) is not None
