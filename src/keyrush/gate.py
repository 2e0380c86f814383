"""The gate: the hot path and the cold path put together.

`warm` answers from memory and never blocks; where it can't, `cold` answers, and may block.
Both take what was sent and return `Admitted` or a `Refusal`. An adapter calls `warm`, then, if
that gave None, `cold`: WSGI directly, ASGI in a worker thread.
"""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from collections.abc import Callable

from keyrush import http
from keyrush.accounts import Accounts
from keyrush.bridge import synchronous
from keyrush.cache import Cache, Entry
from keyrush.errors import ConfigurationError, Refused, log_fault
from keyrush.forks import after_fork
from keyrush.http import Credential, Header
from keyrush.keys import Fingerprints, Hashing, KeyFormat, Keyring
from keyrush.limiter import Limiter, open_limiter
from keyrush.model import Identity, Refusal, month_bounds, now_ms
from keyrush.pepper import peppers_for
from keyrush.policy import ANY_KEY, Policy, Rule
from keyrush.principal import Caller, Principal
from keyrush.responses import VARY, Fields, Refusals, seconds_until
from keyrush.settings import Settings
from keyrush.store import Store, open_store
from keyrush.usage import TOUCH_INTERVAL, Usage
from keyrush.verification import UNAVAILABLE, Verification
from keyrush.windows import Tally, Window
from keyrush.workers import Pool, Workers

#: Statuses of refusals that are logged.
_WATCHED = {400, 401}

_log = logging.getLogger("keyrush")

#: Where scope and environ say which gate a request has passed, so that it counts once (traps).
#: In WSGI no `HTTP_` name, so that no client sets it.
GATE = "keyrush.gate"

#: A request that is let through: who calls, and what to add to the response's headers.
Admitted = tuple[Principal, list[Header]]


