"""Windows on Redis ≥6.2 or Valkey: one server, one behind Sentinels, or a Cluster.

A call runs a script, `take.lua`, which restates `keyrush.windows`. Requests that come while a
call is under way go together in the next one. Threads and event loops differ only in how they
wait; what is sent, and what an answer means, is written once.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import re
import threading
import time
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

from keyrush.errors import ConfigurationError, StoreError, log_fault
from keyrush.forks import after_fork
from keyrush.limiter.ledger import WORKER_TTL, Place
from keyrush.windows import SHARE, Counter, Taken, Window

try:
    import redis
    import redis.asyncio
    from redis.backoff import NoBackoff
    from redis.connection import parse_url
    from redis.crc import key_slot
    from redis.exceptions import NoScriptError, RedisClusterException, RedisError
except ModuleNotFoundError as missing:
    raise ConfigurationError(
        "KEYRUSH_LIMITER_URL: redis:// needs the module 'redis'; pip install 'keyrush[redis]'"
    ) from missing

#: Seconds to wait for a connection, and for an answer, where the URL says nothing else.
PATIENCE = 0.5

#: Requests that go together in one call at most; their script holds the server for about 2 ms.
TOGETHER = 128

#: Seconds without a word from the server after which a feed asks whether it is still there.
SILENCE = 1.0

T = TypeVar("T")

#: What redis-py raises.
_ERRORS = (RedisError, RedisClusterException, OSError)


# --- the server -----------------------------------------------------------------------------------

_SCHEME = re.compile(r"(?:redis|valkey)(s?)(?:\+(unix|sentinel|cluster))?|(unix)")

_PATHS = {
    "": r"/?(?P<db>\d*)",
    "unix": r"(?P<path>/.+)",
    "sentinel": r"/(?P<service>[^/]+)(?:/(?P<db>\d+))?",
    "cluster": r"/?",
}

#: Options of redis-py that are not the URL's to set.
_FIXED = {
    "decode_responses",
    "encoding",
    "health_check_interval",
    "protocol",
    "retry_on_error",
    "retry_on_timeout",
}


@dataclass(frozen=True, repr=False)  # it holds passwords
class Server:
    """What a URL says."""

    kind: str  #: "", "unix", "sentinel" or "cluster"
    tls: bool
    places: list[tuple[str, int]]  #: hosts and ports: of the Sentinels, of nodes of the Cluster
    service: str  #: as the Sentinels call it
    options: dict[str, Any]  #: of connections, as redis-py calls them
    sentinel_options: dict[str, Any]
    prefix: str  #: of all keys


def parse(url: str) -> Server:
    """The server at a URL.

    Raises:
        ConfigurationError: There can be none. The message shows nothing of the URL: where a
            character is not escaped, any part of it may belong to the password.
    """
    try:
        server = _parse(url)
        _try_options(server)
    except ConfigurationError:
        raise
    except (ValueError, TypeError, *_ERRORS):
        raise _wrong("can't be understood, or has an option that redis-py does not know") from None
    return server


def _wrong(why: str) -> ConfigurationError:
    return ConfigurationError(
        f"KEYRUSH_LIMITER_URL: {why}; write redis://:password@host:6379/0, redis+unix:///path, "
        "redis+sentinel://host:26379,host:26379/service or redis+cluster://host:6379,host:6379, "
        "with rediss for TLS, and percent-escape passwords"
    )


def _parse(url: str) -> Server:
    scheme, _, rest = url.partition("://")
    found = _SCHEME.fullmatch(scheme)
    parts = urlsplit(f"redis://{rest}")
    if not found or parts.fragment or (found[1] and found[2] == "unix"):
        raise ValueError
    kind = found[2] or found[3] or ""
    path = re.fullmatch(_PATHS[kind], unquote(parts.path))
    if not path:
        raise ValueError
    named = path.groupdict()
    # It converts numbers and the like.
    asked = parse_url(f"redis://?{parts.query}")  # type: ignore[no-untyped-call]  # it has none
    if not _FIXED.isdisjoint(asked):
        raise _wrong(f"the options {', '.join(sorted(_FIXED))} are not yours to set")
    prefix = asked.pop("prefix", "keyrush")
    given = {name: asked.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    login = {"username": unquote(username) or None, "password": unquote(password) or None}
    options = {
        "protocol": 2,
        "socket_timeout": PATIENCE,
        "socket_connect_timeout": PATIENCE,
        **login,
        **asked,
    }
    shared = {name: options[name] for name in options if name.startswith(("socket_", "ssl_"))}
    sentinel_options = {"protocol": 2, **shared, **login} | {k: v for k, v in given.items() if v}
    places = [_place(host, 26379 if kind == "sentinel" else 6379) for host in hosts.split(",")]
    if kind == "unix":
        if hosts:
            raise ValueError
        options["path"] = named["path"]
    elif not kind:
        ((options["host"], options["port"]),) = places
    if named.get("db"):
        options.setdefault("db", int(named["db"]))
    if kind == "cluster" and options.pop("db", 0):
        raise ValueError
    service = named.get("service") or ""
    return Server(kind, bool(found[1]), places, service, options, sentinel_options, prefix)


def _place(text: str, port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text.strip()}")
    return parts.hostname or "localhost", parts.port or port


def _try_options(server: Server) -> None:
    """Make connections without opening them. Raises TypeError for what redis-py doesn't know."""
    if server.kind != "cluster":
        for library in (redis, redis.asyncio):
            _open(server, library).connection_pool.make_connection()
    elif not set(server.options) <= set(inspect.signature(redis.asyncio.RedisCluster).parameters):
        raise TypeError


