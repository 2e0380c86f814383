"""What a token says of its holder, judged."""

from __future__ import annotations

from typing import Any

import pytest

from keyrush.authentication.tokens.claims import Presented, presented
from keyrush.core.identity import API
from keyrush.core.issuers import Issuer
from tests.support.issuer import SESSION, SUBJECT
from tests.support.values import NOW

URL = "https://auth.example.com/auth/v1"

SECONDS = NOW // 1000

RESOURCE = "https://api.example.com/mcp"


def issuer(**values: Any) -> Issuer:
    known: dict[str, Any] = {
        "issuer": URL,
        "kind": "session",
        "audience": frozenset({"api"}),
        "scopes": ("*",),
    }
    return Issuer(**known | values)


def judged(
    ours: Issuer | None = None, resources: frozenset[str] = frozenset(), **claims: Any
) -> Presented | None:
    """What comes of a good token with these claims; one that is `...` is left out."""
    said = {"iss": URL, "sub": "user-1", "aud": "api", "exp": SECONDS + 60, "iat": SECONDS}
    payload = {name: value for name, value in (said | claims).items() if value is not ...}
    return presented(payload, ours or issuer(), resources, NOW)


def test_what_it_is_worth() -> None:
    """O8: what is known of the caller is what the token says."""
    assert judged(sid="s1", azp="c1") == Presented(
        issuer=URL,
        kind="session",
        subject="user-1",
        session_id="s1",
        client_id="c1",
        scopes=("*",),
        audience=frozenset({"api", API}),
        issued_at=NOW,
        ends_at=NOW + 60_000,
    )


REFUSED: dict[str, dict[str, Any]] = {
    "S45: no issuer": {"iss": ...},
    "S45: a slash more": {"iss": URL + "/"},
    "S45: another case": {"iss": URL.upper()},
    "S45: a list": {"iss": [URL]},
    "S46: no audience": {"aud": ...},
    "S46: another": {"aud": "other"},
    "S46: of another case": {"aud": "API"},
    "S46: empty": {"aud": ""},
    "S46: an empty list": {"aud": []},
    "S46: empty text in a list": {"aud": ["api", ""]},
    "S46: a number in a list": {"aud": ["api", 1]},
    "S46: an object": {"aud": {"api": 1}},
    "S46: null": {"aud": None},
    "S47: no end": {"exp": ...},
    "S47: it ends now": {"exp": SECONDS},
    "S47: it has ended": {"exp": SECONDS - 1},
    "S47: text": {"exp": str(SECONDS + 60)},
    "S47: text that PyJWT takes": {"exp": "9_999_999_999"},
    "S47: true": {"exp": True},
    "S47: null": {"exp": None},
    "S47: a list": {"exp": [SECONDS + 60]},
    "S47: beyond all time": {"exp": 10**18},
    "S47: beyond all numbers": {"exp": 10**400},
    "S47: too early": {"nbf": SECONDS + 61},
    "S47: ends beyond all time": {"exp": 1e306},
    "S47: begins beyond all time": {"nbf": 1e306},
    "S47: begins with text": {"nbf": str(SECONDS)},
    "S47: begins with true": {"nbf": True},
    "no subject": {"sub": ...},
    "an empty subject": {"sub": ""},
    "a number as subject": {"sub": 7},
    "a subject of 256": {"sub": "a" * 256},
    "a subject beyond ASCII": {"sub": "usér"},
    "a subject with NUL": {"sub": "user\x00-1"},
    "a subject with a newline": {"sub": "user-1\n"},
    "S52: a role token": {"role": "service_role"},
    "S52: the public role token": {"role": "anon"},
    "S53: a client's": {"client_id": "c1"},
    "S53: a client's, of no name": {"client_id": None},
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    """S45, S46, S47: a token that says this is worth nothing."""
    assert judged(**REFUSED[case]) is None


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": ["other", "api"]},
        {"exp": SECONDS + 0.5},
        {"exp": SECONDS + 60.0},
        {"nbf": SECONDS + 60},
        {"nbf": SECONDS - 60},
        {"iat": SECONDS + 3600},
        {"iat": "yesterday"},
        {"iat": 1e306},
        {"iat": 10**400},
        {"iat": ...},
        {"sub": "auth0|5f7c8ec7c33c6c004bbafe82"},
        {"sub": "a" * 255},
    ],
)
def test_taken(claims: dict[str, Any]) -> None:
    """S46, S47: audiences in a list, times of whole seconds or not, up to 60 s of leeway for
    `nbf`, whatever `iat` says.
    """
    assert judged(**claims) is not None


def test_ends_to_the_millisecond() -> None:
    """S47: a time with a fraction ends there."""
    found = judged(exp=SECONDS + 0.25)
    assert found is not None
    assert found.ends_at == NOW + 250


# --- audience ----------------------------------------------------------------------------------


