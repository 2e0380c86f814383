"""Slots at the URL of a limiter: kept where windows are counted."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from keyrush.errors import ConfigurationError, Unreachable
from keyrush.limiter.opening import REDIS, windows_file
from keyrush.limiter.protocol import Outage
from keyrush.limiter.slots.protocol import AwaitedSlots, Slots
from keyrush.runtime.clock import REAL, Clock

if TYPE_CHECKING:  # slots in memory need no database
    from keyrush.sql.engine import Database

#: What the name of the file ends with that lies beside a SQLite database, or a file of windows.
_BESIDE = "-slots"

_log = logging.getLogger("keyrush")


class OpenedSlots(NamedTuple):
    """Slots, and what else is known of them."""

    slots: Slots
    awaited: AwaitedSlots | None = None  #: the same, where they are better awaited
    is_shared: bool = True  #: False where each process counts by itself


def open_slots(
    url: str,
    database: Database | None = None,
    *,
    outage: Outage = "local",
    clock: Clock = REAL,
) -> OpenedSlots:
    """Slots, kept where `open_limiter` would count windows with these arguments. Where that is a
    file, they have one beside it.

    Raises:
        ConfigurationError: There are none: as with the storages of `limits`, and one's own.
    """
    stand_in = None if clock.is_real else clock.now
    if url == "store" and database is not None and database.dialect == "postgresql":
        from keyrush.limiter.ledgers.postgresql_slots import PostgresqlSlots
        from keyrush.limiter.slots.shared import AwaitedSharedSlots, SharedSlots

        in_database = PostgresqlSlots(database, stand_in)
        if sys.platform == "win32":  # whose loops watch no sockets of libpq's
            return OpenedSlots(SharedSlots(in_database, outage, clock))
        either = AwaitedSharedSlots(in_database, outage, clock)
        return OpenedSlots(either, either)
    path = _file(url, database)
    if path is not None:
        return _in_file(path, outage, clock)
    scheme = url.partition("://")[0]
    if url == "store" or scheme == "memory":
        return _in_memory()
    if scheme.partition("+")[0] in REDIS:
        from keyrush.limiter.ledgers.redis.slots import RedisSlots
        from keyrush.limiter.slots.shared import AwaitedSharedSlots

        on_redis = AwaitedSharedSlots(RedisSlots(url, stand_in), outage, clock)
        return OpenedSlots(on_redis, on_redis)
    raise ConfigurationError(
        "KEYRUSH_LIMITER_URL: max_concurrent is counted in `store`, memory://, file:/// and "
        "redis:// alone"
    )


def no_slots() -> OpenedSlots:
    """The same for a limiter that is no URL.

    Raises:
        ConfigurationError: There are none: whoever counts windows by a class of their own.
    """
    raise ConfigurationError(
        "a limiter of your own counts no requests under way: max_concurrent is counted where "
        "KEYRUSH_LIMITER_URL is `store`, memory://, file:/// or redis://"
    )


def _file(url: str, database: Database | None) -> Path | None:
    of_windows = windows_file(url, database)
    if of_windows is None:
        return None
    of_store = database.file if database is not None and url == "store" else None
    beside = of_store or of_windows
    return beside.with_name(beside.name + _BESIDE)


def _in_file(path: Path, outage: Outage, clock: Clock) -> OpenedSlots:
    """In a file of this machine; where there are no such locks, as on Windows, in each process."""
    try:
        from keyrush.limiter.slots.mapped import MappedSlots
    except ModuleNotFoundError as error:
        if error.name != "fcntl":
            raise
        _log.warning("KEYRUSH_LIMITER_URL: processes can't share a file here; each counts alone")
        return _in_memory()
    try:
        return OpenedSlots(MappedSlots(str(path), outage, clock.now, clock.monotonic))
    except Unreachable as error:
        raise Unreachable(f"KEYRUSH_LIMITER_URL: {error}") from error


def _in_memory() -> OpenedSlots:
    from keyrush.limiter.slots.memory import MemorySlots

    return OpenedSlots(MemorySlots(), is_shared=False)
