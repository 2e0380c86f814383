"""A file of windows, or of slots: what it is made of, how it is opened, checked and enlarged.

A page of words of eight bytes, the header, and then segments of records, each segment twice as
large as the one before; a record never moves. In the header are the format's magic and version, a
seed under which keys are hashed (so that the file names nobody), how many segments there are, and
what the records need besides.

It needs what SQLite's WAL needs: one host, shared memory maps, POSIX locks. After a power loss
counts are as they were last written back. Blocks are reserved, so that a full disk is an error and
no signal; not so on file systems that copy on write, where a page may yet find no room.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import struct
import threading
import time
from pathlib import Path
from typing import NamedTuple

from keyrush.errors import Unreachable
from keyrush.limiter.ledgers.mapped.kernel_lock import KernelLock, kernel_lock
from keyrush.runtime.forks import after_fork
from keyrush.sql.files import PRIVATE, make_private

#: The second word of a file: of the format. Processes of different formats can't share one.
VERSION = 1

#: Places of words in the header; the seed is two.
SEED, SEGMENTS = 2, 4

#: Bytes of the header, of which the first `_USED` are used.
PAGE = 4096
_USED = 64

#: Bytes of a word.
WORD = 8


class Layout(NamedTuple):
    """How the records of a kind of file lie."""

    what: str  #: is in it, for messages
    magic: int  #: the first word of a file; written last, so that a file that has it is whole
    record: int  #: words of a record
    bucket: int  #: records of a bucket, in all of which a key is looked for
    #: Buckets of the first segment, and how many locks there are: a bucket goes with the lock of
    #: its number modulo this, so that all that a key can be in go with the same.
    stripes: int

    def start(self, number: int) -> int:
        """Where a segment begins, in bytes."""
        words = self.stripes * self.bucket * self.record
        return PAGE + ((1 << number) - 1) * words * WORD


#: Of windows.
RECORD, BUCKET, STRIPES = 4, 32, 1024
WINDOWS = Layout("windows", int.from_bytes(b"keyrushW", "little"), RECORD, BUCKET, STRIPES)

#: Segments at most: 134 million windows, 4 GB.
MOST = 12

#: Bytes of the file that stand for locks: of opening and enlarging it; to try them on (not the next
#: one, for the kernel makes one lock of neighbours); of the first stripe.
ENLARGING, PROOF, STRIPE = 0, 2, 1 << 20

#: Bytes that are reserved in one go, so that nothing waits long for the file system, nor for the
#: thread that does it.
_CHUNK = 1 << 20

#: Seconds that another process may take to make or enlarge the file.
PATIENCE = 5.0

#: What one can be told of why a file can't be opened.
_WHY = {
    errno.ELOOP: "it is a symbolic link, which is not followed",
    errno.ENOENT: "its folder does not exist",
    errno.EISDIR: "it is a folder",
}

_CUT = "it was cut short: stop all that use it and delete it"


class Unusable(Unreachable):
    """The file can't be used; the message says why."""


class NoRoom(Exception):
    """The file can't become larger."""


