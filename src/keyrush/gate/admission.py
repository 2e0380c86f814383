"""The way of a request through the gate: the hot path, and the cold one.

`begin` answers from memory and never blocks; where it can't, it gives a `Pending`, whose `finish`
may block, and whose `finish_async` may be awaited: see `finishing`. What comes of it is `Admitted`
or a `Refusal`; of a request to a resource, whose body is to be read first, see `exchange`. The
order: is the path in plain form, is it public, who calls, and then what `deciding` looks at. Where
keys are optional, a request without one is let through as from nobody.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from time import perf_counter

from keyrush.core.paths import is_plain
from keyrush.core.policy import ANY_KEY
from keyrush.core.refusal import Refusal
from keyrush.gate.anonymous import PendingUnknown, Request, Unknowns
from keyrush.gate.deciding import Admitted
from keyrush.gate.finishing import Finishing, Pending
from keyrush.gate.principal import Anonymous
from keyrush.usage.activity import Peer
from keyrush.wire.request import (
    INVALID,
    MISSING,
    NOTHING,
    CredentialHeaders,
    Header,
    Noted,
    is_preflight,
)
from keyrush.wire.resource_metadata import Document, ResourceMetadata

#: Where there are rules, and the path is not in plain form.
MALFORMED_PATH = Refusal("malformed_path")

_CORS = (
    "a CORS preflight was refused, as any request without a key: put your CORS middleware "
    "outside keyrush, so that it answers preflights itself; KEYRUSH_PREFLIGHT=pass hands them to "
    "the app, without a key"
)

_log = logging.getLogger("keyrush")

#: The answer to a request from memory, or what must be finished to have one.
Begun = Admitted | Refusal | Pending | PendingUnknown | Document


class Admission:
    """Lets requests through or refuses them. Safe to use from any thread or event loop.

    `passes_preflights` lets a CORS preflight through to the app, as from nobody (S76).
    """

    def __init__(
        self,
        finishing: Finishing,
        *,
        metadata: ResourceMetadata,
        credential_headers: CredentialHeaders,
        unknowns: Unknowns,
        passes_preflights: bool,
    ) -> None:
        self._finishing = finishing
        self.policy = finishing.policy
        self._verification = finishing.verification
        self._cache = finishing.cache
        self._addresses = finishing.addresses
        self._clock = finishing.clock
        self._at_once = finishing.deciding.at_once
        self._is_recorded = finishing.recording is not None
        self._metadata = metadata
        self._credential = credential_headers.credential
        self._noted = credential_headers.noted_in
        self._vary = credential_headers.vary
        self._unknowns = unknowns
        self._passes_preflights = passes_preflights
        self._advises_on_cors = not passes_preflights

    def begin(  # noqa: C901, PLR0917  # called for every request: a value, or a call, would cost
        self,
        method: str,
        path: str,
        raw_path: bytes | None,
        root: str,
        headers: Iterable[Header],
        query: bytes,
        peer: Peer = None,
        noted: Noted = NOTHING,
        before: Anonymous | None = None,
    ) -> Begun:
        """The answer to a request from memory alone, or what must be finished to have one.

        `path` is decoded, and may begin with `root`, the prefix that the server names;
        `raw_path` is as it was sent, where the server tells. `headers` may be only those that
        may hold a key, with the ones of a CORS preflight, and those that are noted. `query` is the
        raw query string, `peer` whoever is at the other end, `noted` what is noted already. With
        `before` it has passed this gate as from nobody, on its way to an app within the app.
        """
        began = perf_counter() if self._is_recorded else 0.0
        policy = self.policy
        if policy.has_rules and not is_plain(path, raw_path):
            return MALFORMED_PATH
        if policy.is_public(method, path, raw_path, root):
            sent = method, path, raw_path, root
            return self._on_public(sent, headers, peer, noted, before)
        credential = self._credential(headers, noted)
        if isinstance(credential, Refusal):
            if credential is MISSING:
                sent = method, path, raw_path, root
                return self._without_key(sent, headers, peer, noted, before)
            return credential
        entry = self._cache.get(credential.digest)
        now = self._clock()
        if entry is None:
            if self._verification.rules_out(credential, now):
                return INVALID
        elif now < entry.due or self._verification.note_use(entry, now):
            verified, noted = entry.verified, credential.noted
            needs, rule, is_mcp, address = ANY_KEY, "", False, ""
            if policy.has_rules:
                needs = policy.needs(method, path, root)
                rule, is_mcp = needs.rule, needs.resource is not None
                if needs.is_by_address:
                    address = self._addresses.of(peer, noted[2])
            came = verified, now, began, method, "" if rule else path, rule, peer, noted, is_mcp
            answer = self._at_once(verified, needs, query, came, now, address)
            if answer is not None:
                if not isinstance(answer, tuple):
                    self._finishing.note(came, answer)
                return answer
            request = method, path, root, query
            seen = now, began, peer
            return Pending(self._finishing, credential, request, seen, entry=entry, is_known=True)
        request = method, path, root, query
        seen = now, began, peer
        return Pending(self._finishing, credential, request, seen, is_known=entry is not None)

    def _on_public(
        self,
        request: Request,
        headers: Iterable[Header],
        peer: Peer,
        noted: Noted,
        before: Anonymous | None,
    ) -> Admitted | Refusal | PendingUnknown | Document:
        """The answer on a public path, whoever asks."""
        method, path, _, root = request
        if (document := self._metadata.answer(method, path, root)) is not None:
            return document
        return self._as_nobody(request, headers, peer, noted, before)

    def _without_key(
        self,
        request: Request,
        headers: Iterable[Header],
        peer: Peer,
        noted: Noted,
        before: Anonymous | None,
    ) -> Admitted | Refusal | PendingUnknown:
        """The answer to a request without a key, where one may be needed."""
        if self.policy.is_optional(*request):
            # With a key it would be another answer (S23).
            return self._as_nobody(request, headers, peer, noted, before, self._vary)
        if request[0] == "OPTIONS" and is_preflight(headers):
            if self._passes_preflights:
                return Anonymous(), []
            self._advise_on_cors()
        return MISSING

    def _as_nobody(  # as `begin`
        self,
        request: Request,
        headers: Iterable[Header],
        peer: Peer,
        noted: Noted,
        before: Anonymous | None,
        *vary: Header,
    ) -> Admitted | Refusal | PendingUnknown:
        """Let it through as from nobody, as far as that is not limited."""
        if not self._unknowns.has_limits:
            return Anonymous(), [*vary]
        forwarded_for = self._noted(headers, noted)[2]
        return self._unknowns.answer(request, peer, forwarded_for, vary, before)

    def _advise_on_cors(self) -> None:
        if self._advises_on_cors:
            self._advises_on_cors = False  # once
            _log.warning(_CORS)
