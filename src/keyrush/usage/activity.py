"""What was asked of an app, and what came of it: noted as requests end, then flushed as rows.

A request adds one tuple to a queue. Rows are made of it by the flush, every `FLUSH_INTERVAL` and at
a normal stop, in batches, each of which the store takes as a whole. A batch whose outcome is
unknown is written again under its number, by which the store knows it. Nobody waits for any of
this: where more comes than is written, what is too much is counted and let go of.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import NamedTuple

from keyrush.core.activity import WOULD_LIMIT, Activity, Outcome
from keyrush.core.identity import Verified
from keyrush.core.issuers import SESSION
from keyrush.core.refusal import Refusal
from keyrush.errors import Away, DataError
from keyrush.runtime.circuit import Circuit
from keyrush.runtime.forks import after_fork, process_name
from keyrush.runtime.logs import log_fault
from keyrush.store.protocol import ActivityStore, Batch
from keyrush.usage.retention import Retention
from keyrush.usage.shown import PATH_LOOKED_AT, Addresses, shown_agent, shown_id, shown_path
from keyrush.wire.request import NOTHING, Noted

#: Requests that wait for the flush at most: half a kilobyte each, three at most, and three seconds
#: of what one process can answer.
MOST_WAITING = 50_000

#: Rows of a batch: some hundredths of a second, in which SQLite lets nobody else write.
PORTION = 2000

#: Rows that one credential gets in a minute, in one process, for what it is refused: enough to see
#: why. A flood of refusals adds to totals alone.
REFUSALS_A_MINUTE = 60

#: Texts of clients whose shown form is remembered during a flush.
_REMEMBERED = 1024

#: Tools that no rule names and that are told apart, and characters of a name.
_TOOLS, _TOOL_NAME = 256, 128

#: Characters of a method that are kept: those of HTTP are shorter, of MCP not much longer.
_METHOD = 64

_MINUTE = 60.0
_UNAUTHORIZED, _TOO_MANY_REQUESTS = 401, 429
_ERROR = 400

#: The client as servers name it: a host, perhaps with its port.
Peer = str | tuple[str | None, int] | None

#: Of a request, as soon as it is known whose it is: who calls, when (Unix milliseconds), when by
#: `perf_counter`, method, path (empty where the rule says it), rule, the peer, what was noted of
#: its headers, and whether it is to a resource of MCP. A plain tuple, because each is made while a
#: request waits. No key is in it.
Came = tuple[Verified, int, float, str, str, str, Peer, Noted, bool]

#: A request that has ended, until it is a row: when (Unix milliseconds); the account, the key or
#: link, the issuer's subject, the source; method, path, rule, host, agent, request id, forwarded
#: for, and whether it is to a resource of MCP; status, why it was refused, credits, whether the
#: answer broke off, how long it took (seconds), and whether there is to be a row of it. All of it
#: texts and numbers, which the garbage collector does not go through: thousands that hold what it
#: has to would have it go through all that the app has, time and again.
_Happened = tuple[
    int,
    str,
    str,
    str | None,
    str,
    str,
    str,
    str,
    str | None,
    bytes | None,
    bytes | None,
    bytes | None,
    bool,
    int,
    str | None,
    int,
    bool,
    float,
    bool,
]

#: `Activity._make`, without a call of Python's own.
_activity = partial(tuple.__new__, Activity)

_log = logging.getLogger("keyrush")


class _Portion(NamedTuple):
    """What the store takes as a whole."""

    rows: list[Activity]
    batch: Batch


class Recording:
    """The activity of this process. Safe to call from any thread.

    With `records_all` false there are only refusals. `retention` is told how much is written.
    `monotonic` gives seconds, from anywhere, that nobody sets.
    """

    def __init__(
        self,
        store: ActivityStore,
        circuit: Circuit,
        addresses: Addresses,
        *,
        records_all: bool,
        retention: Retention,
        monotonic: Callable[[], float],
    ) -> None:
        self._store = store
        self._circuit = circuit
        self._addresses = addresses
        self._records_all = records_all
        self._retention = retention
        self._monotonic = monotonic
        #: Called after each request, where its row is not to wait for the next flush.
        self.hurry: Callable[[], object] | None = None
        self._reset()
        after_fork(self._reset)

    def _reset(self) -> None:
        """As in a new process: in a forked child, what waits is the parent's to write."""
        self._lock = threading.Lock()
        self._flush_lock = threading.Lock()
        self._waiting: deque[_Happened] = deque()
        self._worker = process_name()
        self._number = 0  # of the last batch
        self._portion: _Portion | None = None  # what is being written, or could not be
        self._ids = secrets.token_hex(6)  # how the ids of this process begin
        self._made = 0
        self._minute = 0
        self._refused: Counter[str] = Counter()  # in this minute, by credential
        self._tools: set[str] = set()
        self._paths: dict[str, str] = {}
        self._agents: dict[bytes, str | None] = {}
        self._clients: dict[tuple[str | None, bytes | None], str | None] = {}
        #: Requests that there is no row and no total of, because too many were waiting.
        self.dropped = 0
        self._said = 0  # of them

    # --- noting ---

    def refuse(self, came: Came, refusal: Refusal) -> None:
        """A request of a known caller has been refused by the gate; with 401 it is nobody's."""
        if refusal.status != _UNAUTHORIZED:
            self.add(came, refusal.status, refusal, 0, False)

    def is_tool(self, name: str, *, is_new: bool) -> bool:
        """Whether a tool that no rule names is one to tell apart in totals: as many as there is
        room for, each from when `is_new` says that it has answered, and none that is not shown
        as it is.
        """
        tools = self._tools
        if is_new and name not in tools and len(tools) < _TOOLS and _may_be_tool(name):
            tools.add(name)
        return name in tools

    def add(  # noqa: PLR0917  # what came of it
        self,
        came: Came,
        status: int,
        refusal: Refusal | None,
        credits: int,
        is_broken: bool,
        would_limit: str = "",
    ) -> None:
        """A request has ended: with which status (0 where there was no answer), what it was
        charged in the end, and by what it would have been refused. Never waits.
        """
        verified, at, began, method, path, rule, peer, noted, is_mcp = came
        reason: str | None = None
        is_kept = True
        if refusal is not None:
            reason, status = refusal.reason, refusal.status
            is_kept = self._is_kept(verified)
        elif would_limit:
            reason, is_kept = WOULD_LIMIT, self._records_all or self._is_kept(verified)
        elif not self._records_all:
            return
        if len(path) > PATH_LOOKED_AT or len(method) > _METHOD:
            method, path = method[:_METHOD], path[:PATH_LOOKED_AT]
        if not is_kept:  # then nobody will ask for what was noted of it
            path, peer, noted = "", None, NOTHING
        if len(self._waiting) >= MOST_WAITING:
            with self._lock:
                self.dropped += 1
            return
        session = verified.session
        agent, request_id, forwarded_for = noted
        self._waiting.append(
            (
                at,
                verified.account_id,
                verified.key_id,
                None if session is None else session.subject,
                verified.source,
                method,
                path,
                rule,
                peer[0] if isinstance(peer, tuple) else peer,
                agent,
                request_id,
                forwarded_for,
                is_mcp,
                status,
                reason,
                credits,
                is_broken,
                perf_counter() - began,
                is_kept,
            )
        )
        if self.hurry is not None:
            self.hurry()

    def _is_kept(self, verified: Verified) -> bool:
        minute, name = int(self._monotonic() / _MINUTE), verified.key_id
        with self._lock:
            if minute != self._minute:
                self._minute = minute
                self._refused.clear()
            self._refused[name] += 1
            return self._refused[name] <= REFUSALS_A_MINUTE

    # --- flushing ---

    def flush(self) -> bool:
        """Write what waits by now. False where the store can't: it is kept for the next time."""
        with self._flush_lock:
            self._say_dropped()
            try:
                if self._portion is not None:
                    self._write(self._portion)
                for _ in range(-(-len(self._waiting) // PORTION)):  # what comes meanwhile waits
                    self._write(self._gather())
            except Away:
                return False
            finally:
                for shown in (self._paths, self._agents, self._clients):
                    shown.clear()
            return True

    def _gather(self) -> _Portion:
        """Take a portion of what waits."""
        waiting = self._waiting
        rows = self._rows([waiting.popleft() for _ in range(min(PORTION, len(waiting)))])
        self._number += 1
        self._portion = _Portion(rows, Batch(self._worker, self._number))
        return self._portion

    def _write(self, portion: _Portion) -> None:
        """Write a portion; one that the store will never take is let go of.

        Raises:
            Away: The store can't answer.
        """
        try:
            self._circuit.call(self._store.add_activity, portion.rows, portion.batch)
        except DataError as error:
            log_fault("activity can't be written", error)
            with self._lock:
                self.dropped += len(portion.rows)
        self._retention.note(len(portion.rows))
        self._portion = None

    def _say_dropped(self) -> None:
        """Say once for each spell that more came than could be kept."""
        dropped = self.dropped
        if dropped > self._said:
            _log.warning(
                "activity: %s requests came while %s were waiting to be written, and are in no "
                "row and no total; they were answered and counted as ever",
                f"{dropped - self._said:,}",
                f"{MOST_WAITING:,}",
            )
            self._said = dropped

    # --- rows ---

    def _rows(self, happened: list[_Happened]) -> list[Activity]:
        """What is kept of requests. In one loop, with what most have in common at hand: a call for
        each would cost as much as it does.
        """
        rows, begin, made = [], f"req_{self._ids}", self._made
        paths, agents, clients = self._paths, self._agents, self._clients
        for (
            at,
            account_id,
            key_id,
            subject,
            source,
            method,
            path,
            rule,
            host,
            agent,
            request_id,
            forwarded_for,
            is_mcp,
            status,
            reason,
            credits,
            is_broken,
            seconds,
            is_kept,
        ) in happened:
            made += 1
            is_ok = reason is None and not is_broken and 0 < status < _ERROR
            client = host, forwarded_for
            row = (
                f"{begin}{made:010x}",
                at,
                account_id,
                key_id,
                subject,
                "mcp" if is_mcp else "dashboard" if source == SESSION else "api",
                method if method.isalnum() else self._path(method),
                (paths.get(path) or self._path(path)) if path else rule,
                rule,
                status,
                "ok" if is_ok else _outcome(status, reason, is_broken),
                reason,
                credits,
                int(seconds * 1_000_000),
                None if request_id is None else shown_id(request_id),
                (clients.get(client) or self._address(*client)) if is_kept else None,
                None if agent is None else agents.get(agent) or self._agent(agent),
                is_kept,
            )
            rows.append(_activity(row))
        self._made = made
        return rows

    def _path(self, path: str) -> str:
        shown = self._paths.get(path)
        if shown is None:
            if len(self._paths) >= _REMEMBERED:
                self._paths.clear()
            shown = self._paths[path] = shown_path(path)
        return shown

    def _agent(self, agent: bytes) -> str | None:
        if agent not in self._agents:
            if len(self._agents) >= _REMEMBERED:
                self._agents.clear()
            self._agents[agent] = shown_agent(agent)
        return self._agents[agent]

    def _address(self, host: str | None, forwarded_for: bytes | None) -> str | None:
        client = host, forwarded_for
        if client not in self._clients:
            if len(self._clients) >= _REMEMBERED:
                self._clients.clear()
            self._clients[client] = self._addresses.of(*client)
        return self._clients[client]


def _may_be_tool(name: str) -> bool:
    """Whether totals may have the name: it is no key, and shown as it is."""
    return len(name) <= _TOOL_NAME and shown_path(name) == name


def _outcome(status: int, reason: str | None, is_broken: bool) -> Outcome:
    if reason is not None and reason != WOULD_LIMIT:
        return "limited" if status == _TOO_MANY_REQUESTS else "refused"
    return "error" if is_broken or status >= _ERROR or not status else "ok"
