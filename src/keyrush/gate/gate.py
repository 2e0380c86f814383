"""The gate: everything that stands behind the middleware, put together from settings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from keyrush.authentication.api_keys import ApiKeys
from keyrush.authentication.cache import Cache
from keyrush.authentication.peppers import pepper_file, peppers_for
from keyrush.authentication.proofs import Proofs
from keyrush.authentication.protocol import Authenticator
from keyrush.authentication.tokens.newcomers import Newcomers
from keyrush.authentication.tokens.opening import open_tokens
from keyrush.authentication.verification import Verification
from keyrush.core.calls import BODILESS
from keyrush.core.paths import PathList
from keyrush.core.refusal import Refusal
from keyrush.core.resources import AMBIGUOUS
from keyrush.core.times import DAY, month_of
from keyrush.errors import Away, ConfigurationError, Unreachable
from keyrush.events.log import log_event
from keyrush.events.protocol import Events, RequestRefused
from keyrush.gate.addresses import AddressSubjects
from keyrush.gate.admission import Admission
from keyrush.gate.anonymous import Unknowns
from keyrush.gate.charging import A_TURN, Charging
from keyrush.gate.concurrency import Concurrency
from keyrush.gate.configured import (
    environment_of,
    keyring_of,
    looking_up_in,
    noted_headers,
    policies_of,
)
from keyrush.gate.connections import LOOK_INTERVAL, Connections
from keyrush.gate.deciding import Deciding
from keyrush.gate.finishing import Finishing
from keyrush.gate.health import Health
from keyrush.gate.mcp_sessions import McpSessions
from keyrush.gate.observing import Observing
from keyrush.gate.principal import Means
from keyrush.gate.starting import asks_for_slots, modules_of_no_plan, say_started
from keyrush.gate.strangers import Strangers
from keyrush.gate.unanswered import Unanswered
from keyrush.gate.watch import Watch
from keyrush.gate.weighing import Weighing
from keyrush.gate.within import Within
from keyrush.limiter import opening as limiter_opening
from keyrush.limiter.opening import open_limiter
from keyrush.limiter.protocol import SmallLimiter
from keyrush.limiter.slots.opening import OpenedSlots, no_slots, open_slots
from keyrush.operations.accounts import Accounts
from keyrush.operations.activity import HOURS_KEPT, MINUTES_KEPT, ActivityLog
from keyrush.operations.credits import Credits
from keyrush.operations.ids import new_id
from keyrush.operations.key_records import KeyRecords
from keyrush.operations.keys import Keys
from keyrush.operations.portal import Portal
from keyrush.operations.sessions import Sessions
from keyrush.operations.usage import Usage
from keyrush.runtime.background import Background
from keyrush.runtime.bridge import running_loop
from keyrush.runtime.circuit import Circuit
from keyrush.runtime.clock import REAL, Clock
from keyrush.runtime.cpus import hashing_slots
from keyrush.runtime.exits import close_at_exit
from keyrush.runtime.logs import log_fault, plain
from keyrush.runtime.workers import Workers
from keyrush.settings.settings import Settings
from keyrush.store import opening as store_opening
from keyrush.store.opening import open_store
from keyrush.store.protocol import ActivityStore, Store
from keyrush.usage.activity import Recording
from keyrush.usage.counting import FLUSH_INTERVAL, MonthlyCounts
from keyrush.usage.retention import Retention
from keyrush.usage.shown import Addresses
from keyrush.wire.fields import Fields
from keyrush.wire.refusals import Asked, Refusals, Response
from keyrush.wire.request import CredentialHeaders
from keyrush.wire.resource_metadata import ResourceMetadata
from keyrush.wire.sender import Sender, client_address
from keyrush.wire.subprotocol import KeyProtocol

if TYPE_CHECKING:  # what verifies them is an extra
    from keyrush.authentication.tokens.tokens import Tokens

#: What a start with `KEYRUSH_PREFLIGHT=pass` warns of, and doctor.
PASSES_PREFLIGHTS = (
    "KEYRUSH_PREFLIGHT=pass: every OPTIONS request with the headers of a CORS preflight reaches "
    "the app without a key; make sure that nothing in it answers OPTIONS but CORS middleware"
)

_log = logging.getLogger("keyrush")

#: Where scope and environ say which gate a request has passed, so that it counts once (traps).
#: In WSGI no `HTTP_` name, so that no client sets it.
GATE = "keyrush.gate"

#: Seconds between two looks at whether keys of issuers are old.
LOOK_AT_KEYS = 5.0

#: Seconds between two looks at what other processes have changed.
WATCH_INTERVAL = 0.05


class Gate:
    """Everything behind the middleware of one app. Safe to use from any thread or event loop.

    `accounts`, `keys`, `key_records`, `sessions`, `credits`, `usage` and `activity` are the
    operations. What they change applies at once in this gate, and in other processes as soon as
    these hear of it, at the latest after `CACHE_TTL`. `clock` gives Unix milliseconds.
    """

    def __init__(  # noqa: PLR0915  # what there is, put together in its order
        self,
        settings: Settings,
        store: store_opening.Opened,
        limiter: limiter_opening.Opened,
        peppers: list[bytes],
        clocks: Clock = REAL,
        *,
        opens_slots: Callable[[], OpenedSlots],
        authenticators: Sequence[Authenticator[Any]] = (),
    ) -> None:
        clock, monotonic = clocks.now, clocks.monotonic
        self.settings = settings
        self.catalog = settings.catalog()
        self.clock = clock
        self.store = store.store
        #: Its methods are coroutines, which an event loop of the app has to run.
        self.is_store_async = store.is_async
        metadata = ResourceMetadata(self.catalog.resources, settings.root_path)
        self.policy, call_policy = policies_of(settings, self.catalog, metadata)
        #: The request headers that may hold a key.
        self.credential_headers = CredentialHeaders(
            settings.credential_headers,
            tokens=bool(settings.issuers),
            noted=noted_headers(settings),
        )
        #: How browsers send a key with a WebSocket's handshake, where they may.
        self.key_protocol: KeyProtocol | None = None
        if name := settings.websocket_protocol:
            self.key_protocol = KeyProtocol(name, self.credential_headers)
        self.hides_credentials = settings.hide_credentials
        self.vary = self.credential_headers.vary
        #: Who hears of refusals, and of what would have been: the log, and what is added.
        self.events = Events(log_event)
        self.refusals = Refusals(settings.error_body, settings.realm, settings.keys_url)
        self.cache = Cache(
            settings.cache_size,
            int(settings.cache_ttl * 1000),
            int(settings.stale_if_error * 1000),
        )
        self.circuit = Circuit("the store", monotonic)
        self.counts = MonthlyCounts(self.store, self.circuit)
        #: What notes activity; None where none is recorded.
        activity = store_opening.activity_of(self.store)
        self.retention = Retention(
            activity,
            self.circuit,
            (settings.activity_days * DAY, MINUTES_KEPT, HOURS_KEPT),
            clock=clock,
            monotonic=monotonic,
        )
        self.recording = self._recording(settings, activity, monotonic)
        #: Whether the store does, so that it is there for other processes.
        self.keeps_activity = activity is self.store
        slots = hashing_slots(settings.argon2_slots)
        self.workers = Workers(slots, looking_up_in(store))
        self.background = Background()
        self._is_by_settings = False
        if settings.usage_durability == "exact":
            self._record_at_once()
        self.charging = Charging(self.store, self.circuit, self.workers, monotonic, clock)
        keyring = keyring_of(settings, peppers)
        #: What keys look like here.
        self.key_format = keyring.format
        #: Secrets for a purpose, derived from the peppers, newest first.
        self.secrets = keyring.fingerprints.derived
        self.proofs = Proofs(self.store, self.circuit, keyring)
        api_keys = ApiKeys(self.store, keyring, self.circuit, self.proofs, slots=slots)
        verification = Verification(
            (api_keys, *authenticators, *self._tokens(settings, monotonic)),
            self.catalog,
            self.cache,
            self.counts,
            background=self.background,
            clock=clock,
        )
        self.limiter = limiter.limiter
        fields = Fields(settings.headers)
        #: What counts requests under way.
        self.concurrency = Concurrency(opens_slots, self.background, monotonic)
        observing = Observing(self.counts, self.events.emit)
        weighing = Weighing(
            self.limiter,
            limiter.awaited,
            concurrency=self.concurrency,
            observing=observing,
            workers=self.workers,
            fields=fields,
            clock=clock,
        )
        self.deciding = Deciding(
            self.limiter,
            limiter.awaited,
            means=Means(self.policy, self.charging, weighing),
            concurrency=self.concurrency,
            usage=self.counts,
            observing=observing,
            charging=self.charging,
            background=self.background,
            fields=fields,
            vary=self.vary,
            clock=clock,
            counts_at_once=settings.usage_durability == "exact",
        )
        limits = [limit for one in settings.by_address for limit in one.all]
        lengths = [limit.seconds * 1000 for limit in limits]
        addresses = AddressSubjects(settings.networks, max(lengths, default=60_000), clock)
        exempt = () if settings.anonymous is None else settings.anonymous.exempt_paths
        unknowns = Unknowns(
            self.limiter,
            limiter.awaited,
            concurrency=self.concurrency,
            weighing=weighing,
            limits=None if settings.anonymous is None else settings.anonymous.value(),
            is_exempt=PathList("exempt", exempt, settings.root_path).holds,
            policy=self.policy,
            addresses=addresses,
            workers=self.workers,
            fields=fields,
            clock=clock,
        )
        #: What finishes requests that memory alone can't answer.
        self.finishing = Finishing(
            self.deciding,
            self.policy,
            call_policy,
            cache=self.cache,
            verification=verification,
            workers=self.workers,
            looks_up_in="look-up" if store.database else "io",
            strangers=Strangers(monotonic),
            addresses=addresses,
            clock=clock,
            recording=self.recording,
        )
        self.admission = Admission(
            self.finishing,
            metadata=metadata,
            credential_headers=self.credential_headers,
            unknowns=unknowns,
            passes_preflights=settings.preflight == "pass",
        )
        #: What is asked of a request that has passed it, on its way to an app in the app.
        self.within = Within(self.policy, weighing, addresses)
        bindings = store_opening.bindings_of(self.store)
        #: Who has opened which session of an MCP server.
        self.mcp_sessions = McpSessions(bindings, self.circuit, clock)
        #: Their calls that have not been answered.
        self.unanswered = Unanswered(clock)
        #: What is open, and ends when its key does.
        self.connections = Connections(
            self.store,
            self.circuit,
            clock,
            ttl=self.cache.ttl,
            is_told=lambda: self.watch.hears_all,
        )
        changed, key_format = self._changed, keyring.format
        self.accounts = Accounts(
            self.catalog,
            self.store,
            issuers=settings.issuer_names,
            key_format=key_format,
            changed=changed,
            clock=clock,
        )
        self.sessions = Sessions(
            self.store,
            issuers=settings.issuer_names,
            key_format=key_format,
            changed=changed,
            clock=clock,
        )
        self.portal = Portal(
            self.store,
            store_opening.portal_of(self.store),
            self.accounts,
            key_format=key_format,
            clock=clock,
        )
        self.keys = Keys(
            self.catalog,
            self.store,
            self.accounts,
            keyring=keyring,
            changed=changed,
            clock=clock,
        )
        self.key_records = KeyRecords(self.store, self.keys, key_format=key_format, clock=clock)
        self.credits = Credits(
            self.catalog,
            self.store,
            self.accounts,
            key_format=key_format,
            changed=changed,
            clock=clock,
        )
        self.usage = Usage(self.catalog, self.store, self.accounts, self.keys, clock=clock)
        self.activity = ActivityLog(activity, self.accounts, key_format=key_format, clock=clock)
        changes = [one for one in (store.changes, limiter.changes) if one is not None]
        lag = store.lag
        self.watch = Watch(
            changes,
            self._drop,
            monotonic,
            complete=None if lag is None else store.changes,
            vouch=lambda age: self.cache.vouch(clock() - int((age + (lag or 0)) * 1000)),
        )
        self.background.every(WATCH_INTERVAL, self.watch.poll)
        self.background.every(LOOK_INTERVAL, self.connections.look)
        self.background.every(FLUSH_INTERVAL, self.counts.flush)
        self.background.every(FLUSH_INTERVAL, self.proofs.flush)
        if self.recording is not None:
            self.background.every(FLUSH_INTERVAL, self.recording.flush)
        self.background.every(FLUSH_INTERVAL, self.retention.forget)
        self.background.every(FLUSH_INTERVAL, partial(self.charging.settle, A_TURN))
        self.background.every(FLUSH_INTERVAL, self._look_after_news)
        self.limiter.start(self.background)
        if (asking := asks_for_slots(settings)) is not None:
            try:
                self.concurrency.open()
            except Unreachable:
                raise
            except ConfigurationError as error:
                raise ConfigurationError(f"{asking}: {error}") from error
        if settings.preflight == "pass":
            _log.warning(PASSES_PREFLIGHTS)
        for text in modules_of_no_plan(settings):
            _log.warning("%s", plain(text))
        close_at_exit(self)

    @classmethod
    def open(
        cls,
        settings: Settings | None = None,
        *,
        store: Store | None = None,
        limiter: SmallLimiter | None = None,
        clock: Callable[[], int] | None = None,
        authenticators: Sequence[Authenticator[Any]] = (),
    ) -> Gate:
        """A gate from settings, by default those of the environment.

        `store` and `limiter`, if given, replace those that the settings name; `clock`, which gives
        Unix milliseconds, replaces the clocks of this machine and of servers. `authenticators`
        verify other kinds of credentials than API keys.

        Raises:
            ConfigurationError: A setting is wrong, or what it names can't be opened.
        """
        settings = Settings() if settings is None else settings
        if not isinstance(settings, Settings):
            kind = type(settings).__name__
            raise ConfigurationError(
                f'settings: must be Settings, as in Settings(store_url="memory://"), not {kind}'
            )
        clocks = Clock.of(clock)
        is_by_settings = store is None and limiter is None and not authenticators
        kept = open_store(settings.store_url) if store is None else store_opening.given(store)
        try:
            file = pepper_file(settings.store_url)
            peppers = peppers_for(settings.peppers, file, kept, now=clocks.now())
            if limiter is None:
                counted = open_limiter(
                    settings.limiter_url,
                    kept.database,
                    mode=settings.limiter_mode,
                    outage=settings.limiter_outage,
                    clock=clocks,
                )
            else:
                counted = limiter_opening.given(
                    limiter, outage=settings.limiter_outage, clock=clocks
                )
        finally:
            if store is None:  # no connection is carried across a fork: they come with use
                kept.store.close()
        opens_slots: Callable[[], OpenedSlots] = no_slots
        if limiter is None:
            opens_slots = partial(
                open_slots,
                settings.limiter_url,
                kept.database,
                outage=settings.limiter_outage,
                clock=clocks,
            )
        gate = cls(
            settings,
            kept,
            counted,
            peppers,
            clocks,
            opens_slots=opens_slots,
            authenticators=authenticators,
        )
        say_started(settings, store, counted, limiter, keeps_activity=gate.keeps_activity)
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
        if not isinstance(gate, Gate):
            kind = type(gate).__name__
            raise ConfigurationError(f"gate: must be a Gate, as Gate.open() gives it, not {kind}")
        return gate

    def is_same(self, other: Gate) -> bool:
        """True when passing this gate is as good as passing the other: the same one, or one made
        from the same settings alone, as when an app and an app mounted in it are both configured
        by the environment.
        """
        if self is other:
            return True
        return self._is_by_settings and other._is_by_settings and self.settings == other.settings

    def portal_link(self, account_id: str, *, write: bool = True) -> str:
        """A URL that signs whoever opens it in to the account's dashboard, once, within 10
        minutes; the session lasts for 24 hours. Without `write` it may only read.

        Raises:
            NotFound: There is no such account.
            ConfigurationError: The store can't keep it.
        """
        return f"{self.settings.dashboard_at}/link/{self.portal.link(account_id, write=write)}"

    def address(self, peer: str | None, forwarded_for: Sequence[bytes]) -> str | None:
        """The client's address, as far as the trusted proxies tell it."""
        return client_address(peer, forwarded_for, self.settings.networks)

    def response(
        self,
        refusal: Refusal,
        peer: str | None,
        forwarded_for: Sequence[bytes],
        asked: Asked | None = None,
    ) -> Response:
        """The response for `refusal`; listeners are told of it."""
        sender = Sender(peer, forwarded_for, self.settings.networks)
        self.events.emit(RequestRefused(refusal, sender))
        return self.refusals.response(refusal, asked)

    def asked(
        self, method: str, path: str, root: str, call_id: str | int | None = None
    ) -> Asked | None:
        """What was asked of a resource, for its refusal; None where the path is none's."""
        resource = self.policy.resource_at(path, root)
        if resource is None:
            return None
        is_call = method.upper() not in BODILESS
        return Asked(None if resource is AMBIGUOUS else resource, is_call, call_id)

    def _recording(
        self, settings: Settings, store: ActivityStore, monotonic: Callable[[], float]
    ) -> Recording | None:
        if settings.activity == "off":
            return None
        return Recording(
            store,
            self.circuit,
            Addresses(settings.activity_address, settings.networks),
            records_all=settings.activity == "all",
            retention=self.retention,
            monotonic=monotonic,
        )

    def _tokens(self, settings: Settings, monotonic: Callable[[], float]) -> Sequence[Tokens]:
        """What knows the tokens of issuers, where there are some."""
        if not settings.issuers:
            return ()
        if not store_opening.keeps_links(self.store):
            raise ConfigurationError(
                "KEYRUSH_ISSUERS: the store can't keep whom issuers know; see "
                "keyrush.store.protocol.LinkStore"
            )
        newcomers = Newcomers(self.store, self.circuit, new_id, self.catalog.default_plan)
        tokens = open_tokens(
            settings.issuer_values,
            self.store,
            self.circuit,
            newcomers,
            resources={name for one in self.catalog.resources for name in one.audiences},
            environment=environment_of(settings.key_environments, self.catalog.unmetered),
            removed=lambda: self._drop(None),
            monotonic=monotonic,
        )
        self.background.every(LOOK_AT_KEYS, tokens.refresh)
        return (tokens,)

    def _changed(self, account_id: str) -> None:
        """An operation of this process has changed what is cached of an account."""
        self._drop({account_id})
        self.watch.publish(account_id)

    def _drop(self, accounts: Collection[str] | None) -> None:
        """What is known of accounts, or with None of all, may have changed."""
        self.cache.drop(accounts)
        self.charging.forget(accounts)
        self.connections.drop(accounts)

    # --- state ---

    def _look_after_news(self) -> None:
        """Ask the store where no news come: it may be away, and requests have not noticed yet."""
        if not self.watch.is_healthy:
            with suppress(Away):  # which is what health says
                self.circuit.call(self.store.usage, "", month_of(self.clock()))

    def health(self) -> Health:
        """The state of store, limits and threads, as far as it is known; does no I/O."""
        if self.background.is_missing:
            self.background.start()
        limiter, slots = self.limiter.state(), self.concurrency.state()
        hears_changes = self.watch.hears_all
        return Health(
            is_well=self.circuit.is_closed
            and not (limiter.is_away or slots.is_away)
            and not self.background.is_missing,
            store_away=round(self.circuit.seconds_away, 1),
            limiter_away=round(max(limiter.away_for, slots.away_for), 1),
            limits_meanwhile=limiter.meanwhile or slots.meanwhile,
            workers=limiter.workers or slots.workers,
            hears_changes=hears_changes,
            changes_within=WATCH_INTERVAL if hears_changes else self.settings.cache_ttl,
            has_thread=not self.background.is_missing,
            unwritten=self.counts.unwritten,
            unrecorded=self.recording.dropped if self.recording else 0,
        )

    # --- end ---

    def flush(self) -> None:
        """Write all counts that are not stored yet, and give back unused units; blocks."""
        _take_each(
            self.charging.settle,
            self.counts.flush,
            self._record,
            self.proofs.flush,
            self.limiter.flush,
            self.concurrency.flush,
        )

    def _record_at_once(self) -> None:
        """Write what is recorded as soon as a request has ended; no answer waits for it."""
        if (recording := self.recording) is not None:
            recording.hurry = partial(self.workers.submit, "io", recording.flush, must=True)

    def _record(self) -> None:
        if self.recording is not None:
            self.recording.flush()

    def prepare_to_stop(self) -> None:
        """Write what is not stored yet, and from now on each count before its answer, because the
        process may end at any time.

        In this very call, but for a store of coroutines on an event loop, which has to go on.
        """
        self.deciding.counts_at_once = True
        self.finishing.waiting.stop()
        self._record_at_once()
        if self.is_store_async and running_loop() is not None:
            self.workers.submit("io", self.flush, must=True)
        else:
            self.flush()

    def close(self) -> None:
        """Write what is not stored yet, and close threads and connections.

        Runs by itself when the process ends. The gate may be used again afterwards. If one part
        can't be closed, that is logged, and the others are closed all the same.
        """
        steps = (
            self.finishing.waiting.release,
            self.workers.close,  # before what counts: what it undoes is to be counted
            self.background.close,
            self.charging.close,
            self.counts.flush,
            self._record,
            self.proofs.flush,
            self.watch.close,
            self.limiter.close,
            self.concurrency.close,
            self.store.close,
        )
        _take_each(*(partial(_safely, step) for step in steps))


def _take_each(*steps: Callable[[], object]) -> None:
    """Take every step, in order, whatever becomes of the one before. What one raises, as at Ctrl-C,
    is raised at the end.
    """
    with ExitStack() as stack:
        for step in reversed(steps):
            stack.callback(step)


def _safely(step: Callable[[], object]) -> None:
    try:
        step()
    except Exception as error:
        log_fault(f"closing: {getattr(step, '__qualname__', 'a step')} failed", error)
