"""Tokens of sessions and OAuth clients: verified once by their issuer's key, then known by whom
they stand for. The second kind of credential.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from keyrush.authentication.protocol import Proof
from keyrush.authentication.tokens import jws
from keyrush.authentication.tokens.claims import Presented, presented
from keyrush.authentication.tokens.issuer_keys import IssuerKeys
from keyrush.authentication.tokens.jwks import Key
from keyrush.authentication.tokens.newcomers import Newcomers
from keyrush.core.identity import Claims, FoundLink
from keyrush.core.issuers import KINDS, Issuer
from keyrush.core.times import month_of
from keyrush.runtime.circuit import Circuit
from keyrush.store.protocol import Store
from keyrush.wire.request import Credential


class Evidence(NamedTuple):
    """What a token has said, whose signature was good, and which key has made it."""

    presented: Presented
    mark: bytes


class Tokens:
    """The tokens of `issuers`, each with its keys.

    `resources` are the audiences that are good for something beside an issuer's own.
    `environment` is what their callers have as theirs.
    """

    def __init__(
        self,
        issuers: Sequence[Issuer],
        keys: Mapping[Issuer, IssuerKeys],
        newcomers: Newcomers,
        store: Store,
        circuit: Circuit,
        *,
        resources: Collection[str] = (),
        environment: str | None = None,
    ) -> None:
        self._issuers = {(issuer.issuer, issuer.kind): issuer for issuer in issuers}
        self._keys = keys
        self._newcomers = newcomers
        self._store = store
        self._circuit = circuit
        self._resources = frozenset(resources)
        self._environment = environment

    def may_be_mine(self, credential: Credential) -> bool:
        """True for three segments of base64url (S50), which no key has."""
        return jws.has_shape(credential.text)

    def prove(
        self, credential: Credential, known: Evidence | None, now: int
    ) -> Proof[Evidence] | None:
        """Whose the token is, once its issuer has signed it.

        Raises:
            Later: Its key may be among those that are being fetched.
            Away: The store can't answer, its key is not known and the issuer does not answer, or
                too many have come for the first time.
        """
        if known is None or not self._holds(known, now):
            known = self._verified(credential.text, now)
        return None if known is None else self._proof(known, now)

    def renew(self, known: Evidence, now: int) -> Proof[Evidence] | None:
        """Whose it is now; the issuer is not asked.

        Raises:
            Away: The store can't answer.
        """
        return self._proof(known, now) if self._holds(known, now) else None

    def refresh(self) -> None:
        """Begin to fetch keys that are old; waits for nothing."""
        for keys in self._keys.values():
            keys.refresh()

    def _holds(self, known: Evidence, now: int) -> bool:
        """Whether a token whose signature was good is still good for all that its issuer says."""
        issuer = self._issuers[known.presented.issuer, known.presented.kind]
        return now < known.presented.ends_at and self._keys[issuer].has(known.mark)

    def _verified(self, text: bytes, now: int) -> Evidence | None:
        """What the token says, None where it is not good. All that can be told without its key is
        told first.
        """
        token = jws.parse(text)
        if token is None:
            return None
        for issuer in self._issuers_of(token.payload):
            algorithm = jws.algorithm_of(token.header, issuer)
            says = presented(token.payload, issuer, self._resources, now)
            if algorithm is not None and says is not None:
                key = self._key(issuer, algorithm, token)
                if key is None or not key.has_signed(token.signed, token.signature):
                    return None
                return Evidence(says, key.mark)
        return None

    def _issuers_of(self, payload: Mapping[str, object]) -> Iterator[Issuer]:
        """Whose token it says it is: one issuer may have both kinds."""
        name = payload.get("iss")
        for kind in KINDS:
            if isinstance(name, str) and (issuer := self._issuers.get((name, kind))):
                yield issuer

    def _key(self, issuer: Issuer, algorithm: str, token: jws.Token) -> Key | None:
        name = jws.key_name_of(token.header)
        return None if name is None else self._keys[issuer].find(algorithm, name)

    def _proof(self, known: Evidence, now: int) -> Proof[Evidence] | None:
        """The account that it stands for, if it has one, and no revocation is after it."""
        says = known.presented
        found = self._find(says, now)
        if found is None:
            issuer = self._issuers[says.issuer, says.kind]
            if not self._newcomers.admit(issuer, says.subject, now):
                return None
            found = self._find(says, now)
        if found is None or not found.link.admits(says.issued_at):
            return None
        claims = Claims(
            id=found.link.id,
            lineage=found.link.id,
            name=says.subject,
            prefix=says.kind,
            scopes=says.scopes,
            environment=self._environment,
            ends_at=says.ends_at,
            source=says.kind,
            audience=says.audience,
            subject=says.subject,
            session_id=says.session_id,
            client_id=says.client_id,
            issued_at=says.issued_at,
        )
        return Proof(claims, found.account, found.key_count, found.account_count, known)

    def _find(self, says: Presented, now: int) -> FoundLink | None:
        return self._circuit.call(self._store.find_link, says.issuer, says.subject, month_of(now))