def _open(server: Server, library: Any) -> Any:
    """A client of `redis` or `redis.asyncio`, which connects when it is used first.

    Only the synchronous one of a Cluster does so here. Nothing is ever sent twice: whether a
    call that has failed had its effect is unknown.
    """
    options = {**server.options, "retry": library.retry.Retry(NoBackoff(), 0)}
    if server.kind == "cluster":
        options["startup_nodes"] = [library.cluster.ClusterNode(*place) for place in server.places]
        options["ssl"] = server.tls
        # Slots that have moved are noted one by one. To look at all of them anew, the client would
        # close the connections of calls that are under way.
        options["reinitialize_steps"] = 0
        return library.RedisCluster(**options)
    if server.kind == "sentinel":
        own = {**server.sentinel_options, "retry": options["retry"], "ssl": server.tls}
        options["ssl"] = server.tls
        return library.Sentinel(server.places, sentinel_kwargs=own, **options).master_for(
            server.service
        )
    connection_class = library.SSLConnection if server.tls else library.Connection
    if server.kind == "unix":
        connection_class = library.UnixDomainSocketConnection
    return library.Redis.from_pool(
        library.ConnectionPool(connection_class=connection_class, **options)
    )


def _and_sentinels(client: Any) -> list[Any]:
    """The client, and those by which it asks Sentinels."""
    pool = getattr(client, "connection_pool", None)
    manager = getattr(pool, "sentinel_manager", None)
    return [client, *(manager.sentinels if manager else ())]


# --- what is sent, and what answers mean ----------------------------------------------------------


class Request(NamedTuple):
    """What one caller wants."""

    operation: str  #: "take" or "give"
    windows: Sequence[Window]
    cost: int
    other: int  #: of "take": extra; of "give": taken_at


class Script:
    """A script beside this module."""

    def __init__(self, name: str) -> None:
        self.source = Path(__file__).with_name(name).read_text("utf-8")
        self.digest = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


_TAKE = Script("take.lua")
_WORKERS = Script("workers.lua")

_ESCAPES = str.maketrans({"%": "%25", "{": "%7B", "}": "%7D"})


def key_of(prefix: str, window_key: str) -> str:
    """The key of a window. All windows of a subject are in the same slot of a Cluster."""
    subject, _, seconds = window_key.rpartition(":")
    return f"{prefix}:{{{subject.translate(_ESCAPES) or '%'}}}:{seconds}"


def encode(prefix: str, requests: Sequence[Request], now: int | str) -> tuple[list[str], list[Any]]:
    """Keys and arguments of `take.lua`. With "" for `now` it goes by the server's clock."""
    keys = []
    arguments = [now, SHARE]
    for operation, windows, cost, other in requests:
        arguments += (operation, cost, other, len(windows))
        for key, length, amount, _ in windows:
            keys.append(key_of(prefix, key))
            arguments += (length, amount)
    return keys, arguments


def decode(answer: Sequence[int], requests: Sequence[Request]) -> list[Taken]:
    """What the script answers to each request; to a "give", that nothing is granted."""
    numbers = iter(answer)
    now = next(numbers)
    taken = []
    for request in requests:
        if request.operation == "give":
            taken.append(Taken(0, now, []))
            continue
        granted = next(numbers)
        counters: list[Counter] = [
            (next(numbers), next(numbers), next(numbers)) for _ in request.windows
        ]
        taken.append(Taken(granted, now, counters))
    return taken


class NoAnswer(StoreError):
    """Nothing was heard for as long as there is patience."""


