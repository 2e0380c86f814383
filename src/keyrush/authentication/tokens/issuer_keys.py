"""The keys of one issuer in memory: fetched when they are needed, and again before they are old.

A key that is known is known at once, whatever becomes of the issuer. Who asks for one that is not
begins a fetch, unless one is under way, and is to ask again when that is over: none begins within
`COOL_DOWN` of another, and what has failed leaves the keys as they were (S51). No request's thread
waits, and once the issuer is away, no request does.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial

from keyrush.authentication.protocol import Later
from keyrush.authentication.tokens.fetching import PATIENCE, fetch_keys
from keyrush.authentication.tokens.jwks import Key, secret_key, usable
from keyrush.core.issuers import HS256, Issuer
from keyrush.errors import Away
from keyrush.runtime.forks import after_fork
from keyrush.runtime.logs import log_fault

#: Seconds from the beginning of a fetch to that of the next one.
COOL_DOWN = 10.0

#: Seconds after which keys are fetched again: half of what S54 allows.
REFRESH = 300.0


class IssuerKeys:
    """The keys of an issuer. Safe to use from any thread; never waits.

    `removed` is called when a key is known no more. `monotonic` gives seconds.
    """

    def __init__(
        self,
        issuer: Issuer,
        removed: Callable[[], object],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuer = issuer
        self._removed = removed
        self._monotonic = monotonic
        self._secret = None if issuer.secret is None else secret_key(issuer.secret)
        self._keys: Mapping[str, Key] = {}
        self._marks: frozenset[bytes] = frozenset()
        self._forget()
        after_fork(self._forget)

    def _forget(self) -> None:
        """As in a new process, but for the keys: a fetch that is under way is the parent's."""
        self._lock = threading.Lock()
        self._flight: Future[None] | None = None
        self._began_at = -math.inf
        self._is_away = False  # the last fetch has failed

    def find(self, algorithm: str, name: str) -> Key | None:
        """The key of that name, "" for the only one, if it is for that algorithm.

        Raises:
            Later: It is not known, and perhaps is when the fetch is over that is under way.
            Away: It is not known, and the issuer does not answer.
        """
        if algorithm == HS256:
            return self._secret
        if (key := self._known(algorithm, name)) is not None:
            return key
        flight = self._begin()
        if self._is_away:
            raise Away(f"{self._issuer.issuer} is away")
        if flight is not None:
            raise Later(flight)
        return self._known(algorithm, name)  # what has just been fetched

    def has(self, mark: bytes) -> bool:
        """Whether the key that has this mark is still the issuer's."""
        return not mark or mark in self._marks  # the secret's is empty

    def refresh(self) -> None:
        """Begin to fetch keys that are old, or could not be fetched; waits for nothing. Keys that
        nobody has asked for are nobody's business.
        """
        wait = COOL_DOWN if self._is_away else REFRESH
        if (self._keys or self._is_away) and self._monotonic() >= self._began_at + wait:
            self._begin()

    def _known(self, algorithm: str, name: str) -> Key | None:
        keys = self._keys
        if name:
            key = keys.get(name)
            return key if key is not None and key.algorithm == algorithm else None
        fitting = [key for key in keys.values() if key.algorithm == algorithm]
        return fitting[0] if len(fitting) == 1 else None

    def _begin(self) -> Future[None] | None:
        """The fetch that is under way, perhaps begun here; None where none may begin yet."""
        with self._lock:
            if self._flight is not None:
                return self._flight
            if self._monotonic() < self._began_at + COOL_DOWN:
                return None
            flight: Future[None] = Future()
            self._flight, self._began_at = flight, self._monotonic()
        if not self._start(partial(self._watch, flight)):
            self._land(flight)
        return flight

    def _watch(self, flight: Future[None]) -> None:
        """Fetch the keys, and tell who waits once it is over, or has taken too long."""
        is_over = threading.Event()
        if self._start(partial(self._fetch, is_over)) and not is_over.wait(PATIENCE):
            self._failed(TimeoutError("no answer in time"))
        self._land(flight)

    def _start(self, work: Callable[[], None]) -> bool:
        """Have a thread of its own do it, for nobody knows how long it takes."""
        thread = threading.Thread(target=work, name="keyrush-issuer", daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError) as error:  # what Python raises for want of one
            self._failed(error)
            return False
        return True

    def _fetch(self, is_over: threading.Event) -> None:
        try:
            self._replace(usable(fetch_keys(self._issuer), self._issuer))
        except BaseException as error:  # whoever waits must not wait for ever
            self._failed(error)
        finally:
            is_over.set()

    def _land(self, flight: Future[None]) -> None:
        with self._lock:
            if self._flight is flight:
                self._flight = None
        flight.set_result(None)

    def _failed(self, error: BaseException) -> None:
        self._is_away = True
        log_fault(f"the keys of {self._issuer.issuer} can't be fetched; those known stay", error)

    def _replace(self, keys: Sequence[Key]) -> None:
        """Have these keys be the issuer's; none at all is a mistake, and changes nothing."""
        if not keys:
            raise ValueError("no key among them is of use")
        before = self._marks
        self._keys = {key.name: key for key in keys}
        self._marks = frozenset(key.mark for key in keys)
        self._is_away = False
        if before - self._marks:
            self._removed()
