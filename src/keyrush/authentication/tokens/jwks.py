"""Keys as issuers publish them (RFC 7517): those that are of use, and what they verify."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any, NamedTuple

import jwt

from keyrush.core.issuers import HS256, Issuer
from keyrush.runtime.logs import log_fault

#: By kind and curve of a key, the algorithms that may be its own (RFC 7518 §3.1, RFC 8037 §3.1).
_FITTING: Mapping[tuple[object, object], tuple[str, ...]] = {
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
    ("RSA", None): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
}

#: Bits; a shorter RSA key is no key (RFC 7518 §3.3).
_MIN_RSA = 2048

#: Members of the private part of a key (RFC 7518 §6): whoever publishes those has no secret.
_PRIVATE = frozenset({"d", "k", "p", "q", "dp", "dq", "qi", "oth"})


class Key(NamedTuple):
    """A key of an issuer. `mark` tells it from all others."""

    name: str  #: its `kid`; "" where it has none
    algorithm: str  #: the one by which it verifies (S42)
    mark: bytes
    material: jwt.PyJWK

    def has_signed(self, signed: bytes, signature: bytes) -> bool:
        """Whether the signature over `signed` is this key's."""
        return self.material.Algorithm.verify(signed, self.material.key, signature) is True


def usable(published: Iterable[Any], issuer: Issuer) -> list[Key]:
    """Those of the published keys that are for verifying by one of the issuer's algorithms, each
    of another name (S51).
    """
    found = [key for jwk in published if (key := _key(jwk, issuer)) is not None]
    named = Counter(_name(jwk) for jwk in published)  # also those that are of no use
    return [key for key in found if named[key.name] == 1]


def secret_key(secret: bytes) -> Key:
    """The key that an issuer shares with us (S48)."""
    encoded = urlsafe_b64encode(secret).rstrip(b"=").decode("ascii")
    return Key("", HS256, b"", jwt.PyJWK({"kty": "oct", "k": encoded}, HS256))


def _name(jwk: Any) -> object:
    name = jwk.get("kid", "") if isinstance(jwk, dict) else None
    return name if isinstance(name, str) else None


def _key(jwk: Any, issuer: Issuer) -> Key | None:
    name = _name(jwk)
    if not isinstance(name, str) or _PRIVATE & jwk.keys() or not _verifies(jwk):
        return None
    algorithm = _algorithm(jwk, issuer)
    if algorithm is None:
        return None
    try:
        material = jwt.PyJWK(jwk, algorithm)
    except Exception as error:  # whatever one key is, the others are not concerned
        log_fault(f"a key of {issuer.issuer} is of no use", error)
        return None
    if jwk["kty"] == "RSA" and material.key.key_size < _MIN_RSA:
        return None
    mark = sha256(json.dumps(jwk, sort_keys=True).encode()).digest()
    return Key(name, algorithm, mark, material)


def _verifies(jwk: Mapping[str, Any]) -> bool:
    """Whether the key is for verifying, by what it says itself (RFC 7517 §4.2, §4.3)."""
    use, operations = jwk.get("use", "sig"), jwk.get("key_ops", ["verify"])
    return (use, operations) == ("sig", ["verify"])


def _algorithm(jwk: Mapping[str, Any], issuer: Issuer) -> str | None:
    """The algorithm of a key: its own, else the first of the issuer's that fits it; None where
    there is none.
    """
    kind = jwk.get("kty")
    if not isinstance(kind, str) or not isinstance(curve := jwk.get("crv"), str | None):
        return None
    fitting = _FITTING.get((kind, curve), ())
    own = jwk.get("alg")
    for algorithm in issuer.algorithms if own is None else (own,):
        if algorithm in issuer.algorithms and algorithm in fitting:
            return algorithm
    return None