def _fault(error: Exception) -> StoreError:
    """What to raise instead. Commands are not shown, for one may hold a password."""
    text = str(error).partition(", with args")[0]
    kind = NoAnswer if isinstance(error, redis.TimeoutError) else StoreError
    return kind(f"{type(error).__name__} from the limiter's server: {text}")


def _is_by_replica(error: BaseException | None) -> bool:
    """True when a server refuses to write because it has become a replica.

    Older servers say it in other words within a script, and what Sentinel's connections raise
    hides it.
    """
    return error is not None and (
        isinstance(error, redis.ReadOnlyError)
        or "READONLY" in str(error)
        or _is_by_replica(error.__context__)
    )


def _not_executed(error: Exception) -> bool:
    """True when a script was not run, so that it may be sent once more."""
    return isinstance(error, NoScriptError) or _is_by_replica(error)


# --- threads --------------------------------------------------------------------------------------


class _Waiter:
    """A thread's request, and what has become of it."""

    def __init__(self, request: Request) -> None:
        self.request = request
        #: Of one that does not come alone: it is answered, or may call now.
        self.turn: threading.Event | None = None
        self.answer: Taken | None = None
        self.error: str | None = None

    def wake(self) -> None:
        if self.turn is not None:
            self.turn.set()


class Line:
    """Threads that ask: one calls for all that wait, and then the first of those that came since.

    Who comes alone calls at once.
    """

    def __init__(self, call: Callable[[Sequence[Request]], list[Taken]]) -> None:
        self._call = call
        self._lock = threading.Lock()
        self._waiting: list[_Waiter] = []
        self._is_busy = False

    def ask(self, request: Request) -> Taken:
        waiter = _Waiter(request)
        with self._lock:
            if self._is_busy:
                waiter.turn = threading.Event()
            self._is_busy = True
            self._waiting.append(waiter)
        if waiter.turn is not None:
            self._wait(waiter, waiter.turn)
        if waiter.answer is None and waiter.error is None:
            self._lead()
        if waiter.answer is None:
            raise StoreError(waiter.error)
        return waiter.answer

    def _wait(self, waiter: _Waiter, turn: threading.Event) -> None:
        try:
            turn.wait()
        except BaseException:  # as at Ctrl-C: others must not wait for this thread
            with self._lock:
                if waiter in self._waiting:
                    self._waiting.remove(waiter)
                    if turn.is_set():
                        self._hand_over()
            raise

    def _hand_over(self) -> None:
        """Have the next one call. To be called with the lock held."""
        self._is_busy = bool(self._waiting)
        if self._is_busy:
            self._waiting[0].wake()

    def _lead(self) -> None:
        with self._lock:
            batch = self._take_along(TOGETHER)
        error = "a call to the limiter's server was broken off"
        try:
            answers = self._call([waiter.request for waiter in batch])
            for waiter, answer in zip(batch, answers, strict=True):
                waiter.answer = answer
        except StoreError as fault:
            error = str(fault)
            if isinstance(fault, NoAnswer):  # nor would those that wait get one
                with self._lock:
                    batch += self._take_along(len(self._waiting))
        finally:
            with self._lock:
                self._hand_over()
            for waiter in batch:
                if waiter.answer is None:
                    waiter.error = error
                waiter.wake()

    def _take_along(self, most: int) -> list[_Waiter]:
        batch = self._waiting[:most]
        del self._waiting[:most]
        return batch


# --- event loops ----------------------------------------------------------------------------------


