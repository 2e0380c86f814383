"""The way of a request through the gate: the hot path, and the cold one.

`begin` answers from memory and never blocks; where it can't, it gives a `Pending`, whose
`finish` may block, and whose `finish_async` may be awaited. What comes of it is `Admitted` or a
`Refusal`; of a request to a resource, whose body is to be read first, see `exchange`. The order:
is the path in plain form, is it public, who calls, and then what `deciding` looks at. Where keys
are optional, a request without one is let through as from nobody.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from time import perf_counter

from keyrush.authentication.cache import Cache, Entry
from keyrush.authentication.verification import Verification
from keyrush.core.calls import CallPolicy, Calls
from keyrush.core.identity import Verified
from keyrush.core.paths import is_plain
from keyrush.core.policy import ANY_KEY, UNRULED, Needs, Policy
from keyrush.core.refusal import Refusal
from keyrush.core.resources import Resource
from keyrush.gate.addresses import AddressSubjects
from keyrush.gate.anonymous import PendingUnknown, Request, Unknowns
from keyrush.gate.deciding import Admitted, Deciding
from keyrush.gate.principal import Anonymous, Caller, Principal
from keyrush.gate.strangers import Strangers
from keyrush.gate.waiting import Asked, Client, Waiting
from keyrush.gate.weighing import Weighing
from keyrush.runtime.bridge import result_of
from keyrush.runtime.workers import Busy, Pool, Workers
from keyrush.usage.activity import Came, Peer, Recording
from keyrush.wire.request import (
    INVALID,
    MISSING,
    NOTHING,
    Credential,
    CredentialHeaders,
    Header,
    Noted,
    is_preflight,
)
from keyrush.wire.resource_metadata import Document, ResourceMetadata

#: Says a client's address.
Address = Callable[[], str | None]

#: What comes of verifying a credential: the answer perhaps, or what has to be waited for.
_Came = Entry | Admitted | Refusal | Future[Entry | Refusal]

#: Where there are rules, and the path is not in plain form.
MALFORMED_PATH = Refusal("malformed_path")

#: Of an address that sends unknown keys, and of all when no thread is free: seconds.
_SOON = 1

_TOO_MANY = Refusal("rate_limited", retry_after=_SOON)
BUSY = Refusal("unavailable", retry_after=_SOON)

_CORS = (
    "a CORS preflight was refused, as any request without a key: put your CORS middleware "
    "outside keyrush, so that it answers preflights itself; KEYRUSH_PREFLIGHT=pass hands them to "
    "the app, without a key"
)

_log = logging.getLogger("keyrush")


class Pending:
    """A request that memory alone can't answer. It holds the key: let go of it once answered."""

    __slots__ = (
        "_address",
        "_admission",
        "_at",
        "_began",
        "_credential",
        "_entry",
        "_is_known",
        "_method",
        "_path",
        "_peer",
        "_query",
        "_root",
    )

    def __init__(
        self,
        admission: Admission,
        credential: Credential,
        request: tuple[str, str, str, bytes],
        came: tuple[int, float, Peer],
        *,
        entry: Entry | None = None,
        is_known: bool,
    ) -> None:
        self._admission = admission
        self._at, self._began, self._peer = came
        self._is_known = is_known  # verified here before, so that it is no stranger's
        self._credential = credential
        self._method, self._path, self._root, self._query = request
        self._address: str | None = None  # the client's, where it is looked for
        self._entry = entry  # where only the limiter or a charge has to be waited for

    def finish(self, address: Address) -> Admitted | Refusal:
        """The answer; may block. `address` says the client's, where that matters."""
        entry: object = self._entry
        if entry is None:
            if not self._enter(address):
                return _TOO_MANY
            entry = self._verify(None)
        if isinstance(entry, Refusal):
            return entry
        assert isinstance(entry, Entry)  # noqa: S101  # without workers it waits for all
        return self._decide(entry.verified, address)

    async def finish_async(
        self, address: Address, client: Client | None = None
    ) -> Admitted | Refusal | None:
        """The answer, awaited; what blocks is done in threads. None where the `client` has left
        while it waited for its turn.
        """
        try:
            entry: Entry | Admitted | Refusal | None = self._entry
            if entry is None:
                entry = await self._verify_async(address, partial(self._verify_and_decide, address))
        except Busy:
            return BUSY
        if not isinstance(entry, Entry):
            return entry
        verified, needs = entry.verified, self._needs()
        came = self.came(verified, needs)
        answer: Admitted | Refusal | None = None
        if self._entry is None:  # else that was tried
            answer = self._admission.deciding.at_once(
                verified, needs, self._query, came, address=self._subject(needs)
            )
        try:
            answer = answer or await self._decide_async(verified, needs, came, address, client)
        except Busy:
            answer = BUSY
        if answer is not None:
            self._admission.note(came, answer)
        return answer

    # --- a resource, where what is needed depends on the body ---

    @property
    def resource(self) -> Resource | None:
        """The resource that it is for, whose body is to be read before it is decided on."""
        policy = self._admission.policy
        return self._needs().resource if policy.has_resources else None

    def known(self, now: int) -> Verified | None:
        """Who calls, as memory has it by now; None where that is to be verified anew."""
        admission = self._admission
        entry = admission.entry_of(self._credential, now)
        self._entry, self._is_known = entry, True
        return None if entry is None else entry.verified

    def identify(self, address: Address) -> Verified | Refusal:
        """Who calls, whatever for; may block."""
        entry: object = self._entry
        if entry is None:
            if not self._enter(address):
                return _TOO_MANY
            entry = self._verify(None)
        return self._meant(entry)

    async def identify_async(self, address: Address) -> Verified | Refusal:
        """`identify`, awaited."""
        entry: object = self._entry
        if entry is None:
            workers = self._admission.workers
            try:
                entry = await self._verify_async(address, partial(self._verify, workers))
            except Busy:
                return BUSY
        return self._meant(entry)

    def _again(self, address: Address) -> Verified | Refusal:
        """Who calls, after a while in which the key may have ended; may block."""
        return self.known(self._admission.now()) or self.identify(address)

    async def _again_async(self, address: Address) -> Verified | Refusal:
        return self.known(self._admission.now()) or await self.identify_async(address)

    def _meant(self, entry: object) -> Verified | Refusal:
        if isinstance(entry, Refusal):
            return entry
        assert isinstance(entry, Entry)  # noqa: S101  # nothing else comes of verifying
        verified = entry.verified
        if verified.session is not None and not self._needs().are_for(verified.session):
            return INVALID
        return verified

    def decide(
        self, verified: Verified, needs: Needs, came: Came, address: Address
    ) -> Admitted | Refusal:
        """The answer to a caller, now that it is known what is needed; may block."""
        deciding = self._admission.deciding
        asked = verified, needs, self._query, came, self._subject(needs)
        if needs.wait:
            verify = partial(self._again, address)
            return self._admission.waiting.decide(asked, deciding.decide, verify)
        return deciding.decide(*asked)

    async def decide_async(
        self,
        verified: Verified,
        needs: Needs,
        came: Came,
        address: Address,
        client: Client | None,
    ) -> Admitted | Refusal | None:
        """`decide`, awaited; None where the `client` has left while it waited for its turn."""
        answer = self._admission.deciding.at_once(
            verified, needs, self._query, came, address=self._subject(needs)
        )
        try:
            return answer or await self._decide_async(verified, needs, came, address, client)
        except Busy:
            return BUSY

    def came(self, verified: Verified, needs: Needs) -> Came:
        """The request as activity has it."""
        return (
            verified,
            self._at,
            self._began,
            self._method,
            "" if needs.rule else self._path,
            needs.rule,
            self._peer,
            self._credential.noted,
            needs.resource is not None,
        )

    def needs_of(self, resource: Resource, asked: Calls | None) -> Needs:
        """What is needed for the messages of a body, or where there is none."""
        policy, place = self._admission.call_policy, (self._method, self._path, self._root)
        if asked is None:
            return policy.needs(resource, *place)
        return policy.needs_of(resource, *place, asked)

    # --- how it is done ---

    async def _decide_async(
        self,
        verified: Verified,
        needs: Needs,
        came: Came,
        address: Address,
        client: Client | None,
    ) -> Admitted | Refusal | None:
        asked = verified, needs, self._query, came, self._subject(needs)
        if not needs.wait:
            return await self._attempt_async(*asked)
        verify = partial(self._again_async, address)
        return await self._admission.waiting.decide_async(
            asked, self._attempt_in_turn, verify, client
        )

    async def _attempt_in_turn(self, *asked: *Asked) -> Admitted | Refusal:
        verified, needs, query, came, address = asked
        at_once = self._admission.deciding.at_once
        answer = at_once(verified, needs, query, came, address=address, is_its_turn=True)
        return answer or await self._attempt_async(*asked)

    async def _attempt_async(self, *asked: *Asked) -> Admitted | Refusal:
        deciding = self._admission.deciding
        if deciding.is_async and (answer := await deciding.awaited(*asked)):
            return answer
        return await self._admission.workers.run("io", deciding.decide, *asked, undo=deciding.undo)

    def _subject(self, needs: Needs) -> str:
        """The subject of the client's address, where limits count by it."""
        if not needs.is_by_address:
            return ""
        return self._admission.addresses.of(self._peer, self._credential.noted[2])

    async def _verify_async(
        self, address: Address, verify: Callable[[], _Came]
    ) -> Entry | Admitted | Refusal:
        """The verified key, or the answer where `verify` brings one already."""
        admission = self._admission
        if not self._enter(address):
            return _TOO_MANY
        try:
            came = await admission.workers.run(
                admission.looks_up_in, verify, undo=admission.deciding.undo
            )
        except Busy:
            self._leave(is_unknown=False)
            raise
        if isinstance(came, Future):
            return await result_of(came)
        return came

    def _verify_and_decide(self, address: Address) -> _Came:
        """In one go, where no proof is needed, the limiter is not better awaited, and who waits
        for it, or for a turn, keeps nobody from a look-up.
        """
        admission = self._admission
        entry = self._verify(admission.workers)
        if isinstance(entry, Entry) and admission.decides_there and not self._needs().wait:
            return self._decide(entry.verified, address)
        return entry

    def _enter(self, address: Address) -> bool:
        """Whether a look-up may be made for the address; it ends with `_verify`."""
        if self._is_known:
            return True
        self._address = address()
        return self._admission.strangers.enter(self._address)

    def _leave(self, *, is_unknown: bool) -> None:
        if not self._is_known:
            self._admission.strangers.leave(self._address, is_unknown=is_unknown)

    def _verify(self, workers: Workers | None) -> Entry | Refusal | Future[Entry | Refusal]:
        """The key's entry; with `workers`, what has to be waited for."""
        entry: Entry | Refusal | Future[Entry | Refusal] | None = None
        try:
            entry = self._admission.verification.verify(self._credential, workers)
            return entry
        finally:
            self._leave(is_unknown=entry is INVALID)

    def _decide(self, verified: Verified, address: Address) -> Admitted | Refusal:
        needs = self._needs()
        came = self.came(verified, needs)
        answer = self.decide(verified, needs, came, address)
        self._admission.note(came, answer)
        return answer

    def _needs(self) -> Needs:
        return self._admission.policy.needs(self._method, self._path, self._root)


