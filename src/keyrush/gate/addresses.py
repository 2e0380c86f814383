"""Whose address a request comes from, as a subject of limits, of which there are never too many."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from hashlib import blake2b
from secrets import token_bytes

from keyrush.core.rule_limits import address_subject
from keyrush.runtime.forks import after_fork
from keyrush.usage.activity import Peer
from keyrush.wire.sender import Network, client_address, network_of

#: Clients whose subject is remembered.
_REMEMBERED = 4096

#: The subject of all whose address nobody knows, as at a Unix socket.
UNKNOWN = address_subject("unknown")

#: Addresses that have windows of their own, of those that first came in one period; what windows
#: count is of two. All that come beyond share `CROWDS` subjects: so a flood of addresses takes no
#: more memory, from no ledger, and pushes nobody out who is counted.
MOST, CROWDS = 500_000, 1024

#: Bits of the filter for each address, and how many are set: of a hundred strangers, one is taken
#: for known.
_BITS, _PROBES = 10, 5


class AddressSubjects:
    """The subjects of clients, as far as the `trusted` proxies tell their addresses: each address
    of IPv4, each /64 of IPv6. Safe to use from any thread.

    `length` is that of the longest window by address, in milliseconds, as those of `clock`.
    """

    def __init__(
        self,
        trusted: Sequence[Network | str],
        length: int,
        clock: Callable[[], int],
        most: int = MOST,
    ) -> None:
        self._trusted = trusted
        self._length = length
        self._clock = clock
        self._most = most
        self._seed = token_bytes(16)  # or who reads this could find some that are taken for known
        self._period = -1
        self._known: dict[tuple[str | None, bytes | None], str] = {}
        self._new = self._old = _Filter(0)
        self._renew_lock()
        after_fork(self._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()

    def of(self, peer: Peer, forwarded_for: bytes | None) -> str:
        """The subject of whoever is at the other end, or of whom they ask for."""
        host = peer if peer is None or isinstance(peer, str) else peer[0]
        client = host, forwarded_for if self._trusted else None
        if self._clock() // self._length != self._period:
            self._turn()
        known = self._known.get(client)
        if known is None:
            known = self._find(*client)
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[client] = known
        return known

    def _turn(self) -> None:
        """Begin a new period. A clock that steps back into the one before is held at this one, as
        counters of windows are (`sliding.roll`): nobody who is counted is forgotten.
        """
        with self._lock:
            period = self._clock() // self._length
            if period not in (self._period, self._period - 1):
                is_next = period == self._period + 1
                self._old = self._new if is_next else _Filter(0)
                self._new, self._period, self._known = _Filter(self._most), period, {}

    def _find(self, host: str | None, forwarded_for: bytes | None) -> str:
        forwarded = () if forwarded_for is None else (forwarded_for,)
        network = network_of(client_address(host, forwarded, self._trusted))
        subject = UNKNOWN if network is None else address_subject(network)
        digest = blake2b(subject.encode(), digest_size=8 * _PROBES, key=self._seed).digest()
        numbers = [int.from_bytes(digest[at : at + 8], "big") for at in range(0, 8 * _PROBES, 8)]
        with self._lock:
            if self._new.has(numbers):
                return subject
            if self._new.count < self._most or self._old.has(numbers):
                self._new.add(numbers)
                return subject
        return address_subject(f"crowd {numbers[0] % CROWDS}")


class _Filter:
    """A Bloom filter: of what was added it has all, and of the rest hardly any."""

    def __init__(self, most: int) -> None:
        self.count = 0
        self._size = most * _BITS
        self._bits = bytearray(self._size // 8 + 1)

    def has(self, numbers: Sequence[int]) -> bool:
        if not self.count:
            return False
        bits, size = self._bits, self._size
        return all(bits[(at := number % size) >> 3] >> (at & 7) & 1 for number in numbers)

    def add(self, numbers: Sequence[int]) -> None:
        self.count += 1
        for number in numbers:
            at = number % self._size
            self._bits[at >> 3] |= 1 << (at & 7)