class Loop:
    """What belongs to one event loop: a client, and the requests of its tasks, by slot."""

    def __init__(self, ledger: RedisLedger, client: Any) -> None:
        self._ledger = ledger
        self._client = client
        self._waiting: dict[int, list[tuple[Request, asyncio.Future[Taken]]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._life = self._live()

    async def open(self) -> None:
        """Have everything closed when the loop ends."""
        await anext(self._life)

    async def _live(self) -> AsyncGenerator[None, None]:
        # Loops close their generators before they end, and tell nobody else that they do.
        try:
            yield
        finally:
            self._ledger.forget(self)
            if self._tasks:
                await asyncio.wait(self._tasks)
            for client in _and_sentinels(self._client):
                await client.aclose()

    def close(self) -> None:
        """Close everything soon. To be called in the loop."""
        self._closing = asyncio.ensure_future(self._life.aclose())

    async def ask(self, slot: int, request: Request) -> Taken:
        answer = self._join(slot, request)
        try:
            return await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and not answer.exception():
                self._undo(slot, request, answer.result())
            raise

    def _join(self, slot: int, request: Request) -> asyncio.Future[Taken]:
        answer: asyncio.Future[Taken] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.get(slot)
        if waiting is None:
            waiting = self._waiting[slot] = []
            # It begins when all that are ready to run now have asked, too.
            task = asyncio.create_task(self._serve(slot, waiting))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        waiting.append((request, answer))
        return answer

    async def _serve(self, slot: int, waiting: list[tuple[Request, asyncio.Future[Taken]]]) -> None:
        batch: list[tuple[Request, asyncio.Future[Taken]]] = []
        try:
            while waiting:
                batch = [asked for asked in waiting[:TOGETHER] if not asked[1].done()]
                del waiting[:TOGETHER]
                await self._call(slot, batch)
        finally:
            del self._waiting[slot]
            _fail(batch + waiting, "a call to the limiter's server was broken off")

    async def _call(self, slot: int, batch: list[tuple[Request, asyncio.Future[Taken]]]) -> None:
        requests = [request for request, _ in batch]
        try:
            answers = await self._ledger.call_async(self._client, requests) if requests else []
        except StoreError as error:
            if isinstance(error, NoAnswer):  # nor would those that wait get one
                waiting = self._waiting[slot]
                batch += waiting
                waiting.clear()
            _fail(batch, str(error))
            return
        for (request, answer), taken in zip(batch, answers, strict=True):
            if answer.done():  # cancelled meanwhile
                self._undo(slot, request, taken)
            else:
                answer.set_result(taken)

    def _undo(self, slot: int, request: Request, taken: Taken) -> None:
        """Give back what was granted to a task that is no longer there to use it."""
        if taken.granted:
            back = Request("give", request.windows, taken.granted, taken.now)
            self._join(slot, back).add_done_callback(_log_lost)


def _fail(batch: Sequence[tuple[Request, asyncio.Future[Taken]]], why: str) -> None:
    for _, answer in batch:
        if not answer.done():
            answer.set_exception(StoreError(why))


def _log_lost(answer: asyncio.Future[Taken]) -> None:
    if isinstance(error := answer.exception(), Exception):
        log_fault("units of a cancelled request stay taken", error)


# --- the ledger -----------------------------------------------------------------------------------


class RedisLedger:
    """A ledger on Redis, which may be used from any thread and any event loop.

    It goes by the server's clock; `clock`, in Unix milliseconds, stands in for it. Nothing is
    opened before the first call, and nothing of a parent process is used.

    Every method raises `StoreError` when the server can't answer.

    Raises:
        ConfigurationError: The URL is of no server.
    """

    def __init__(self, url: str, clock: Callable[[], int] | None = None) -> None:
        self._server = parse(url)
        self._prefix = self._server.prefix.translate(_ESCAPES)
        self._clock = clock
        self.has_own_clock = clock is None
        self._inherited: Any = None
        self._begin()
        after_fork(self._begin_anew)

    def _begin(self) -> None:
        self._client: Any = None
        self._lines: dict[int, Line] = {}
        self._loops: dict[asyncio.AbstractEventLoop, Loop] = {}

    def _begin_anew(self) -> None:
        """As in a new process. What was the parent's is kept, lest it be closed here."""
        self._inherited = (self._inherited, self._client, self._loops)
        self._begin()

    # --- windows ---

    def take(self, windows: Sequence[Window], cost: int, extra: int) -> Taken:
        return self._ask(Request("take", windows, cost, extra))

    async def take_async(self, windows: Sequence[Window], cost: int, extra: int) -> Taken:
        """`take`. What is granted to a task that has been cancelled meanwhile is given back."""
        running = asyncio.get_running_loop()
        loop = self._loops.get(running)
        if loop is None:
            self.forget()
            loop = self._loops[running] = Loop(self, _open(self._server, redis.asyncio))
            await loop.open()
        return await loop.ask(self._slot(windows), Request("take", windows, cost, extra))

    def give_back(self, windows: Sequence[Window], cost: int, taken_at: int) -> None:
        self._ask(Request("give", windows, cost, taken_at))

    def _ask(self, request: Request) -> Taken:
        slot = self._slot(request.windows)
        line = self._lines.get(slot) or self._lines.setdefault(slot, Line(self._call))
        return line.ask(request)

    def _slot(self, windows: Sequence[Window]) -> int:
        """Requests with the same slot may go in one call."""
        if self._server.kind != "cluster" or not windows:
            return 0
        slot: int = key_slot(key_of(self._prefix, windows[0].key).encode())
        return slot

    def _now(self) -> int | str:
        return "" if self._clock is None else self._clock()

    def _call(self, requests: Sequence[Request]) -> list[Taken]:
        keys, arguments = encode(self._prefix, requests, self._now())
        return decode(self._run(_TAKE, keys, arguments), requests)

    async def call_async(self, client: Any, requests: Sequence[Request]) -> list[Taken]:
        """Ask by a client of the running event loop."""
        keys, arguments = encode(self._prefix, requests, self._now())
        call = (len(keys), *keys, *arguments)
        try:
            try:
                answer = await client.execute_command("EVALSHA", _TAKE.digest, *call)
            except RedisError as error:
                if not _not_executed(error):
                    raise
                if _is_by_replica(error) and hasattr(client, "connection_pool"):
                    await client.connection_pool.disconnect(inuse_connections=False)
                answer = await client.execute_command("EVAL", _TAKE.source, *call)
        except _ERRORS as error:
            raise _fault(error) from None
        return decode(answer, requests)

    def _run(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        call = (len(keys), *keys, *arguments)
        try:
            client = self._connect()
            try:
                return client.execute_command("EVALSHA", script.digest, *call)
            except RedisError as error:
                if not _not_executed(error):
                    raise
                if _is_by_replica(error) and hasattr(client, "connection_pool"):
                    client.connection_pool.disconnect(inuse_connections=False)
                return client.execute_command("EVAL", script.source, *call)
        except _ERRORS as error:
            raise _fault(error) from None

    def _connect(self) -> Any:
        client = self._client
        if client is None:
            client = self._client = _open(self._server, redis)
        return client

    # --- processes and news ---

    def enlist(self, worker: str) -> Place:
        arguments = (worker, int(WORKER_TTL * 1000), self._now())
        found = self._run(_WORKERS, [f"{self._prefix}:workers"], arguments)
        return Place(sum(other < worker.encode() for other in found), len(found))

    def leave(self, worker: str) -> None:
        self._send("ZREM", f"{self._prefix}:workers", worker)

    def publish(self, account_id: str) -> None:
        """Tell the feeds of all processes that something of an account has changed."""
        self._send("PUBLISH", f"{self._prefix}:changes", account_id)

    def _send(self, *command: str) -> None:
        try:
            self._connect().execute_command(*command)
        except _ERRORS as error:
            raise _fault(error) from None

    def feed(self) -> Feed:
        """What is published, from now on."""
        return Feed(self._connection, f"{self._prefix}:changes")

    def _connection(self) -> Any:
        """A connection of its own, not opened yet."""
        client = self._connect()
        if self._server.kind == "cluster":  # any node hears of everything
            client = client.get_redis_connection(client.get_random_node())
        pool = client.connection_pool
        return pool.connection_class(**pool.connection_kwargs)

    # --- the end ---

    def close(self) -> None:
        """Close connections: those of event loops soon, when they come to it."""
        client, self._client = self._client, None
        if client is not None:
            for one in _and_sentinels(client):
                one.close()
        for running, loop in list(self._loops.items()):
            self.forget(loop)
            with suppress(RuntimeError):  # it has ended
                running.call_soon_threadsafe(loop.close)

    def forget(self, gone: Loop | None = None) -> None:
        """Have nothing more to do with what belongs to an event loop, or to any that has ended."""
        for running, loop in list(self._loops.items()):
            if loop is gone or running.is_closed():
                self._loops.pop(running, None)


class Feed:
    """A `store.Feed` of what is published. To be used by one thread at a time."""

    def __init__(self, connection: Callable[[], Any], channel: str) -> None:
        self._make = connection
        self._channel = channel
        self._forget()
        after_fork(self._forget)

    def _forget(self) -> None:
        self._connection: Any = None
        self._heard_at = 0.0

    def poll(self) -> Collection[str] | None:
        """The accounts that have changed since the last call, or None when any may have."""
        try:
            if self._connection is not None:
                return self._news()
            self._connection = self._make()
            self._connection.connect()
            self._connection.send_command("SUBSCRIBE", self._channel)
            self._hear()
        except BaseException as error:
            self.close()
            if isinstance(error, _ERRORS):
                raise _fault(error) from None
            raise
        return None

    def _news(self) -> Collection[str]:
        changed = set()
        is_asking = time.monotonic() - self._heard_at > SILENCE
        if is_asking:
            self._connection.send_command("PING")
        while is_asking or self._connection.can_read(0):
            kind, *rest = self._hear()
            if kind == b"message":
                changed.add(rest[1].decode(errors="replace"))
            else:
                is_asking = False
        return tuple(changed)

    def _hear(self) -> Any:
        heard = self._connection.read_response()
        self._heard_at = time.monotonic()
        return heard

    def close(self) -> None:
        """Let go of the connection. The next poll makes another."""
        connection = self._connection
        self._forget()
        if connection is not None:
            connection.disconnect()