def test_good_for() -> None:
    """S46, S86: the issuer's own audience is good for all paths that are no resource; of others
    those count that are resources here, in canonical form.
    """
    client = issuer(kind="oauth", audience=frozenset())
    assert judged(client, aud=RESOURCE) is None
    found = judged(client, frozenset({RESOURCE}), aud=[RESOURCE.replace("api.", "API."), "x"])
    assert found is not None
    assert found.audience == {RESOURCE, "x"}
    both = judged(issuer(), frozenset({RESOURCE}), aud=[RESOURCE, "api"])
    assert both is not None
    assert both.audience == {RESOURCE, "api", API}
    assert judged(issuer(), frozenset({RESOURCE}), aud=[RESOURCE + "2"]) is None


# --- scopes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({}, ()),
        ({"scope": "read write"}, ("read", "write")),
        ({"scp": ["read", "write"]}, ("read", "write")),
        ({"scp": "read write"}, ("read", "write")),
        ({"scope": "read", "scp": ["read", "write"]}, ("read", "write")),
        ({"scope": ""}, ()),
        ({"scope": "read  write "}, ("read", "write")),
        ({"scope": 'read "quoted" new\nline'}, ("read",)),
        ({"scope": "read,write"}, ("read,write",)),
    ],
)
def test_scopes(claims: dict[str, Any], scopes: tuple[str, ...]) -> None:
    """S64: scopes are read from `scope` and `scp`, as text or a list; none is none."""
    found = judged(issuer(kind="oauth", scopes=None), **claims)
    assert found is not None
    assert found.scopes == scopes


@pytest.mark.parametrize("value", [1, None, True, {"read": 1}, ["read", 1], [["read"]]])
def test_scopes_that_are_none(value: Any) -> None:
    """S64: a claim of scopes that is neither text nor a list of such makes no token."""
    for claim in ("scope", "scp"):
        assert judged(issuer(kind="oauth", scopes=None), **{claim: value}) is None


def test_claim_of_scopes() -> None:
    """S64: an issuer may name the claim, and then no other is read."""
    named = issuer(scopes=None, scope_claim="permissions")
    found = judged(named, permissions=["read"], scope="admin", scp=["admin"])
    assert found is not None
    assert found.scopes == ("read",)
    given = judged(issuer(scopes=("read",)), scope="admin")
    assert given is not None
    assert given.scopes == ("read",)


# --- Supabase ----------------------------------------------------------------------------------

SUPABASE: dict[str, Any] = {
    "sub": SUBJECT,
    "aud": "authenticated",
    "role": "authenticated",
    "session_id": SESSION,
    "is_anonymous": False,
}


def supabase(**values: Any) -> Issuer:
    known = {"preset": "supabase", "audience": frozenset({"authenticated"})}
    return issuer(**known | values)


def test_person() -> None:
    """S52: the token of a person who has signed in, with the id of their session."""
    for claims in (SUPABASE, {**SUPABASE, "is_anonymous": ...}, {**SUPABASE, "aal": "aal2"}):
        found = judged(supabase(), **claims)
        assert found is not None
        assert (found.subject, found.session_id) == (SUBJECT, SESSION)


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": "user-1"},
        {"sub": SUBJECT.upper()},
        {"session_id": ...},
        {"session_id": ""},
        {"session_id": 1},
        {"role": ...},
        {"role": "supabase_admin"},
        {"role": ["authenticated"]},
        {"aud": ["authenticated"]},
        {"aud": "anon"},
        {"is_anonymous": True},
        {"is_anonymous": "false"},
        {"is_anonymous": "true"},
        {"client_id": "c1"},
        {"iss": "supabase"},
    ],
)
def test_nobody(claims: dict[str, Any]) -> None:
    """S52, S53: role tokens, anonymous users, tokens without a session, and those of OAuth
    clients are no sessions.
    """
    assert judged(supabase(), **SUPABASE | claims) is None


def test_anonymous_where_allowed() -> None:
    """S52: anonymous users are let in where the settings say so, by a boolean alone."""
    ours = supabase(anonymous=True)
    assert judged(ours, **SUPABASE | {"is_anonymous": True}) is not None
    assert judged(ours, **SUPABASE | {"is_anonymous": "yes"}) is None


def test_clients() -> None:
    """S53: as tokens of clients those are good that name one, and no session is one."""
    ours = supabase(kind="oauth")
    found = judged(ours, **SUPABASE | {"client_id": "c1"})
    assert found is not None
    assert (found.kind, found.client_id) == ("oauth", "c1")
    assert judged(ours, **SUPABASE) is None
    assert judged(ours, **SUPABASE | {"azp": "c1"}) is None


@pytest.mark.parametrize("role", ["anon", "service_role"])
def test_role_tokens_whatever_signed_them(role: str) -> None:
    """S52: a role token is refused by its role, of whichever issuer and kind."""
    claims = SUPABASE | {"role": role, "client_id": "c1"}
    for ours in (supabase(), supabase(kind="oauth"), issuer(kind="oauth")):
        assert judged(ours, **claims | {"aud": ["api", "authenticated"]}) is None
        assert judged(ours, **claims) is None