#: The answer to a request from memory, or what must be finished to have one.
Begun = Admitted | Refusal | Pending | PendingUnknown | Document


class Admission:
    """Lets requests through or refuses them. Safe to use from any thread or event loop.

    Look-ups are made in the threads of `looks_up_in`. `passes_preflights` lets a CORS preflight
    through to the app, as from nobody (S76). What is refused to known callers is recorded, where
    there is a `recording`.
    """

    def __init__(
        self,
        deciding: Deciding,
        policy: Policy,
        call_policy: CallPolicy,
        *,
        weighing: Weighing,
        metadata: ResourceMetadata,
        credential_headers: CredentialHeaders,
        cache: Cache,
        verification: Verification,
        workers: Workers,
        looks_up_in: Pool,
        strangers: Strangers,
        addresses: AddressSubjects,
        unknowns: Unknowns,
        clock: Callable[[], int],
        passes_preflights: bool,
        recording: Recording | None = None,
    ) -> None:
        self.deciding = deciding
        self._recording = recording
        self._weighing = weighing
        self.policy = policy
        self.call_policy = call_policy
        self._metadata = metadata
        self.verification = verification
        self.workers = workers
        self.looks_up_in = looks_up_in
        self.decides_there = looks_up_in == "io" and not deciding.is_async
        self.strangers = strangers
        self.addresses = addresses
        self._unknowns = unknowns
        self._credential = credential_headers.credential
        self._noted = credential_headers.noted_in
        self._vary = credential_headers.vary
        self._cache = cache
        self.now = self._clock = clock
        #: Those that wait for their turn.
        self.waiting = Waiting(deciding, clock)
        self._passes_preflights = passes_preflights
        self._advises_on_cors = not passes_preflights
        self._at_once = deciding.at_once

    async def identify_async(
        self, credential: Credential, request: tuple[str, str, str, bytes], address: Address
    ) -> Verified | Refusal:
        """Who sends a credential, whatever for; nothing of it is counted or recorded. `request` is
        method, path, root and query.
        """
        came = self._clock(), 0.0, None
        pending = Pending(self, credential, request, came, is_known=False)
        return await pending.identify_async(address)

    def note(self, came: Came, answer: Admitted | Refusal) -> None:
        """Record an answer to a known caller, where it is a refusal."""
        if self._recording is not None and not isinstance(answer, tuple):
            self._recording.refuse(came, answer)

    def entry_of(self, credential: Credential, now: int) -> Entry | None:
        """What is known of a credential, and holds."""
        entry = self._cache.get(credential.digest)
        holds = entry is not None and (now < entry.due or self.verification.note_use(entry, now))
        return entry if holds else None

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
        began = perf_counter() if self._recording is not None else 0.0
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
            if self.verification.rules_out(credential, now):
                return INVALID
        elif now < entry.due or self.verification.note_use(entry, now):
            verified, noted = entry.verified, credential.noted
            needs, rule, is_mcp, address = ANY_KEY, "", False, ""
            if policy.has_rules:
                needs = policy.needs(method, path, root)
                rule, is_mcp = needs.rule, needs.resource is not None
                if needs.is_by_address:
                    address = self.addresses.of(peer, noted[2])
            came = verified, now, began, method, "" if rule else path, rule, peer, noted, is_mcp
            answer = self._at_once(verified, needs, query, came, now, address)
            if answer is not None:
                if not isinstance(answer, tuple):
                    self.note(came, answer)
                return answer
            request = method, path, root, query
            seen = now, began, peer
            return Pending(self, credential, request, seen, entry=entry, is_known=True)
        request = method, path, root, query
        return Pending(self, credential, request, (now, began, peer), is_known=entry is not None)

    def within(  # noqa: PLR0917  # as `begin`
        self,
        caller: Caller,
        method: str,
        path: str,
        raw_path: bytes | None,
        root: str,
        query: bytes,
    ) -> Refusal | Needs:
        """What the rules say of a request that has passed this gate already, on its way to an
        app in the app: a refusal, or what it needs, which is to be taken. It is counted once, but
        never without its rules.
        """
        policy = self.policy
        if policy.has_rules and not is_plain(path, raw_path):
            return MALFORMED_PATH
        if policy.is_public(method, path, raw_path, root) or not isinstance(caller, Principal):
            return ANY_KEY
        needs = policy.needs(method, path, root)
        if caller.resource is not None:  # whose body is read, and decided on as a whole
            return ANY_KEY
        if needs.resource is not None:
            return UNRULED
        session = caller.verified.session
        if session is not None and not needs.are_for(session):
            return INVALID
        if needs is ANY_KEY:
            return needs
        return policy.authorise(caller.verified, needs, query) or needs

    def take_within(self, caller: Principal, needs: Needs) -> None:
        """Take what `within` says is needed, as far as it has not been taken; may block.

        Raises:
            Refused: Why that can't be.
        """
        if needs.has_limits:
            self._weighing.within(caller, needs, self._address_of(caller, needs))
        if needs.credits > caller.charged:
            caller.charge(needs.credits - caller.charged)

    async def take_within_async(self, caller: Principal, needs: Needs) -> None:
        """`take_within`, awaited."""
        if needs.has_limits:
            await self._weighing.within_async(caller, needs, self._address_of(caller, needs))
        if needs.credits > caller.charged:
            await caller.charge_async(needs.credits - caller.charged)

    def _address_of(self, caller: Principal, needs: Needs) -> str:
        """The subject of the client's, where limits count by it."""
        if caller.came is None or not needs.is_by_address:
            return ""
        return self.addresses.of(caller.came[6], caller.came[7][2])

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