class Gate:
    """Everything behind the middleware of one app. Safe to use from any thread or event loop.

    `accounts` are the operations on accounts and keys; those made through it take effect at
    once in this gate, those made in other processes within `CACHE_TTL`. `clock` gives Unix
    milliseconds.
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
        self.usage = Usage(self.store)
        self.workers = Workers()
        self._limiter_is_local = limiter.is_local and self.limiter is limiter
        self._is_by_settings = False
        self._renew_lock()
        after_fork(self._renew_lock)
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
            settings, self.store, self.cache, self.usage, keyring=keyring, clock=clock
        )
        self.accounts = Accounts(
            settings, self.store, keyring=keyring, changed=self.cache.drop, clock=clock
        )
        self._closing = _close_at_exit(self)

    def _renew_lock(self) -> None:
        self._credits_lock = threading.Lock()

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
        chosen = open_store(settings.store_url) if store is None else store
        front = synchronous(chosen)
        try:
            peppers = peppers_for(settings, front, now=clock())
            counted_by = open_limiter(settings.limiter_url) if limiter is None else limiter
        finally:
            if store is None:  # no connection is carried across a fork: they come with use
                front.close()
        gate = cls(settings, chosen, counted_by, peppers, clock)
        gate._is_by_settings = store is None and limiter is None
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
        if rule.credits or not self._limiter_is_local:
            return None
        if now >= entry.fresh_until:
            return None
        if now >= entry.identity.expires_at:
            return http.INVALID
        return self._admit(entry, credential, rule, query, now)

    def cold(self, credential: Credential, rule: Rule, query: bytes) -> Admitted | Refusal:
        """The answer, with whatever look-up, hashing or charge it takes."""
        verified = self._verification.verify(credential)
        if isinstance(verified, Refusal):
            return verified
        now = self.clock()
        if now >= verified.identity.expires_at:
            return http.INVALID
        answer = self._admit(verified, credential, rule, query, now)
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

    def _admit(
        self, entry: Entry, credential: Credential, rule: Rule, query: bytes, now: int
    ) -> Admitted | Refusal:
        identity = entry.identity
        if now >= entry.touch_due:
            entry.touch_due = now + TOUCH_INTERVAL
            self.usage.used(identity.key_id, now)
        try:
            if rule is not ANY_KEY:
                refusal = self.policy.authorise(identity, rule, query)
                if refusal is not None:
                    return self._with_fields(identity, refusal, now)
            tally = self.limiter.take(identity.windows, 1, now)
            if not tally.admitted:
                wait = seconds_until(tally.ready_at, now)
                fields = self._fields.of(identity, tally, now)
                return Refusal("rate_limited", retry_after=wait, headers=tuple(fields))
            if not self.usage.add(identity, now):
                self.limiter.give_back(identity.windows, 1, now)
                return self._quota_exceeded(identity, now)
        except Exception as error:
            log_fault("the limiter can't answer", error)
            return UNAVAILABLE
        headers = self._fields.of(identity, tally, now)
        if credential.by_header:
            headers.append(VARY)
        return Principal(identity, self, now), headers

    def _quota_exceeded(self, identity: Identity, now: int) -> Refusal:
        """The refusal of a quota that blocks: the month is the most constrained window (O14)."""
        first, following = month_bounds(now)
        amount = identity.plan.quota.amount if identity.plan.quota else 0
        tally = Tally(False, Window("", following - first, amount, "month"), 0, following)
        fields = tuple(self._fields.of(identity, tally, now))
        return Refusal("quota_exceeded", (), seconds_until(following, now), fields)

    def _with_fields(self, identity: Identity, refusal: Refusal, now: int) -> Refusal:
        """The refusal with the fields of every authenticated response (R11); takes nothing."""
        tally = self.limiter.take(identity.windows, 0, now)
        self.usage.turn(identity, now)
        fields = tuple(self._fields.of(identity, tally, now))
        return Refusal(refusal.reason, refusal.names, refusal.retry_after, fields)

    def refuse(self, caller: Caller, refusal: Refusal) -> Refusal:
        """Give back what an admitted request took, because it is refused after all; may block."""
        if not isinstance(caller, Principal):
            return refusal
        identity = caller.resolved
        self.usage.take_back(identity, caller.taken_at)
        self.uncharge(caller)
        try:
            self.limiter.give_back(identity.windows, 1, caller.taken_at)
            return self._with_fields(identity, refusal, self.clock())
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

    # --- credits ---

    def charge(self, principal: Principal, credits: int) -> int | None:
        """See `Principal.charge`."""
        identity = principal.resolved
        if not identity.is_metered:
            return None
        try:
            balance = self.store.charge(identity.account_id, credits)
        except Exception as error:
            log_fault("the store can't charge", error)
            principal.refusal = UNAVAILABLE
            raise Refused(UNAVAILABLE) from error
        if balance is None:
            principal.refuse(Refusal("insufficient_credits"))
        with self._credits_lock:
            principal.charged += credits
        return balance

    async def charge_async(self, principal: Principal, credits: int) -> int | None:
        """See `Principal.charge_async`."""

        def undo(balance: int | None) -> None:
            if balance is not None:  # nobody waits for the work that it was for
                self._give_credits_back(principal, credits)

        return await self.workers.run("io", self.charge, principal, credits, undo=undo)

    def uncharge(self, caller: Caller) -> None:
        """Give back all credits charged for this request; may block."""
        if isinstance(caller, Principal) and caller.charged:
            self._give_credits_back(caller, caller.charged)

    def _give_credits_back(self, principal: Principal, credits: int) -> None:
        with self._credits_lock:  # whoever comes second finds nothing left to give back
            credits = min(credits, principal.charged)
            principal.charged -= credits
        if not credits:
            return
        try:
            self.store.grant(principal.account_id, credits)
        except Exception as error:
            log_fault(f"{credits} credits of {principal.account_id} not given back", error)

    # --- end ---

    def flush(self) -> None:
        """Write what is counted and not yet stored; blocks."""
        self.usage.flush()

    def close(self) -> None:
        """Write what is not yet stored and let go of threads and connections.

        Runs by itself when the process ends. The gate may be used again afterwards.
        """
        self.workers.close()  # first: what it undoes is to be counted
        self.usage.close()
        self.limiter.close()
        self.store.close()


def _close_at_exit(gate: Gate) -> weakref.ref[Gate]:
    def forget(_: weakref.ref[Gate]) -> None:
        atexit.unregister(close)

    reference = weakref.ref(gate, forget)

    def close() -> None:
        if found := reference():
            found.close()

    atexit.register(close)
    return reference
