"""A request to a resource of MCP, on its way through the gate.

By its headers alone it is told who asks; then its body is read, priced by what it says, and held
against the headers; then it is decided on as any request is. So whoever is not let in is refused
before anything is read.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from keyrush.core.calls import BODILESS, Call, Calls, not_taken
from keyrush.core.identity import Verified
from keyrush.core.policy import Needs
from keyrush.core.refusal import UNAVAILABLE, Refusal
from keyrush.core.resources import AMBIGUOUS, Resource
from keyrush.core.times import SECOND
from keyrush.errors import Away
from keyrush.gate.admission import MALFORMED_PATH
from keyrush.gate.called import Called
from keyrush.gate.deciding import Admitted
from keyrush.gate.finishing import BUSY, Address, Pending
from keyrush.gate.mcp_sessions import session_name
from keyrush.gate.principal import Caller, Charge, Principal
from keyrush.gate.waiting import Client
from keyrush.runtime.workers import Busy
from keyrush.usage.activity import Came
from keyrush.wire import jsonrpc, mcp_headers
from keyrush.wire.outcomes import Outcomes
from keyrush.wire.request import Header

if TYPE_CHECKING:  # which makes no exchange, but whoever has one has a gate
    from keyrush.gate.gate import Gate

#: Bytes of a body that is read on the event loop itself; longer ones are in a thread.
_AT_ONCE = 32_768

#: Milliseconds for which it holds who asks: a body may take hours, and its key end meanwhile.
_HOLDS = SECOND

_CHARSET = re.compile(rb"""charset\s*=\s*["']?([^\s;"',]*)""")

#: What UTF-8 is called, and what is a part of it.
_UTF_8 = frozenset({b"utf-8", b"utf8", b"us-ascii", b"ascii"})

_PLAIN = frozenset({b"", b"identity"})

#: The header that names a session, and how one may be spelled (visible ASCII).
SESSION_ID = b"mcp-session-id"
_SESSION = re.compile(rb"[\x21-\x7e]{1,1024}").fullmatch


def _nowhere() -> str | None:
    return None


NO_SESSION = Refusal("not_found")
ID_IN_USE = Refusal("id_in_use")


class Exchange:
    """One request to `resource`, with its `headers`, names in any case. `identify` comes first,
    then `decide`, with the body where it may have one (`reads_body`).
    """

    def __init__(
        self, gate: Gate, pending: Pending, resource: Resource, method: str, headers: list[Header]
    ) -> None:
        self._gate = gate
        self._pending: Pending | None = pending  # which holds the key, until it is decided on
        self._resource = resource
        self._headers = headers
        self._verified: Verified | None = None
        self._verified_at = 0
        self._address: Address = _nowhere
        self._asked: Calls | None = None  # by the body, once it is read
        self._prices: tuple[int, ...] = ()
        self.called: Called | None = None  #: what that is to activity
        self._session: str | None = None  # what stands for the one that it names
        self._is_foreign: bool | None = None  # the session is not the caller's
        self._taken: tuple[str, ...] = ()  # the ids of its calls, in the session
        self._is_given_up = False  # by the client, while it waited
        self._ends_session = method.upper() == "DELETE"
        self.reads_body = method.upper() not in BODILESS
        self.max_body = gate.settings.mcp_max_body

    # --- who asks ---

    def identify(self, address: Address) -> Refusal | None:
        """Why nothing of the body is read, for what the headers say; may block."""
        if self._resource is AMBIGUOUS:
            return MALFORMED_PATH
        self._address = address
        refusal = self._known(self._way.identify(address))
        if refusal is None and self._session is not None and self._is_foreign is None:
            refusal = self._noted(self._look_up())
        return refusal

    async def identify_async(self, address: Address) -> Refusal | None:
        """`identify`, awaited."""
        if self._resource is AMBIGUOUS:
            return MALFORMED_PATH
        self._address = address
        refusal = self._known(await self._way.identify_async(address))
        if refusal is None and self._session is not None and self._is_foreign is None:
            try:
                refusal = await self._gate.workers.run("io", self._look_up)
            except Busy:
                refusal = BUSY
            self._noted(refusal)
        return refusal

    def _known(self, verified: Verified | Refusal) -> Refusal | None:
        if isinstance(verified, Refusal):
            return verified
        self._verified, self._verified_at = verified, self._gate.clock()
        refusal = self._gate.deciding.come_to_resource(verified)
        if refusal is None:
            self._name_session()
        return self._noted(refusal)

    # --- in which session ---

    def _name_session(self) -> None:
        """See whose session it is, as far as that can be told from memory."""
        ids = [value.strip() for name, value in self._headers if name.lower() == SESSION_ID]
        if not ids:
            return
        if len(ids) > 1 or self._resource.stateless or not _SESSION(ids[0]):
            self._is_foreign = True
            return
        self._session = session_name(self._resource, ids[0])
        owner = self._gate.mcp_sessions.known(self._session)
        if owner is not None:
            self._is_foreign = owner != self._caller.account_id

    def _look_up(self) -> Refusal | None:
        """The same from the store: 503 where that is away."""
        assert self._session is not None  # noqa: S101  # it is what is looked up
        account_id = self._caller.account_id
        try:
            owner = self._gate.mcp_sessions.owner(self._session, account_id)
        except Away:
            return UNAVAILABLE
        self._is_foreign = owner != account_id
        return None

    def opens(self, headers: list[Header]) -> str | None:
        """The name of the session that an answer with these headers begins, if it does."""
        ids = [value.strip() for name, value in headers if name.lower() == SESSION_ID]
        if not ids or self._resource.stateless:
            return None
        name = session_name(self._resource, ids[0])
        return None if name == self._session else name

    def note_session(self, name: str) -> None:
        """The caller has opened a session; may block."""
        self._gate.mcp_sessions.open(name, self._caller.account_id)

    # --- what for ---

    def decide(self, body: bytes | Refusal | None) -> Admitted | Refusal:
        """The answer, by the body, or by why there is none; may block."""
        if self._is_old():
            verified = self._way.identify(self._address)
            if isinstance(verified, Refusal):
                return verified
            self._verified = verified
        needs = self._read(body)
        came = self._came(needs)
        answer = None
        try:
            answer = self._let_go().decide(self._caller, needs, came, self._address)
        finally:
            self._decided(answer)
        return answer

    async def decide_async(
        self, body: bytes | Refusal | None, client: Client | None = None
    ) -> Admitted | Refusal | None:
        """`decide`, awaited; None where the `client` has left while it waited for its turn."""
        if self._is_old():
            verified = await self._way.identify_async(self._address)
            if isinstance(verified, Refusal):
                return verified
            self._verified = verified
        answer = None
        try:
            if isinstance(body, bytes) and len(body) > _AT_ONCE:
                needs = await self._gate.workers.run("io", self._read, body)
            else:
                needs = self._read(body)
            came = self._came(needs)
            way, caller = self._let_go(), self._caller
            answer = await way.decide_async(caller, needs, came, self._address, client)
        except Busy:
            answer = BUSY
        finally:
            self._decided(answer)
        return answer

    def _decided(self, answer: Admitted | Refusal | None) -> None:
        if not isinstance(answer, tuple):
            self.end(is_answered=True)  # by the gate
            self._noted(answer)
        elif self._session is not None:
            self._give_up(self._session)

    def _give_up(self, session: str) -> None:
        """Note which calls this request ends."""
        unanswered = self._gate.unanswered
        if self._ends_session:
            unanswered.give_up_session(session)
        elif self._asked is not None:
            ids = [call.cancels for call in self._asked.calls if call.cancels is not None]
            if ids:
                unanswered.give_up(f"{session} {one}" for one in ids)

    def _is_old(self) -> bool:
        """Whether it is to be verified anew who asks, as it took long to read what for."""
        now = self._gate.clock()
        if now - self._verified_at < _HOLDS:
            return False
        verified = self._way.known(now)
        self._verified = verified or self._verified
        return verified is None

    @property
    def _caller(self) -> Verified:
        assert self._verified is not None  # noqa: S101  # `identify` comes first
        return self._verified

    @property
    def _way(self) -> Pending:
        assert self._pending is not None  # noqa: S101  # it is decided on once
        return self._pending

    def _let_go(self) -> Pending:
        """What is known of the key is nobody's business any more."""
        pending = self._way
        self._pending, self._headers = None, []
        return pending

    def _read(self, body: bytes | Refusal | None) -> Needs:
        resource = self._resource
        if isinstance(body, Refusal):
            return not_taken(resource, body)
        if body is None:
            return self._way.needs_of(resource, None)
        asked = jsonrpc.read(body) if self._is_utf_8() else jsonrpc.NOT_JSON
        if isinstance(asked, Refusal):
            return not_taken(resource, asked)
        self._asked = asked
        if wrong := mcp_headers.mismatch(self._headers, asked):
            return not_taken(resource, wrong)
        needs = self._way.needs_of(resource, asked)
        self._prices = needs.prices or ()
        if needs.refused is None and not self._take_ids(asked):
            return not_taken(resource, ID_IN_USE)
        return needs

    def _take_ids(self, asked: Calls) -> bool:
        """Whether no other call of the session has one of these ids, whatever its type."""
        if self._session is None:
            return True
        ids = [call.id for call in asked.calls if call.method is not None and call.id is not None]
        names = tuple(dict.fromkeys(f"{self._session} {one}" for one in ids))
        if not self._gate.unanswered.take(names):
            return False
        self._taken = names
        return True

    def _is_utf_8(self) -> bool:
        """Whether the headers call the body what it is read as: other readers go by them."""
        for name, value in self._headers:
            lower = name.lower()
            if lower == b"content-type":
                if not _UTF_8.issuperset(_CHARSET.findall(value.lower())):
                    return False
            elif lower == b"content-encoding" and value.strip().lower() not in _PLAIN:
                return False
        return True

    @property
    def too_large(self) -> Refusal:
        """Of a body of more than `max_body` bytes."""
        return Refusal("body_too_large", (str(self.max_body),))

    @property
    def refused(self) -> Refusal | None:
        """Why the body is not read of a caller that is known, for what else the headers say: the
        session is none of theirs, and what it is they are not told.
        """
        return NO_SESSION if self._is_foreign else None

    @property
    def call_id(self) -> str | int | None:
        """The id of the request, once it is known, for the refusal of it."""
        if self._asked is None or self._asked.is_batch:
            return None
        call = self._asked.calls[0]
        return None if call.method is None else call.id

    # --- as activity has it ---

    def _came(self, needs: Needs) -> Came:
        """Note what it calls; to the ledger it is that."""
        came = self._way.came(self._caller, needs)
        self.called = Called(came, self._resource, self._asked, needs)
        return self.called.came()

    def _noted(self, refusal: Refusal | None) -> Refusal | None:
        """Record a refusal by the gate."""
        recording, verified = self._gate.recording, self._verified
        if refusal is not None and recording is not None and verified is not None:
            if self.called is not None:
                self.called.refuse(recording, refusal)
            else:  # of whatever it is that has not been read
                needs = Needs(resource=self._resource)
                recording.refuse(self._way.came(verified, needs), refusal)
        return refusal

    # --- what came of it ---

    def outcomes(self, headers: list[Header]) -> Outcomes | None:
        """What is to be looked at in an answer with these headers, so that it is known what is
        given back; None where nothing is.
        """
        ids = [call.id for call in self._asking if call.id is not None]
        return Outcomes.of(ids, headers, sees_all=bool(self._taken)) if ids else None

    @property
    def _asking(self) -> list[Call]:
        calls = self._asked.calls if self._asked else ()
        if self._taken:  # whatever they cost, it is to be known when they are answered
            return [call for call in calls if call.method is not None]
        return [call for call in calls if not call.is_free]

    def end(self, *, is_answered: bool) -> None:
        """Nobody waits for an answer any more; whether it has been seen."""
        if self._taken:
            self._is_given_up = self.is_given_up
            self._gate.unanswered.end(self._taken, are_answered=is_answered)
            self._taken = ()

    @property
    def is_given_up(self) -> bool:
        """Whether the client has ended the call itself, so that its charge stays: the work may have
        been done by then, and the server calls it an error.
        """
        return self._is_given_up or self._gate.unanswered.are_given_up(self._taken)

    def fail(self, failed: list[str | int]) -> None:
        """These calls have come to nothing."""
        if self.called is not None:
            self.called.fail(failed)

    def give_back(self, caller: Caller, failed: list[str | int]) -> None:
        """Give back what was charged for calls that have come to nothing; may block.

        Of a batch, what the app itself has charged stays, as long as one call has not failed.
        """
        charging = self._gate.charging
        asked = self._asked
        if asked is None or not isinstance(caller, Principal) or self.is_given_up:
            return
        if not asked.is_batch:
            charging.uncharge(caller)
            return
        priced = [call for call, price in zip(asked.calls, self._prices, strict=True) if price]
        charges: list[Charge] = [
            charge for call, charge in zip(priced, caller.paid, strict=False) if call.id in failed
        ]
        charging.give_back(caller, charges)
