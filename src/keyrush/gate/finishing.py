"""How a request is finished that memory alone can't answer.

Who calls is looked up and verified, the limiter or a charge is waited for, or the request's turn:
the same steps, blocking and awaited.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from keyrush.authentication.cache import Cache, Entry
from keyrush.authentication.verification import Verification
from keyrush.core.calls import CallPolicy, Calls
from keyrush.core.identity import Verified
from keyrush.core.policy import Needs, Policy
from keyrush.core.refusal import Refusal
from keyrush.core.resources import Resource
from keyrush.gate.addresses import AddressSubjects
from keyrush.gate.deciding import Admitted, Deciding
from keyrush.gate.strangers import Strangers
from keyrush.gate.waiting import Asked, Client, Waiting
from keyrush.runtime.bridge import result_of
from keyrush.runtime.workers import Busy, Pool, Workers
from keyrush.usage.activity import Came, Peer, Recording
from keyrush.wire.request import INVALID, Credential

#: Says a client's address.
Address = Callable[[], str | None]

#: What comes of verifying a credential: the answer perhaps, or what has to be waited for.
_Came = Entry | Admitted | Refusal | Future[Entry | Refusal]

#: Of an address that sends unknown keys, and of all when no thread is free: seconds.
_SOON = 1

_TOO_MANY = Refusal("rate_limited", retry_after=_SOON)
BUSY = Refusal("unavailable", retry_after=_SOON)


class Finishing:
    """What requests of a gate are finished with. Safe to use from any thread or event loop.

    Look-ups are made in the threads of `looks_up_in`. What is refused to known callers is recorded,
    where there is a `recording`.
    """

    def __init__(
        self,
        deciding: Deciding,
        policy: Policy,
        call_policy: CallPolicy,
        *,
        cache: Cache,
        verification: Verification,
        workers: Workers,
        looks_up_in: Pool,
        strangers: Strangers,
        addresses: AddressSubjects,
        clock: Callable[[], int],
        recording: Recording | None = None,
    ) -> None:
        self.deciding = deciding
        self.policy = policy
        self.call_policy = call_policy
        self.cache = cache
        self.verification = verification
        self.workers = workers
        self.looks_up_in = looks_up_in
        #: Whether what follows a look-up is done in its thread.
        self.decides_there = looks_up_in == "io" and not deciding.is_async
        self.strangers = strangers
        self.addresses = addresses
        self.clock = clock
        self.recording = recording
        #: Those that wait for their turn.
        self.waiting = Waiting(deciding, clock)

    def entry_of(self, credential: Credential, now: int) -> Entry | None:
        """What is known of a credential, and holds."""
        entry = self.cache.get(credential.digest)
        holds = entry is not None and (now < entry.due or self.verification.note_use(entry, now))
        return entry if holds else None

    async def identify_async(
        self, credential: Credential, request: tuple[str, str, str, bytes], address: Address
    ) -> Verified | Refusal:
        """Who sends a credential, whatever for; nothing of it is counted or recorded. `request` is
        method, path, root and query.
        """
        came = self.clock(), 0.0, None
        pending = Pending(self, credential, request, came, is_known=False)
        return await pending.identify_async(address)

    def note(self, came: Came, answer: Admitted | Refusal) -> None:
        """Record an answer to a known caller, where it is a refusal."""
        if self.recording is not None and not isinstance(answer, tuple):
            self.recording.refuse(came, answer)


class Pending:
    """A request that memory alone can't answer. It holds the key: let go of it once answered."""

    __slots__ = (
        "_address",
        "_at",
        "_began",
        "_credential",
        "_entry",
        "_finishing",
        "_is_known",
        "_method",
        "_path",
        "_peer",
        "_query",
        "_root",
    )

    def __init__(
        self,
        finishing: Finishing,
        credential: Credential,
        request: tuple[str, str, str, bytes],
        came: tuple[int, float, Peer],
        *,
        entry: Entry | None = None,
        is_known: bool,
    ) -> None:
        self._finishing = finishing
        self._at, self._began, self._peer = came
        self._is_known = is_known  # verified here before, so that it is no stranger's
        self._credential = credential
        self._method, self._path, self._root, self._query = request
        self._address: str | None = None  # the client's, where it is looked for
        self._entry = entry  # where only the limiter or a charge has to be waited for

    def finish(self, address: Address) -> Admitted | Refusal:
        """The answer; may block. `address` says the client's, where that matters."""
        entry = self._found(address)
        if isinstance(entry, Refusal):
            return entry
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
            answer = self._finishing.deciding.at_once(
                verified, needs, self._query, came, address=self._subject(needs)
            )
        try:
            answer = answer or await self._decide_async(verified, needs, came, address, client)
        except Busy:
            answer = BUSY
        if answer is not None:
            self._finishing.note(came, answer)
        return answer

    # --- a resource, where what is needed depends on the body ---

    @property
    def resource(self) -> Resource | None:
        """The resource that it is for, whose body is to be read before it is decided on."""
        policy = self._finishing.policy
        return self._needs().resource if policy.has_resources else None

    def known(self, now: int) -> Verified | None:
        """Who calls, as memory has it by now; None where that is to be verified anew."""
        finishing = self._finishing
        entry = finishing.entry_of(self._credential, now)
        self._entry, self._is_known = entry, True
        return None if entry is None else entry.verified

    def identify(self, address: Address) -> Verified | Refusal:
        """Who calls, whatever for; may block."""
        return self._meant(self._found(address))

    async def identify_async(self, address: Address) -> Verified | Refusal:
        """`identify`, awaited."""
        entry: object = self._entry
        if entry is None:
            workers = self._finishing.workers
            try:
                entry = await self._verify_async(address, partial(self._verify, workers))
            except Busy:
                return BUSY
        return self._meant(entry)

    def _again(self, address: Address) -> Verified | Refusal:
        """Who calls, after a while in which the key may have ended; may block."""
        return self.known(self._finishing.clock()) or self.identify(address)

    async def _again_async(self, address: Address) -> Verified | Refusal:
        return self.known(self._finishing.clock()) or await self.identify_async(address)

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
        deciding = self._finishing.deciding
        asked = verified, needs, self._query, came, self._subject(needs)
        if needs.wait:
            verify = partial(self._again, address)
            return self._finishing.waiting.decide(asked, deciding.decide, verify)
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
        answer = self._finishing.deciding.at_once(
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
        policy, place = self._finishing.call_policy, (self._method, self._path, self._root)
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
        return await self._finishing.waiting.decide_async(
            asked, self._attempt_in_turn, verify, client
        )

    async def _attempt_in_turn(self, *asked: *Asked) -> Admitted | Refusal:
        verified, needs, query, came, address = asked
        at_once = self._finishing.deciding.at_once
        answer = at_once(verified, needs, query, came, address=address, is_its_turn=True)
        return answer or await self._attempt_async(*asked)

    async def _attempt_async(self, *asked: *Asked) -> Admitted | Refusal:
        deciding = self._finishing.deciding
        if deciding.is_async and (answer := await deciding.awaited(*asked)):
            return answer
        return await self._finishing.workers.run("io", deciding.decide, *asked, undo=deciding.undo)

    def _subject(self, needs: Needs) -> str:
        """The subject of the client's address, where limits count by it."""
        if not needs.is_by_address:
            return ""
        return self._finishing.addresses.of(self._peer, self._credential.noted[2])

    async def _verify_async(
        self, address: Address, verify: Callable[[], _Came]
    ) -> Entry | Admitted | Refusal:
        """The verified key, or the answer where `verify` brings one already."""
        finishing = self._finishing
        if not self._enter(address):
            return _TOO_MANY
        try:
            came = await finishing.workers.run(
                finishing.looks_up_in, verify, undo=finishing.deciding.undo
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
        finishing = self._finishing
        entry = self._verify(finishing.workers)
        if isinstance(entry, Entry) and finishing.decides_there and not self._needs().wait:
            return self._decide(entry.verified, address)
        return entry

    def _enter(self, address: Address) -> bool:
        """Whether a look-up may be made for the address; it ends with `_verify`."""
        if self._is_known:
            return True
        self._address = address()
        return self._finishing.strangers.enter(self._address)

    def _leave(self, *, is_unknown: bool) -> None:
        if not self._is_known:
            self._finishing.strangers.leave(self._address, is_unknown=is_unknown)

    def _found(self, address: Address) -> Entry | Refusal:
        """The key's entry, verified where it is not known; may block."""
        if self._entry is not None:
            return self._entry
        if not self._enter(address):
            return _TOO_MANY
        entry = self._verify(None)
        assert not isinstance(entry, Future)  # noqa: S101  # without workers it waits for all
        return entry

    def _verify(self, workers: Workers | None) -> Entry | Refusal | Future[Entry | Refusal]:
        """The key's entry; with `workers`, what has to be waited for."""
        entry: Entry | Refusal | Future[Entry | Refusal] | None = None
        try:
            entry = self._finishing.verification.verify(self._credential, workers)
            return entry
        finally:
            self._leave(is_unknown=entry is INVALID)

    def _decide(self, verified: Verified, address: Address) -> Admitted | Refusal:
        needs = self._needs()
        came = self.came(verified, needs)
        answer = self.decide(verified, needs, came, address)
        self._finishing.note(came, answer)
        return answer

    def _needs(self) -> Needs:
        return self._finishing.policy.needs(self._method, self._path, self._root)
