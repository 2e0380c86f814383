"""The limiter at a URL, or of a user's own: the one place that looks at what a class has."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

from keyrush.core.changes import Changes
from keyrush.errors import ConfigurationError, Unreachable
from keyrush.limiter.ledgers.protocol import AsyncLedger, Ledger
from keyrush.limiter.protocol import AwaitedLimiter, Limiter, Mode, Outage, SmallLimiter
from keyrush.limiter.shared.client import LedgerClient
from keyrush.runtime.bridge import synchronous
from keyrush.runtime.clock import REAL, Clock
from keyrush.runtime.plugins import load

if TYPE_CHECKING:  # a limiter in memory needs no database
    from keyrush.sql.engine import Database

#: Schemes of servers like Redis, before a "+".
REDIS = ("redis", "rediss", "valkey", "valkeys", "unix")

#: What the name of the file with the windows ends with that lies beside a SQLite database.
_BESIDE = "-windows"

_log = logging.getLogger("keyrush")


class Opened(NamedTuple):
    """A limiter, whole, and what else is known of it."""

    limiter: Limiter
    awaited: AwaitedLimiter | None = None  #: the same, where it is better awaited
    ledger: Ledger | None = None  #: what it is over, where many processes share that
    changes: Changes | None = None  #: news of them, where the ledger's server passes it on
    is_shared: bool = True  #: False where each process counts by itself


def open_limiter(
    url: str,
    database: Database | None = None,
    *,
    mode: Mode = "leased",
    outage: Outage = "local",
    clock: Clock = REAL,
) -> Opened:
    """The limiter at a URL.

    `store` is in the store's `database` where that is PostgreSQL, in a file beside it where it is
    SQLite, else in memory. `memory://`, `file:///…`, a file of all processes of this machine,
    `redis://`, `rediss://`, `redis+sentinel://`, `redis+cluster://`, any storage of the `limits`
    library, or `package.module:Class`. A `clock` other than the machine's stands in for those of
    servers, too.

    Raises:
        ConfigurationError: There is no such limiter.
    """
    scheme, separator, _ = url.partition("://")
    kind = scheme.partition("+")[0]
    stand_in = None if clock.is_real else clock.now
    if url == "store":
        if database is not None and database.dialect == "postgresql":
            from keyrush.limiter.ledgers.postgresql import PostgresqlLedger

            in_database = PostgresqlLedger(database, stand_in)
            # Loops on Windows watch no sockets of libpq's.
            awaited = None if sys.platform == "win32" else in_database
            return _over(in_database, mode, outage, clock, awaited)
        path = windows_file(url, database)
        return _in_memory(clock) if path is None else _in_file(path, outage, clock)
    if not separator:
        allowed = "store, a URL such as redis://host:6379, or package.module:Class"
        return given(load(url, "KEYRUSH_LIMITER_URL", allowed), outage=outage, clock=clock)
    if scheme == "memory":
        return _in_memory(clock)
    if scheme == "file":
        return _in_file(_path_of(url), outage, clock)
    if kind in REDIS:
        from keyrush.limiter.ledgers.redis.ledger import RedisLedger

        ledger = RedisLedger(url, stand_in)
        return _over(ledger, mode, outage, clock, ledger)._replace(changes=ledger.changes())
    from keyrush.limiter.limits_library.adapter import LimitsLimiter

    outside = LimitsLimiter(url.removeprefix("limits+"))
    return Opened(_guarded(outside, outage, clock), is_shared=outside.is_shared)


def given(limiter: SmallLimiter, *, outage: Outage = "local", clock: Clock = REAL) -> Opened:
    """A user's own limiter, made whole: one that is whole is taken at its word, any other is
    bridged where it has coroutines, and guarded.

    Raises:
        ConfigurationError: It lacks a method that every limiter has, or is a class.
    """
    if isinstance(limiter, type):
        raise ConfigurationError(f"limiter: must be a limiter, not the class {limiter.__name__}")
    needed = ("take", "give_back", "close")
    if lacking := [name for name in needed if not callable(getattr(limiter, name, None))]:
        kind = type(limiter).__name__
        raise ConfigurationError(f"limiter: {kind} is no limiter; it lacks {', '.join(lacking)}")
    front = synchronous(limiter)
    is_plain = front is limiter  # none of it has to be awaited
    is_local = is_plain and bool(getattr(limiter, "is_local", False))
    if is_plain and isinstance(limiter, Limiter):
        return Opened(limiter, is_shared=not is_local)
    return Opened(_guarded(front, outage, clock, is_local=is_local), is_shared=not is_local)


def _in_memory(clock: Clock) -> Opened:
    from keyrush.limiter.memory import MemoryLimiter

    return Opened(MemoryLimiter(clock.now), is_shared=False)


def windows_file(url: str, database: Database | None = None) -> Path | None:
    """The file of this machine that windows at `url` are in, `store` being that of `database`; None
    where they are in none.

    Raises:
        ConfigurationError: It is no file that `url` names.
    """
    if url == "store":
        of_store = None if database is None else database.file
        return of_store and of_store.with_name(of_store.name + _BESIDE)
    return _path_of(url) if url.startswith("file:") else None


def _path_of(url: str) -> Path:
    place = urlsplit(url)
    path = unquote(place.path)
    if place.netloc or not path.startswith("/") or place.query or place.fragment or "\0" in path:
        raise ConfigurationError(
            "KEYRUSH_LIMITER_URL: a file is named as file:///, and then its whole path, as in "
            "file:///run/app/keyrush.windows"
        )
    return Path(path)


def _in_file(path: Path, outage: Outage, clock: Clock) -> Opened:
    """In a file of this machine; where there are no such locks, as on Windows, in each process."""
    try:
        from keyrush.limiter.mapped import MappedLimiter
    except ModuleNotFoundError as error:
        if error.name != "fcntl":
            raise
        _log.warning("KEYRUSH_LIMITER_URL: processes can't share a file here; each counts alone")
        return _in_memory(clock)
    try:
        return Opened(MappedLimiter(str(path), outage, clock.now, clock.monotonic))
    except Unreachable as error:
        raise Unreachable(f"KEYRUSH_LIMITER_URL: {error}") from error


def _guarded(
    limiter: SmallLimiter, outage: Outage, clock: Clock, *, is_local: bool = False
) -> Limiter:
    from keyrush.limiter.guarded import GuardedLimiter

    return GuardedLimiter(limiter, outage, clock.monotonic, is_local=is_local)


def _over(
    ledger: Ledger,
    mode: Mode,
    outage: Outage,
    clock: Clock,
    awaited: AsyncLedger | None = None,
) -> Opened:
    """What asks a ledger; `awaited` is the same, where event loops may await it."""
    from keyrush.limiter.shared.exact import AwaitedExactLimiter, ExactLimiter
    from keyrush.limiter.shared.leased import AwaitedLeasedLimiter, LeasedLimiter

    client = LedgerClient(ledger, outage, clock)
    if awaited is None:
        limiter = LeasedLimiter(client) if mode == "leased" else ExactLimiter(client)
        return Opened(limiter, ledger=ledger)
    kind = AwaitedLeasedLimiter if mode == "leased" else AwaitedExactLimiter
    either: AwaitedLimiter = kind(client, awaited)
    return Opened(either, either, ledger)
