"""POSIX record locks, which die with their process, whatever children it has.

They know no threads: all of a process share what any of them holds, and closing the file anywhere
in the process lets go of all. So there is one descriptor of a file, and a mutex before its locks.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import sys
from typing import Protocol

_SETLK = fcntl.F_SETLK

#: What `lockf` fails with where another process has the lock.
_HELD = {errno.EAGAIN, errno.EACCES}

#: `struct flock` on 64-bit Linux: type, whence, start, length, pid.
_FLOCK = struct.Struct("hhqqi4x")

#: Whether `struct flock` is like that here.
_IS_KNOWN = sys.platform == "linux" and sys.maxsize > 2**32

_START = 1  # its word, of eight bytes
_UNLOCKED = struct.pack("h", fcntl.F_UNLCK)


class KernelLock(Protocol):
    """Locks of single bytes of a file, which need not exist. Not thread-safe; never waits."""

    def lock(self, at: int) -> bool:
        """Lock the byte; False where another process has it."""
        ...

    def unlock(self, at: int) -> None:
        """Let go of the byte."""
        ...

    def holder(self, at: int) -> int | None:
        """The process that has the byte, 0 where that can't be told; None where no other has."""
        ...

    def detach(self) -> None:
        """Lock nothing any more: the descriptor is about to be closed."""
        ...


class Lockf:
    """Anywhere. A call lets go of the GIL, which a busy thread then keeps for milliseconds."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def lock(self, at: int) -> bool:
        """Raises OSError where the file system has no locks."""
        if self._descriptor < 0:
            return False
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, at)
        except OSError as error:
            if error.errno in _HELD:
                return False
            raise
        return True

    def unlock(self, at: int) -> None:
        if self._descriptor >= 0:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, at)

    def holder(self, at: int) -> int | None:
        return _holder(self._descriptor, at)

    def detach(self) -> None:
        self._descriptor = -1


class HoldingGil:
    """The same locks by the same call, with the GIL kept: a take is over before anyone is let in.

    Right for 64-bit Linux alone: how the structure lies in memory, and how a function of variable
    arguments is called, is another matter elsewhere.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._call = ctypes.PyDLL(None).fcntl
        self._locking, self._locked_at = _flock(fcntl.F_WRLCK)
        self._unlocking, self._unlocked_at = _flock(fcntl.F_UNLCK)

    def lock(self, at: int) -> bool:
        self._locked_at[_START] = at
        return not self._call(self._descriptor, _SETLK, self._locking)

    def unlock(self, at: int) -> None:
        self._unlocked_at[_START] = at
        self._call(self._descriptor, _SETLK, self._unlocking)

    def holder(self, at: int) -> int | None:
        return _holder(self._descriptor, at)

    def detach(self) -> None:
        self._descriptor = -1


def _holder(descriptor: int, at: int) -> int | None:
    if descriptor < 0:
        return None
    if not _IS_KNOWN:
        return 0
    question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, at, 1, 0)
    kind, _, _, _, process = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, question))
    return None if kind == fcntl.F_UNLCK else int(process)


def _flock(kind: int) -> tuple[object, memoryview]:
    """A `struct flock` for one byte, to be passed on, and its words, to say which byte."""
    buffer = bytearray(_FLOCK.pack(kind, os.SEEK_SET, 0, 1, 0))
    passed = ctypes.byref((ctypes.c_char * _FLOCK.size).from_buffer(buffer))
    return passed, memoryview(buffer).cast("q")


def kernel_lock(descriptor: int, proof: int) -> KernelLock:
    """The best locks there are here. `proof` is a byte to try them on, which nobody else tries now.

    Raises:
        OSError: The file system has none.
    """
    plain = Lockf(descriptor)
    plain.unlock(proof)
    if _IS_KNOWN:
        holding = HoldingGil(descriptor)
        if _is_proved(holding, descriptor, proof):
            return holding
    return plain


def _is_proved(lock: KernelLock, descriptor: int, at: int) -> bool:
    """True where the kernel says that this process has locked the byte, and then that nobody has.

    It is asked as for a lock of the open file's, with which those of its own processes conflict.
    """
    question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, at, 1, 0)
    try:
        is_locked = lock.lock(at)
        while_locked = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, question)
        lock.unlock(at)
        afterwards = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, question)
    except OSError:  # a kernel that knows no such question
        return False
    locked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, at, 1, os.getpid())
    return is_locked and while_locked == locked and afterwards[:2] == _UNLOCKED
