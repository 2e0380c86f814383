"""A flood of addresses: what a million windows of a minute take, in a file and in memory.

    python -m tests.long.addresses [file] [memory] [--addresses 1000000] [--folder FOLDER]

Each address takes once. Then some are looked at; when none counts any more half as many others
come, which must need no more. Bytes are of the file and of the memory that is the process's own.
The exit code is 1 where a file and its process need more than 80 bytes an address, then or later,
or where one that counts was forgotten.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from keyrush.core.sliding import Demand, Window
from keyrush.limiter.mapped import MappedLimiter
from keyrush.limiter.memory import MemoryLimiter
from keyrush.limiter.protocol import Limiter
from tests.support.mapped import MINUTE, NOW

#: Bytes that an address may take, in the file and in the process.
BOUND = 80

#: Every so many-th address is asked again.
_SAMPLE = 97


class Row(NamedTuple):
    """What came of one limiter."""

    where: str
    bytes_each: float
    of_file: float  #: of these
    later: float  #: bytes each once others have come, after the first have ended
    microseconds: float  #: of a take
    known: bool  #: all that were asked again counted

    @property
    def holds(self) -> bool:
        """Whether it is as it must be; what memory takes is told, and not bounded."""
        return self.known and (not self.of_file or max(self.bytes_each, self.later) <= BOUND)


def _window(number: int) -> tuple[Window, ...]:
    """Of an IPv6 network."""
    text = f"address:2001:db8:{number >> 16:x}:{number & 0xFFFF:x}::"
    return (Window(f"{text}:60", MINUTE, 20, "minute"),)


def _own_memory() -> int:
    """Bytes of this process that it shares with nobody, and with no file."""
    gc.collect()
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024


def flood(
    where: str,
    addresses: int,
    make: Callable[[Callable[[], int]], Limiter],
    size: Callable[[], int],
) -> Row:
    """Have so many addresses take, twice; `size` is of the file, in bytes."""
    clock = [NOW]
    before = _own_memory()
    limiter = make(lambda: clock[0])
    seconds = _come(limiter, range(addresses), clock[0])
    own, of_file = _own_memory() - before, size()
    sample = range(0, addresses, _SAMPLE)
    known = all(limiter.take(_window(number), 0, clock[0]).remaining == 19 for number in sample)
    clock[0] += 3 * MINUTE
    others = range(addresses, addresses + addresses // 2)
    _come(limiter, others, clock[0])
    later = _own_memory() - before + size()
    known &= all(
        limiter.take(_window(number), 0, clock[0]).remaining == 19 for number in others[::_SAMPLE]
    )
    limiter.close()
    return Row(
        where,
        (own + of_file) / addresses,
        of_file / addresses,
        later / addresses,
        seconds / addresses * 1e6,
        known,
    )


def _come(limiter: Limiter, numbers: range, now: int) -> float:
    begun = time.thread_time()
    for number in numbers:
        limiter.take_together([Demand(_window(number), 1)], now)
    return time.thread_time() - begun


def main() -> int:
    """Print what they took; 1 where it was too much."""
    parser = argparse.ArgumentParser(prog="python -m tests.long.addresses", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help="file, memory; both by default")
    parser.add_argument("--addresses", type=int, default=1_000_000)
    parser.add_argument("--folder", help="where the file is; by default a new one")
    options = parser.parse_args()
    rows = []
    if "file" in (options.parts or ["file"]):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            path = Path(folder) / "windows"
            rows.append(
                flood(
                    "a file",
                    options.addresses,
                    lambda clock: MappedLimiter(str(path), clock=clock),
                    lambda: path.stat().st_size,
                )
            )
    if "memory" in (options.parts or ["memory"]):
        rows.append(flood("memory", options.addresses, MemoryLimiter, lambda: 0))
    for row in rows:
        print(  # noqa: T201  # a command
            f"{'ok' if row.holds else 'WRONG':6}{row.where}: {row.bytes_each:.0f} bytes an address "
            f"({row.of_file:.0f} of them in the file), {row.later:.0f} once others have come; "
            f"{row.microseconds:.1f} us a take; "
            f"{'none' if row.known else 'SOME'} forgotten that counted"
        )
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
