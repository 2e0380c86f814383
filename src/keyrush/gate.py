"""The gate: the hot path and the cold path put together.

`warm` answers from memory and never blocks; where it can't, `cold` answers, and may block.
Both take what was sent and return `Admitted` or a `Refusal`. An adapter calls `warm`, then, if
that gave None, `cold`: WSGI directly, ASGI in a worker thread.
"""

from __future__ import annotations

import atexit
import logging
import weakref
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from keyrush import http
from keyrush.accounts import Accounts
from keyrush.background import Background
from keyrush.bridge import synchronous
from keyrush.cache import Cache
from keyrush.circuit import Away, Circuit
from keyrush.credits import Credits
from keyrush.errors import ConfigurationError, Refused, log_fault
from keyrush.health import Health
from keyrush.http import Credential, Header
from keyrush.keys import Fingerprints, Hashing, KeyFormat, Keyring
from keyrush.limiter import Limiter, monotonic_of, open_limiter
from keyrush.limiter.ledger import Place
from keyrush.model import Identity, Refusal, month_bounds, now_ms
from keyrush.pepper import peppers_for
from keyrush.policy import ANY_KEY, Policy, Rule
from keyrush.principal import Caller, Principal
from keyrush.responses import VARY, Fields, Refusals, seconds_until
from keyrush.settings import Settings
from keyrush.store import Store, open_store
from keyrush.usage import FLUSH_INTERVAL, Usage
from keyrush.verification import UNAVAILABLE, Verification
from keyrush.watch import Watch
from keyrush.windows import Tally, Window
from keyrush.workers import Pool, Workers

#: Statuses of refusals that are logged.
_WATCHED = {400, 401}

_log = logging.getLogger("keyrush")

#: Where scope and environ say which gate a request has passed, so that it counts once (traps).
#: In WSGI no `HTTP_` name, so that no client sets it.
GATE = "keyrush.gate"

#: Seconds between two looks at what other processes have changed.
WATCH_INTERVAL = 0.05

#: A limiter's `take_at_once`.
AtOnce = Callable[[Sequence[Window], int, int], Tally | None]

#: A limiter's `take_async`.
TakeAsync = Callable[[Sequence[Window], int, int], Awaitable[Tally]]

#: A request that is let through: who calls, and what to add to the response's headers.
Admitted = tuple[Principal, list[Header]]