class MappedFile:
    """An open file, mapped. Its locks are used, but for those of `open` and `enlarge`, by whoever
    maps the records, under a mutex.

    Raises:
        Unusable: It is not this user's alone, not a file of that kind, of another version, cut
            short, or can't be made.
    """

    def __init__(self, path: str, layout: Layout = WINDOWS) -> None:
        self.path = path
        self.layout = layout
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        make_private(path, is_uri=False)  # whatever the umask
        try:
            self._descriptor = os.open(path, flags, PRIVATE)
        except OSError as error:
            raise self._unusable(_WHY.get(error.errno or 0, _said(error))) from error
        try:
            self._open()
        except OSError as error:
            os.close(self._descriptor)
            raise self._unusable(_said(error)) from error
        except BaseException:
            os.close(self._descriptor)
            raise
        self._renew()
        after_fork(self._renew)

    def _renew(self) -> None:
        self._enlarging = threading.Lock()

    def _unusable(self, why: str) -> Unusable:
        return Unusable(f"the file of {self.layout.what} {self.path} can't be used: {why}")

    def _open(self) -> None:
        found = os.fstat(self._descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise self._unusable("it is no regular file")
        if found.st_uid != os.geteuid():
            raise self._unusable(
                "it belongs to another user, whose processes alone may count in it; name one of "
                "this user's by KEYRUSH_LIMITER_URL=file:///…"
            )
        if found.st_mode & 0o077:
            raise self._unusable("others than its owner may use it: its mode must be 0600")
        #: Of which file this is, whatever its name.
        self.identity = (found.st_dev, found.st_ino)
        self._lock_to_open()
        try:
            if self._is_unfinished():
                self._create()
            self._check()
            #: The words of the header.
            self.header = self._mapped(PAGE, 0)
            self.check_whole()
            self.lock: KernelLock = kernel_lock(self._descriptor, PROOF)
            self.seed = self.header[SEED : SEED + 2].tobytes()
            #: The words of each segment, as far as they are mapped.
            self.segments: list[memoryview] = []
            self._map_segments()
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, ENLARGING)

    def _lock_to_open(self) -> None:
        ends = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, ENLARGING)
            except (BlockingIOError, PermissionError):
                if time.monotonic() >= ends:
                    raise self._unusable("another process has been at it for too long") from None
                time.sleep(0.001)
            else:
                return

    def _is_unfinished(self) -> bool:
        """True where nobody has written anything but, at most, a header without the magic."""
        size = os.fstat(self._descriptor).st_size
        if size > self.layout.start(1):
            return False
        content = os.pread(self._descriptor, self.layout.start(1), 0)
        return not content[:WORD].strip(b"\0") and not content[_USED:].strip(b"\0")

    def _create(self) -> None:
        self._reserve(0, self.layout.start(1))
        os.pwrite(self._descriptor, struct.pack("=Q16sQ", VERSION, os.urandom(16), 1), WORD)
        os.fsync(self._descriptor)
        os.pwrite(self._descriptor, struct.pack("=Q", self.layout.magic), 0)
        os.fsync(self._descriptor)

    def _check(self) -> None:
        begins = os.pread(self._descriptor, 2 * WORD, 0)
        if not begins.startswith(struct.pack("=Q", self.layout.magic)):
            raise self._unusable("it holds something else")
        if begins[WORD:] != struct.pack("=Q", VERSION):
            raise self._unusable(
                f"it is of another format than this keyrush's, which is {VERSION}: stop all that "
                "use it and delete it, or name another"
            )
        if os.fstat(self._descriptor).st_size < PAGE:
            raise self._unusable(_CUT)

    def check_whole(self) -> None:
        """Raises Unusable where the file is shorter than it says."""
        if not 1 <= self.header[SEGMENTS] <= MOST or not self._is_whole():
            raise self._unusable(_CUT)

    def _is_whole(self) -> bool:
        return os.fstat(self._descriptor).st_size >= self.layout.start(self.header[SEGMENTS])

    def _mapped(self, size: int, at: int) -> memoryview:
        return memoryview(mmap.mmap(self._descriptor, size, offset=at)).cast("Q")

    def _map_segments(self) -> None:
        """Map those that are not yet; under the lock for enlarging."""
        while (number := len(self.segments)) < self.header[SEGMENTS]:
            size = self.layout.start(number + 1) - self.layout.start(number)
            self.segments.append(self._mapped(size, self.layout.start(number)))

    # --- larger ---

    def enlarge(self, seen: int, mutex: threading.Lock) -> None:
        """Have more than `seen` segments, mapped; blocks, for milliseconds.

        `mutex` is held, briefly, at each use of the locks.

        Raises:
            NoRoom: There is none, or another process has been at it for too long.
            OSError: The file system gives none.
        """
        while not self.enlarge_a_little(seen, mutex, PATIENCE):
            pass

    def enlarge_a_little(self, seen: int, mutex: threading.Lock, patience: float) -> bool:
        """Do one part of `enlarge`, wherever it was left by anyone; True where all is done.
        `patience` is how long to wait for another process, in seconds.
        """
        # The locks know no threads: another would take part in this one's.
        if not self._enlarging.acquire(timeout=patience):
            raise NoRoom("another thread has been enlarging it for too long")
        try:
            if not self._lock_to_enlarge(mutex, patience):
                raise NoRoom("another process has been enlarging it for too long")
            try:
                if self.header[SEGMENTS] <= seen:
                    self._add_a_part()
                if self.header[SEGMENTS] > seen:
                    self._map_segments()
                return len(self.segments) > seen
            finally:
                with mutex:
                    self.lock.unlock(ENLARGING)
        finally:
            self._enlarging.release()

    def _add_a_part(self) -> None:
        """Reserve what comes next of a segment, which is one when it is whole."""
        number = self.header[SEGMENTS]
        if number >= MOST:
            raise NoRoom("it is as large as it can be")
        at, end = os.fstat(self._descriptor).st_size, self.layout.start(number + 1)
        if at < end:
            at += self._reserve(at, min(_CHUNK, end - at))
        if at >= end:
            self.header[SEGMENTS] = number + 1

    def _lock_to_enlarge(self, mutex: threading.Lock, patience: float) -> bool:
        ends = time.monotonic() + patience
        while True:
            with mutex:
                if self._descriptor < 0:
                    return False
                if self.lock.lock(ENLARGING):
                    return True
            if time.monotonic() >= ends:
                return False
            time.sleep(0.001)

    def _reserve(self, at: int, size: int) -> int:
        """Have blocks, not holes: a page that a full disk can't give would be a SIGBUS. And have
        them written, or the first take that touches a page would wait for the file system.
        """
        if hasattr(os, "posix_fallocate"):  # not on macOS
            os.posix_fallocate(self._descriptor, at, size)
        if os.pwrite(self._descriptor, bytes(size), at) < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return size

    # --- the end ---

    def is_current(self) -> bool:
        """False where it was deleted, replaced or cut short since it was opened."""
        try:
            found = Path(self.path).lstat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self.identity and self._is_whole()

    def close(self, mutex: threading.Lock) -> None:
        """Let go of locks, memory and descriptors. `mutex` is that of the locks."""
        with self._enlarging, mutex:
            self.lock.detach()
            self.segments.clear()  # a mapping has a descriptor of its own
            self.header = memoryview(b"")
            os.close(self._descriptor)
            self._descriptor = -1


def _said(error: OSError) -> str:
    return error.strerror or type(error).__name__
