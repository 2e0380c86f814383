"""Files of windows: what tests of them have in common, short and long."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from keyrush.core.sliding import Window
from keyrush.errors import Away
from keyrush.limiter.ledgers.mapped import file
from keyrush.limiter.ledgers.mapped.file import STRIPES, WORD
from keyrush.limiter.ledgers.mapped.kernel_lock import KernelLock, Lockf
from keyrush.limiter.ledgers.mapped.table import Table
from keyrush.limiter.ledgers.mapped.tables import close_table, open_table
from keyrush.limiter.mapped import MappedLimiter
from tests.support.scripts import finish, start

MINUTE = 60_000
HOUR = 60 * MINUTE

#: In the middle of a minute and of an hour.
NOW = 29_000_000 * MINUTE + 30_000


def of(subject: str, minute: int = 10**6, hour: int = 10**6) -> tuple[Window, ...]:
    """The windows of a subject, as a key has them."""
    return (
        Window(f"{subject}:60", MINUTE, minute, "minute"),
        Window(f"{subject}:3600", HOUR, hour, "hour"),
    )


def used(limiter: MappedLimiter, windows: Sequence[Window], now: int) -> list[int]:
    """What counts in each of the windows."""
    return [window.amount - limiter.take([window], 0, now).remaining for window in windows]


def subjects_together(table: Table, count: int) -> list[str]:
    """Subjects whose records are in one bucket, as long as there is one segment."""
    found: list[str] = []
    wanted = table.stripes(of("first"))
    number = 0
    while len(found) < count:
        if table.stripes(of(f"key:{number}")[:1]) == wanted:
            found.append(f"key:{number}")
        number += 1
    return found


def subject_apart(table: Table, from_: str) -> str:
    """A subject that goes with another lock."""
    stripe = table.stripes(of(from_))
    return next(
        name for name in map("other:{}".format, range(9)) if table.stripes(of(name)) != stripe
    )


def by_lockf() -> None:
    """Have this process lock as where the GIL can't be kept."""
    file.kernel_lock = lambda descriptor, proof: Lockf(descriptor)  # type: ignore[attr-defined]  # for this process alone


class Counted:
    """Locks, and how often each was tried."""

    def __init__(self, inner: KernelLock) -> None:
        self._inner = inner
        self.tried: list[int] = []

    def lock(self, at: int) -> bool:
        self.tried.append(at)
        return self._inner.lock(at)

    def unlock(self, at: int) -> None:
        self._inner.unlock(at)

    def holder(self, at: int) -> int | None:
        return self._inner.holder(at)

    def detach(self) -> None:
        self._inner.detach()


# --- processes ------------------------------------------------------------------------------------


def in_children(processes: int, work: Callable[[], int]) -> int:
    """The sum of what `work` returns in forked processes, which begin together."""
    children = []
    begin_read, begin_write = os.pipe()
    for _ in range(processes):
        read, write = os.pipe()
        if not (pid := os.fork()):
            os.close(begin_write)
            os.read(begin_read, 1)
            os.write(write, struct.pack("q", work()))
            os._exit(0)
        os.close(write)
        children.append((pid, read))
    os.close(begin_write)
    total = 0
    for pid, read in children:
        total += int(struct.unpack("q", os.read(read, 8))[0])
        os.waitpid(pid, 0)
    return total


def admitted(limiter: MappedLimiter, threads: int, takes: int, windows: Sequence[Window]) -> int:
    """How many takes pass, of so many by each thread; one that gets no answer asks again."""
    counts: list[int] = []

    def work() -> None:
        count = done = 0
        while done < takes:
            try:
                count += limiter.take(windows, 1, NOW).admitted
            except Away:
                continue
            done += 1
        counts.append(count)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts)


def compete(path: str, limit: int, takes: int, *, is_inherited: bool) -> int:
    """How many takes pass of 8 processes by 8 threads on one key, each with its own limiter, or
    all with the one of their parent.
    """
    windows = of("key:hot", limit, 10**9)
    parent = MappedLimiter(path, clock=lambda: NOW)

    def work() -> int:
        limiter = parent if is_inherited else MappedLimiter(path, clock=lambda: NOW)
        return admitted(limiter, 8, takes, windows)

    if not is_inherited:
        parent.close()
    return in_children(8, work)


#: Locks a byte of a file, as `keyrush` does, without loading it.
_LOCK = """
    import fcntl, os, signal, sys
    descriptor = os.open(sys.argv[1], os.O_RDWR)
    lock = lambda: fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int(sys.argv[2]))
    """


def _stripe(path: Path, subject: str) -> str:
    table = open_table(str(path))
    (stripe,) = table.stripes(of(subject))
    close_table(table)
    return str(stripe)


class Holder:
    """A process that holds a lock, as that of a subject."""

    def __init__(self, path: Path, byte: str, *, is_forked: bool) -> None:
        self._process = start(
            _LOCK
            + """
    lock()
    if sys.argv[3] == "forked" and not os.fork():
        sys.stdin.read()  # until the test lets go
        os._exit(0)
    print("held", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
    """,
            str(path),
            byte,
            "forked" if is_forked else "alone",
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "held\n"
        self.pid = self._process.pid
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def signal(self, number: int) -> None:
        """Send it the signal, and wait until it has ended."""
        os.kill(self.pid, number)
        self._process.wait()

    def end(self) -> None:
        """Be done with it, and with its child."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def holding(path: Path, subject: str, *, is_forked: bool = False) -> Iterator[Holder]:
    """While a process that was stopped has the lock of a subject."""
    holder = Holder(path, _stripe(path, subject), is_forked=is_forked)
    try:
        yield holder
    finally:
        holder.end()


@contextmanager
def holding_byte(path: Path, at: int) -> Iterator[Holder]:
    """While a process that was stopped has the lock of a byte of the file."""
    holder = Holder(path, str(at), is_forked=False)
    try:
        yield holder
    finally:
        holder.end()


def is_free(path: Path, subject: str) -> bool:
    """Whether another process could take the lock of a subject."""
    code = (
        _LOCK
        + """
    try:
        print(lock() is None)
    except BlockingIOError:
        print(False)
    """
    )
    return finish(start(code, str(path), _stripe(path, subject))) == "True\n"


# --- what a kill may leave ------------------------------------------------------------------------


def content(table: Table) -> bytes:
    """All that is in the file, without opening it: that would let go of its locks."""
    header = table.file.header.tobytes()
    return header + b"".join(words.tobytes() for words in table.file.segments)


def bucket(table: Table, subject: str) -> memoryview:
    """The words of a subject's bucket in the first segment."""
    (stripe,) = table.stripes(of(subject))
    number = stripe - file.STRIPE
    assert number < STRIPES
    size = file.BUCKET * file.RECORD
    return table.file.segments[0][number * size : (number + 1) * size]


def written(path: Path, data: bytes) -> Path:
    """A file of this user's alone."""
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def word(number: int) -> bytes:
    """As it is in a file."""
    return number.to_bytes(WORD, "little")