class Gate:
    """Everything behind the middleware of one app. Safe to use from any thread or event loop.

    `accounts` are the operations on accounts and keys; those made through it take effect at
    once in this gate, in other processes as soon as they hear of it, at the latest within
    `CACHE_TTL`. `clock` gives Unix milliseconds.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        limiter: Limiter,
        peppers: list[bytes],
        clock: Callable[[], int] = now_ms,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.store = synchronous(store)
        self.limiter = synchronous(limiter)
        self.policy = Policy(
            settings.public_paths,
            settings.rule_values,
            modules=settings.modules,
            gated="module_not_in_plan" if settings.gated_status == "403" else "gated_feature",
        )
        self.refusals = Refusals(settings.error_body, settings.realm, settings.keys_url)
        self.cache = Cache(settings.cache_size, int(settings.cache_ttl * 1000))
        self.circuit = Circuit("the store", monotonic_of(clock))
        self.usage = Usage(self.store, self.circuit)
        self.workers = Workers()
        self.background = Background()
        self._take_at_once: AtOnce = _never
        if limiter.is_local and self.limiter is limiter:
            self._take_at_once = limiter.take
        else:
            self._take_at_once = getattr(limiter, "take_at_once", _never)
        self.is_limiter_async: bool = getattr(limiter, "is_async", False)
        # Its own, not that of the front, by which it could be called from threads alone.
        self._take_async: TakeAsync | None = getattr(limiter, "take_async", None)
        self._counts_at_once = settings.usage_durability == "exact"
        self._is_by_settings = False
        credits = Credits(self.store, self.circuit, self.workers)
        self.charge, self.charge_async = credits.charge, credits.charge_async
        self.uncharge = credits.uncharge
        self._fields = Fields(settings.headers)
        keyring = Keyring(
            KeyFormat(settings.key_prefix, settings.key_environments),
            Fingerprints(peppers),
            Hashing(
                settings.argon2_time_cost,
                settings.argon2_memory_cost,
                settings.argon2_parallelism,
            ),
        )
        self._verification = Verification(
            settings,
            self.store,
            self.cache,
            self.usage,
            keyring=keyring,
            circuit=self.circuit,
            background=self.background,
            clock=clock,
        )
        self.accounts = Accounts(
            settings, self.store, keyring=keyring, changed=self._changed, clock=clock
        )
        ledger = getattr(getattr(limiter, "shared", None), "ledger", None)
        self._publish: Callable[[str], None] | None = getattr(ledger, "publish", None)
        feeds = [source.feed() for source in (store, ledger) if hasattr(source, "feed")]  # type: ignore[union-attr]  # hasattr tells
        self._has_feeds = bool(feeds)
        self.watch = Watch(feeds, self.cache.drop, monotonic_of(clock))
        self.background.every(WATCH_INTERVAL, self.watch.poll)
        self.background.every(FLUSH_INTERVAL, self.usage.flush)
        if hasattr(limiter, "bind"):
            limiter.bind(self.background)
        self._closing = _close_at_exit(self)

    @classmethod
    def open(
        cls,
        settings: Settings | None = None,
        *,
        store: Store | None = None,
        limiter: Limiter | None = None,
        clock: Callable[[], int] = now_ms,
    ) -> Gate:
        """A gate from settings, by default those of the environment.

        `store` and `limiter`, where given, stand in for those that the settings name.

        Raises:
            ConfigurationError: A setting is wrong, or what it names can't be opened.
        """
        settings = settings or Settings()
        is_by_settings = store is None and limiter is None
        chosen = open_store(settings.store_url) if store is None else store
        front = synchronous(chosen)
        try:
            peppers = peppers_for(settings, front, now=clock())
            if limiter is None:
                limiter = open_limiter(
                    settings.limiter_url,
                    chosen,
                    mode=settings.limiter_mode,
                    outage=settings.limiter_outage,
                    clock=clock,
                )
        finally:
            if store is None:  # no connection is carried across a fork: they come with use
                front.close()
        gate = cls(settings, chosen, limiter, peppers, clock)
        gate._is_by_settings = is_by_settings
        return gate

    @classmethod
    def chosen(cls, settings: Settings | None, gate: Gate | None) -> Gate:
        """The gate that a middleware is given, or else one opened from its settings.

        Raises:
            ConfigurationError: Both are given, a setting is wrong, or what it names can't be
                opened.
        """
        if gate is None:
            return cls.open(settings)
        if settings is not None:
            raise ConfigurationError("give settings or a gate, not both: a gate has its own")
        return gate

    def is_same(self, other: Gate) -> bool:
        """True when passing this gate is as good as passing the other: the same one, or one made
        from the same settings alone, as when an app and an app mounted in it are both configured
        by the environment.
        """
        if self is other:
            return True
        return self._is_by_settings and other._is_by_settings and self.settings == other.settings

    # --- one request ---

    def warm(self, credential: Credential, rule: Rule, query: bytes) -> Admitted | Refusal | None:
        """The answer from memory alone, or None where only `cold` can give it.

        `query` is the raw query string: modules may be named in it.
        """
        entry = self.cache.get(credential.digest)
        now = self.clock()
        if entry is None:
            return http.INVALID if self._verification.rules_out(credential, now) else None
        if now >= entry.due and not self._verification.attend(entry, now):
            return None
        if rule.credits or self._counts_at_once:
            return None
        identity = entry.identity
        try:
            refusal = None if rule is ANY_KEY else self.policy.authorise(identity, rule, query)
            tally = self._take_at_once(identity.windows, 0 if refusal else 1, now)
            if tally is None:
                return None
            return self._answer(identity, credential, refusal, tally, now)
        except Exception as error:
            return _unavailable(error)

    async def warm_async(
        self, credential: Credential, rule: Rule, query: bytes
    ) -> Admitted | Refusal | None:
        """`warm`, where only the limiter must be asked and that can be awaited."""
        entry = self.cache.get(credential.digest)
        now = self.clock()
        if entry is None or now >= entry.due or rule.credits or self._counts_at_once:
            return None
        if self._take_async is None:
            return None
        identity = entry.identity
        try:
            refusal = self.policy.authorise(identity, rule, query)
            tally = await self._take_async(identity.windows, 0 if refusal else 1, now)
            return self._answer(identity, credential, refusal, tally, now)
        except Exception as error:
            return _unavailable(error)

    def cold(self, credential: Credential, rule: Rule, query: bytes) -> Admitted | Refusal:
        """The answer, with whatever look-up, hashing or charge it takes."""
        verified = self._verification.verify(credential)
        if isinstance(verified, Refusal):
            return verified
        identity = verified.identity
        now = self.clock()
        if now >= identity.expires_at:
            return http.INVALID
        try:
            refusal = self.policy.authorise(identity, rule, query)
            tally = self.limiter.take(identity.windows, 0 if refusal else 1, now)
            answer = self._answer(identity, credential, refusal, tally, now)
        except Exception as error:
            return _unavailable(error)
        if rule.credits and not isinstance(answer, Refusal):
            principal, _ = answer
            try:
                self.charge(principal, rule.credits)
            except Refused as refused:
                return self.refuse(principal, refused.refusal)
        return answer

    def pool(self, credential: Credential) -> Pool:
        """The threads in which `cold` should run for the credential."""
        return "hash" if self.cache.get(credential.digest) is None else "io"

    def _answer(
        self,
        identity: Identity,
        credential: Credential,
        refusal: Refusal | None,
        tally: Tally,
        now: int,
    ) -> Admitted | Refusal:
        """The answer to a verified caller, whom `refusal` or the tally may yet refuse."""
        if refusal is not None:  # with the fields of every authenticated response (R11)
            self.usage.turn(identity, now)
            fields = tuple(self._fields.of(identity, tally, now))
            return Refusal(refusal.reason, refusal.names, refusal.retry_after, fields)
        if not tally.admitted:
            wait = seconds_until(tally.ready_at, now)
            fields = tuple(self._fields.of(identity, tally, now))
            return Refusal("rate_limited", retry_after=wait, headers=fields)
        if not self.usage.add(identity, now):
            self.limiter.give_back(identity.windows, 1, now)
            return self._quota_exceeded(identity, now)
        if self._counts_at_once and (lost := self._count_at_once(identity, now)):
            return lost
        if self.background.thread is None:
            self.background.start()
        headers = self._fields.of(identity, tally, now)
        if credential.by_header:
            headers.append(VARY)
        return Principal(identity, self, now), headers

    def _count_at_once(self, identity: Identity, now: int) -> Refusal | None:
        """Write the count before the answer; a refusal where that can't be, or where with the
        counts of other processes the quota is exceeded; may block.
        """
        if not identity.counts:
            return None
        is_written = self.usage.flush()
        if is_written and not self.usage.exceeds(identity):
            return None
        self.usage.take_back(identity, now)
        self.limiter.give_back(identity.windows, 1, now)
        return self._quota_exceeded(identity, now) if is_written else UNAVAILABLE

    def _quota_exceeded(self, identity: Identity, now: int) -> Refusal:
        """The refusal of a quota that blocks: the month is the most constrained window (O14)."""
        first, following = month_bounds(now)
        amount = identity.plan.quota.amount if identity.plan.quota else 0
        tally = Tally(False, Window("", following - first, amount, "month"), 0, following)
        fields = tuple(self._fields.of(identity, tally, now))
        return Refusal("quota_exceeded", (), seconds_until(following, now), fields)

    def refuse(self, caller: Caller, refusal: Refusal) -> Refusal:
        """Give back what an admitted request took, because it is refused after all; may block."""
        if not isinstance(caller, Principal):
            return refusal
        identity = caller.resolved
        self.usage.take_back(identity, caller.taken_at)
        self.uncharge(caller)
        try:
            self.limiter.give_back(identity.windows, 1, caller.taken_at)
            now = self.clock()
            tally = self.limiter.take(identity.windows, 0, now)
            fields = tuple(self._fields.of(identity, tally, now))
            return Refusal(refusal.reason, refusal.names, refusal.retry_after, fields)
        except Away:
            return refusal
        except Exception as error:
            log_fault(f"the limiter can't take back a request of {identity.key_id}", error)
            return refusal

    def undo(self, answer: Admitted | Refusal) -> None:
        """`refuse`, for an answer that nobody waits for any more."""
        if not isinstance(answer, Refusal):
            self.refuse(answer[0], UNAVAILABLE)

    def log_refusal(self, refusal: Refusal, peer: str | None, forwarded_for: list[str]) -> None:
        """Log who failed to authenticate, for those who watch for break-ins; never the key."""
        if refusal.status in _WATCHED:
            address = http.client_address(peer, forwarded_for, self.settings.networks)
            _log.info("%d %s from %s", refusal.status, refusal.reason, address)

    def _changed(self, account_id: str) -> None:
        """An operation of this process has changed what is cached of an account."""
        self.cache.drop({account_id})
        if self._publish is not None:
            try:
                self._publish(account_id)
            except Exception as error:
                log_fault("other processes hear of a change by the store alone", error)

    # --- state ---

    def health(self) -> Health:
        """How things stand, from what is known; does no I/O."""
        asked: Any = getattr(self.limiter, "shared", self.limiter)
        circuit: Circuit | None = getattr(asked, "circuit", None)
        is_limiter_away = circuit is not None and not circuit.is_closed
        limiter_away = circuit.seconds_away if circuit else 0.0
        place: Place | None = getattr(asked, "place", None)
        return Health(
            is_well=self.circuit.is_closed and not is_limiter_away and self.watch.is_healthy,
            store_away=round(self.circuit.seconds_away, 1),
            limiter_away=round(limiter_away, 1),
            limits_meanwhile=asked.outage if is_limiter_away else None,
            workers=place.workers if place else None,
            hears_changes=self._has_feeds and self.watch.is_healthy,
            unwritten=self.usage.unwritten,
        )

    # --- end ---

    def flush(self) -> None:
        """Write what is counted and not yet stored, give back what is not used; blocks."""
        self.usage.flush()
        if flush := getattr(self.limiter, "flush", None):
            flush()

    def prepare_to_stop(self) -> None:
        """Write what is not yet stored, and from now on each count before its answer: the
        process may end without another word.
        """
        self._counts_at_once = True
        self.flush()

    def close(self) -> None:
        """Write what is not yet stored and let go of threads and connections.

        Runs by itself when the process ends. The gate may be used again afterwards.
        """
        self.workers.close()  # first: what it undoes is to be counted
        self.background.close()
        self.usage.flush()
        self.watch.close()
        self.limiter.close()
        self.store.close()


def _never(windows: Sequence[Window], cost: int, now: int) -> None:
    """In place of `take_at_once`, for a limiter that can't."""


def _unavailable(error: Exception) -> Refusal:
    if not isinstance(error, Away):  # which has been logged
        log_fault("the limiter can't answer", error)
    return UNAVAILABLE


def _close_at_exit(gate: Gate) -> weakref.ref[Gate]:
    def forget(_: weakref.ref[Gate]) -> None:
        atexit.unregister(close)

    reference = weakref.ref(gate, forget)

    def close() -> None:
        if found := reference():
            found.close()

    atexit.register(close)
    return reference
