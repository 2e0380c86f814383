"""Tokens taken apart: what is one, and what a header may say."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyrush.authentication.tokens.jws import algorithm_of, has_shape, key_name_of, parse
from keyrush.core.issuers import Issuer
from keyrush.wire.request import MAX_TOKEN
from tests.support.issuer import b64, segment

HEADER, PAYLOAD, SIGNATURE = segment({"alg": "ES256"}), segment({"sub": "a"}), b64(b"s" * 64)

GOOD = b".".join((HEADER, PAYLOAD, SIGNATURE))


def token(header: bytes = HEADER, payload: bytes = PAYLOAD, signature: bytes = SIGNATURE) -> bytes:
    return b".".join((header, payload, signature))


def uncanonical(part: bytes) -> bytes:
    """Another text that lax decoders take for the same bytes."""
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = part[:-1] + alphabet[alphabet.index(part[-1]) + 1 :][:1]
    padded = b"=" * (-len(part) % 4)
    assert base64.urlsafe_b64decode(other + padded) == base64.urlsafe_b64decode(part + padded)
    return other


REFUSED = {
    "nothing": b"",
    "two segments": HEADER + b"." + PAYLOAD,
    "a JWE's five": b".".join([HEADER] * 5),
    "an empty signature": HEADER + b"." + PAYLOAD + b".",
    "an empty payload": HEADER + b".." + SIGNATURE,
    "padding": HEADER + b"=." + PAYLOAD + b"=." + SIGNATURE,
    "base64 of the other alphabet": token(signature=b"+/" * 43),
    "white space": GOOD + b" ",
    "a newline at its end": GOOD + b"\n",
    "a newline in it": token(PAYLOAD[:4] + b"\n" + PAYLOAD[4:]),
    "a percent sign": token(payload=PAYLOAD + b"%3D"),
    "a length that nothing has": token(signature=b"A" * 85),
    "bits that count nowhere": token(signature=uncanonical(SIGNATURE)),
    "JSON serialisation": json.dumps({"payload": PAYLOAD.decode(), "signatures": []}).encode(),
    "a header that is a list": token(header=segment(["ES256"])),
    "a payload that is text": token(payload=segment("sub")),
    "a payload of UTF-16": token(payload=segment('{"sub": "a"}'.encode("utf-16"))),
    "a byte order mark": token(payload=segment(b'\xef\xbb\xbf{"sub": "a"}')),
    "NaN": token(payload=segment(b'{"exp": NaN}')),
    "a member twice": token(payload=segment(b'{"sub": "a", "sub": "b"}')),
    "a member twice in the header": token(header=segment(b'{"alg": "none", "alg": "ES256"}')),
    "deep nesting": token(payload=segment(b'{"a":' + b"[" * 2000 + b"]" * 2000 + b"}")),
    "more than 8 KiB": token(payload=segment({"a": "a" * MAX_TOKEN})),
    "text beyond ASCII": "é.é.é".encode(),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    """S50: what another reader might take for another token is none."""
    assert parse(REFUSED[case]) is None


def test_taken() -> None:
    """S50: a token is header, payload, and a signature over both."""
    found = parse(GOOD)
    assert found == ({"alg": "ES256"}, {"sub": "a"}, HEADER + b"." + PAYLOAD, b"s" * 64)
    assert has_shape(GOOD)


def test_8_kib_are_a_token() -> None:
    """S50: the longest token there may be is one, a byte more is none."""
    for length, is_one in ((MAX_TOKEN, True), (MAX_TOKEN + 1, False)):
        text = token(signature=b"A" * (length - len(HEADER) - len(PAYLOAD) - 2))
        assert (len(text), has_shape(text)) == (length, is_one)


@given(st.binary(max_size=100) | st.from_regex(rb"[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*\.[A-Za-z0-9_=-]*"))
def test_any_bytes(text: bytes) -> None:
    """S50: whatever comes, it is a token or none, and what is one has the shape of one."""
    assert parse(text) is None or has_shape(text)


def issuer(**values: Any) -> Issuer:
    known: dict[str, Any] = {"issuer": "https://i", "kind": "session", "audience": frozenset("a")}
    return Issuer(**known | values)


def test_algorithms() -> None:
    """S41: the issuer's algorithms alone, in their exact case, and text alone."""
    ours = issuer(algorithms=("ES256", "RS256"))
    for name in ("ES256", "RS256"):
        assert algorithm_of({"alg": name}, ours) == name
    bad: list[Any] = ["none", "None", "NONE", "", "hs256", "HS256", "es256", "ES384", "RS256 "]
    for name in [*bad, None, 1, ["ES256"], {"ES256": 1}]:
        assert algorithm_of({"alg": name}, ours) is None
    assert algorithm_of({}, ours) is None


@pytest.mark.parametrize(
    "header",
    [{"crit": ["b64"]}, {"crit": []}, {"crit": None}, {"b64": True}, {"b64": False}, {"crit": "x"}],
)
def test_extensions(header: dict[str, Any]) -> None:
    """S43: a token with any `crit`, or any `b64`, is none."""
    assert algorithm_of({"alg": "ES256"} | header, issuer()) is None


@pytest.mark.parametrize(
    ("typ", "configured", "kind", "is_taken"),
    [
        (None, None, "session", True),
        ("JWT", None, "session", True),
        ("jwt", None, "oauth", True),
        ("application/JWT", None, "session", True),
        ("at+jwt", None, "oauth", True),
        ("application/at+jwt", None, "oauth", True),
        ("at+jwt", None, "session", False),
        ("at+jwt", "at+jwt", "oauth", True),
        ("AT+JWT", "at+jwt", "oauth", True),
        ("application/at+jwt", "at+jwt", "oauth", True),
        ("JWT", "at+jwt", "oauth", False),
        (None, "at+jwt", "oauth", False),
        ("logout+jwt", None, "session", False),
        ("dpop+jwt", None, "oauth", False),
        ("", None, "session", False),
        (1, None, "session", False),
        (["JWT"], None, "session", False),
    ],
)
def test_types(typ: Any, configured: str | None, kind: Any, is_taken: bool) -> None:
    """S49: a token is of the type that its issuer says, else a plain one or an access token of a
    client; logout tokens, proofs of possession and the like are none.
    """
    header = {"alg": "ES256"} | ({} if typ is None else {"typ": typ})
    ours = issuer(kind=kind, typ=configured)
    assert (algorithm_of(header, ours) == "ES256") is is_taken


def test_names_of_keys() -> None:
    """S44: `kid` is a name to look a key up by, and nothing but text."""
    assert key_name_of({"kid": "k1"}) == "k1"
    assert key_name_of({}) == ""
    bad: list[Any] = ["", None, 1, ["k1"], "k" * 257]
    assert [key_name_of({"kid": name}) for name in bad] == [None] * len(bad)
