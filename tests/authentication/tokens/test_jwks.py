"""Keys as issuers publish them: those that are of use."""

from __future__ import annotations

from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from keyrush.authentication.tokens.jwks import secret_key, usable
from keyrush.core.issuers import Issuer
from tests.support.issuer import b64, signer

ALL = ("ES256", "ES384", "RS256", "PS256", "EdDSA")


def issuer(*algorithms: str) -> Issuer:
    return Issuer(
        issuer="https://i", kind="session", audience=frozenset("a"), algorithms=algorithms or ALL
    )


def found(*published: Any, of: Issuer | None = None) -> list[tuple[str, str]]:
    return [(key.name, key.algorithm) for key in usable(published, of or issuer())]


def test_one_algorithm_each() -> None:
    """S42: a key is for the algorithm that it says, else for the first of the issuer's that fits
    it, and never for two.
    """
    published = [
        signer("ES256", "a").jwk,
        signer("ES384", "b").jwk,
        signer("EdDSA", "c").jwk,
        signer("RS256", "d").jwk,
        signer("RS256", "e", alg="PS256").jwk,
    ]
    assert found(*published) == [
        ("a", "ES256"),
        ("b", "ES384"),
        ("c", "EdDSA"),
        ("d", "RS256"),
        ("e", "PS256"),
    ]
    assert found(*published, of=issuer("ES256")) == [("a", "ES256")]
    assert found(*published, of=issuer("PS256", "RS256")) == [("d", "PS256"), ("e", "PS256")]


_EC = dict(signer("ES256", "a").jwk)

UNFIT: dict[str, Any] = {
    "no object": "key",
    "nothing": {},
    "for encryption": _EC | {"use": "enc"},
    "of no use that there is": _EC | {"use": None},
    "for signing": _EC | {"key_ops": ["sign"]},
    "for more than verifying": _EC | {"key_ops": ["verify", "sign"]},
    "for wrapping": _EC | {"key_ops": ["wrapKey"]},
    "operations that are no list": _EC | {"key_ops": "verify"},
    "for an algorithm of another kind": _EC | {"alg": "RS256"},
    "for an algorithm of another curve": _EC | {"alg": "ES384"},
    "for HS256": _EC | {"alg": "HS256"},
    "for none": _EC | {"alg": "none"},
    "an algorithm that is no text": _EC | {"alg": ["ES256"]},
    "a curve that it is not on": _EC | {"crv": "P-384"},
    "a curve that is no text": _EC | {"crv": ["P-256"]},
    "no curve": {name: it for name, it in _EC.items() if name != "crv"},
    "a point on no curve": _EC | {"x": _EC["y"]},
    "coordinates that are numbers": _EC | {"x": 7},
    "no coordinates": {"kty": "EC", "crv": "P-256", "kid": "a"},
    "a name that is no text": _EC | {"kid": 1},
    "a name that is null": _EC | {"kid": None},
    "a secret": {"kty": "oct", "kid": "a", "k": b64(b"k" * 32).decode()},
    "a secret for ES256": {"kty": "oct", "kid": "a", "k": "aa", "alg": "ES256"},
    "a private key": _EC | {"d": _EC["x"]},
    "a kind that is no text": _EC | {"kty": ["EC"]},
    "a kind that there is not": _EC | {"kty": "XYZ"},
    "secp256k1": _EC | {"crv": "secp256k1"},
}


@pytest.mark.parametrize("case", UNFIT)
def test_unfit(case: str) -> None:
    """S42, S51: a key that is not for verifying by what the issuer signs with is dropped, and the
    others are not concerned.
    """
    assert found(UNFIT[case], signer("ES256", "b").jwk) == [("b", "ES256")]


def test_weak_rsa() -> None:
    """S51: an RSA key below 2048 bits is dropped."""
    weak: Any = jwt.get_algorithm_by_name("RS256")
    made = rsa.generate_private_key(65537, 1024)  # noqa: S505  # that is what it is about
    jwk = weak.to_jwk(made.public_key(), as_dict=True)
    assert found({"kid": "a", "kty": jwk["kty"], "n": jwk["n"], "e": jwk["e"]}) == []


def test_doubled_names() -> None:
    """S51: of keys with one name none is taken, whatever the other one is for."""
    good = signer("ES256", "b").jwk
    assert found(_EC, signer("ES256", "a").jwk, good) == [("b", "ES256")]
    assert found(_EC, _EC, good) == [("b", "ES256")]
    assert found(_EC, {"kty": "oct", "kid": "a", "k": "aa"}, good) == [("b", "ES256")]
    nameless = signer("ES256", None).jwk
    assert found(nameless, good) == [("", "ES256"), ("b", "ES256")]
    assert found(nameless, nameless, good) == [("b", "ES256")]


def test_verifies() -> None:
    """S42: a key verifies what it has signed by its own algorithm, and nothing else."""
    for algorithm in ALL:
        made = signer(algorithm)
        (key,) = usable([made.jwk], issuer(algorithm))
        by = jwt.get_algorithm_by_name(algorithm)
        signature = by.sign(b"text", made.private)
        assert key.has_signed(b"text", signature)
        assert not key.has_signed(b"other", signature)
        for wrong in (b"", b"\0", signature[:-1], signature + b"\0", b"\0" * len(signature)):
            assert not key.has_signed(b"text", wrong)


def test_secret() -> None:
    """S48: a secret verifies HS256; nothing of it is in its repr."""
    key = secret_key(b"s" * 32)
    by = jwt.get_algorithm_by_name("HS256")
    assert key.has_signed(b"text", by.sign(b"text", b"s" * 32))
    assert not key.has_signed(b"text", by.sign(b"text", b"t" * 32))
    assert key.algorithm == "HS256"
    assert "ssss" not in repr(key)
    assert b64(b"s" * 32).decode() not in repr(key)
