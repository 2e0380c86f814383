"""Who calls, on one request: `scope["keyrush"]` in ASGI, `environ["keyrush.principal"]` in WSGI."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from http import HTTPStatus
from typing import Literal, NamedTuple, NoReturn, Protocol

from keyrush.core.checks import checked_cost, checked_credits
from keyrush.core.identity import KEY, Verified
from keyrush.core.model import Scopes
from keyrush.core.policy import Policy
from keyrush.core.refusal import Refusal, Refused
from keyrush.core.resources import Resource
from keyrush.core.sliding import Demand
from keyrush.limiter.slots.protocol import Slot
from keyrush.usage.activity import Came
from keyrush.usage.shown import shown_id
from keyrush.wire.request import Header

INTERNAL_SERVER_ERROR = HTTPStatus.INTERNAL_SERVER_ERROR.value


class Charge(NamedTuple):
    """What an account was charged, once."""

    reference: str  #: by which the store knows it, and reverses it
    account_id: str
    credits: int


class Taken(NamedTuple):
    """What was taken from windows for a request, and is given back where it is refused after
    all.
    """

    demands: Sequence[Demand]
    at: int  #: Unix milliseconds
    observed: Sequence[Demand] = ()  #: the same, of windows that are only observed
    is_named: bool = False  #: of a limit in code, which has a cost of its own


class Charges(Protocol):
    """What charges a principal's account."""

    def charge(self, principal: Principal, credits: int) -> int | None:
        """Charge the principal's account."""
        ...

    def charge_async(self, principal: Principal, credits: int) -> Awaitable[int | None]:
        """`charge`, off the event loop."""
        ...


#: Whose requests a limit in code counts.
PerCaller = Literal["key", "account"]


class Weighs(Protocol):
    """What takes from windows while the app answers."""

    def limit(
        self, principal: Principal, limits: str, name: str, per: PerCaller, cost: int
    ) -> None:
        """Take from windows of their own."""
        ...

    def limit_async(
        self, principal: Principal, limits: str, name: str, per: PerCaller, cost: int
    ) -> Awaitable[None]:
        """`limit`, off the event loop."""
        ...

    def cost(self, principal: Principal, units: int) -> None:
        """Have the request cost so many units."""
        ...

    def cost_async(self, principal: Principal, units: int) -> Awaitable[None]:
        """`cost`, off the event loop."""
        ...

    def cost_after(self, caller: Principal | Anonymous, units: int) -> None:
        """Have the request cost so many units, whatever the limits."""
        ...


class Means(NamedTuple):
    """What principals act through: a gate's own, the same for all."""

    policy: Policy
    charging: Charges
    weighing: Weighs


class Caller:
    """Whoever calls, known or not: what `request.user` and `request.auth` are in Starlette."""

    __slots__ = ("charges", "is_left", "refusal", "slots")

    is_authenticated = False

    #: The request, as activity has it; None where it has none.
    came: Came | None = None

    #: What its request holds until it is over, where only so many may be under way at once; unset
    #: otherwise, because every request would pay for it: see `concurrency.Concurrency.end`.
    slots: tuple[Slot, ...]

    #: By which window it would have been refused, were that more than observed; empty by none.
    would_limit = ""

    def __init__(self) -> None:
        self.charges: tuple[Charge, ...] = ()  #: what this request was charged so far
        self.refusal: Refusal | None = None  #: what this request was refused with, in the app

    @property
    def charged(self) -> int:
        """Credits charged for this request so far."""
        return sum(charge.credits for charge in self.charges)

    def lost_refusal(self, status: int) -> Refusal | None:
        """What the app raised, where a framework has made an internal error of it, or its adapter
        has left the answer to the gate.
        """
        if status == INTERNAL_SERVER_ERROR or hasattr(self, "is_left"):
            return self.refusal
        return None

    def leave(self, refusal: Refusal) -> None:
        """Leave the answer to the gate, which says `refusal` whatever the framework answers now."""
        self.refusal = refusal
        self.is_left = True  # set here alone: every request would pay for it

    def refuse(self, refusal: Refusal) -> NoReturn:
        """Refuse this request with `refusal`.

        Raises:
            Refused: Always.
        """
        self.refusal = refusal
        raise Refused(refusal)


class Principal(Caller):
    """The caller of one request: a verified credential, its account and what they may do.

    In an ASGI app it is also `request.user` and `request.auth`. If one of its methods raises
    `Refused`, the gate answers with the documented refusal, unless the response has started.
    """

    __slots__ = ("_means", "_verified", "came", "shown", "taken_at", "takes")

    is_authenticated = True

    #: What it has taken from windows, where that is not one unit a request of the plan's; unset
    #: otherwise, because every request would pay for it: see `taking.takes_of`.
    takes: tuple[Taken, ...]

    #: Requests that it is to windows and counts.
    taken = 1

    #: What its messages were charged, one by one, where it brings any.
    paid: tuple[Charge, ...] = ()

    #: The resource that it is for.
    resource: Resource | None = None

    def __init__(
        self,
        verified: Verified,
        means: Means,
        taken_at: int,
        shown: list[Header],
        came: Came | None = None,
    ) -> None:
        self._verified = verified
        self.came = came
        self._means = means
        self.taken_at = taken_at  #: Unix milliseconds: when this request took from its windows
        self.shown = shown  #: what the gate adds to the headers of the response
        self.charges = ()  # not by super().__init__(), which every warm request would pay for
        self.refusal = None

    def __repr__(self) -> str:
        known = self._verified
        return f"<Principal {known.key_id} {known.prefix} of {known.account_id}>"

    @property
    def verified(self) -> Verified:
        """Everything that is known of the key, as cached."""
        return self._verified

    @property
    def account_id(self) -> str:
        """The `acct_…` id of the account that the key belongs to."""
        return self._verified.account_id

    @property
    def key_id(self) -> str | None:
        """The `cred_…` id of the key; None for a caller without a key."""
        known = self._verified
        return known.key_id if known.source == KEY else None

    @property
    def subject(self) -> str | None:
        """The `sub` of the token; None for a key."""
        session = self._verified.session
        return None if session is None else session.subject

    @property
    def session_id(self) -> str | None:
        """The issuer's id of the session, if the token names one."""
        session = self._verified.session
        return None if session is None else session.session_id

    @property
    def client_id(self) -> str | None:
        """The OAuth client that the token was issued to, if it names one."""
        session = self._verified.session
        return None if session is None else session.client_id

    @property
    def source(self) -> str:
        """How the caller was identified: `"key"`, `"session"`, `"oauth"`, or the kind that your own
        authenticator names.
        """
        return self._verified.source

    @property
    def name(self) -> str:
        """The name of the key; for a token, its subject."""
        return self._verified.name

    @property
    def environment(self) -> str | None:
        """`"live"`, `"test"`, …, or None where keys have no environment (contract R2)."""
        return self._verified.environment

    @property
    def rule(self) -> str | None:
        """The rule of the request: the template of its path, or the tool that is called; None if no
        rule applies.
        """
        return (self.came and self.came[5]) or None

    @property
    def request_id(self) -> str | None:
        """The `X-Request-ID` that a client or a proxy has sent: 1 to 64 visible ASCII characters;
        None if there is none, or if it may be a key.
        """
        return shown_id(self.came[7][1]) if self.came else None

    @property
    def scopes(self) -> Scopes:
        """The granted scopes; `in` honours wildcards (contract R4)."""
        return self._verified.scopes

    @property
    def plan(self) -> str:
        """The name of the account's plan; `verified.plan` has what it includes."""
        return self._verified.plan.name

    @property
    def display_name(self) -> str:
        """The name of the key; for `request.user` in Starlette."""
        return self._verified.name

    @property
    def identity(self) -> str:
        """The id of the key, or of whom a token stands for; for `request.user` in Starlette."""
        return self._verified.key_id

    def require_scope(self, *scopes: str) -> None:
        """Go on only if all `scopes` are granted.

        Raises:
            Refused: 403 insufficient_scope (S17).
        """
        if not self.scopes.covers(scopes):
            self.refuse(Refusal("insufficient_scope", names=scopes))

    def has_module(self, module: str) -> bool:
        """True when the plan includes `module`; for scopes, ask `scope in principal.scopes`."""
        return module in self._verified.plan.modules

    def require_module(self, *modules: str) -> None:
        """Go on only if the plan includes all `modules`. Don't catch what it raises: to ask
        without refusing, use `has_module`.

        Raises:
            Refused: 403, without a challenge, or 402 by GATED_STATUS (contract R16, S18, O12).
        """
        if refusal := self._means.policy.missing_modules(self._verified, modules):
            self.refuse(refusal)

    def charge(self, credits: int) -> int | None:
        """Charge the account before the work (contract O11); the new balance.

        Blocks for a store call: in a coroutine, await `charge_async`. The credits are given back
        if the request is refused later, or answered with an error (400 or above). Sandbox keys
        are not charged, and get None.

        Raises:
            Refused: 402 when the balance is short (O12), 503 when the store is away.
            InvalidArgument: `credits` is negative or beyond any price.
        """
        return self._means.charging.charge(self, checked_credits(credits))

    async def charge_async(self, credits: int) -> int | None:
        """`charge`, for coroutines: the event loop goes on meanwhile."""
        return await self._means.charging.charge_async(self, checked_credits(credits))

    def limit(self, limits: str, *, name: str, per: PerCaller = "key", cost: int = 1) -> None:
        """Go on only within `limits`, such as `"5/minute"`, for what you call `name`: a limit that
        depends on more than the path. Calls of one name with other amounts share its counts.

        Blocks if windows are on a server: in a coroutine, await `limit_async`. `cost` units are
        taken, for each key or each account, and given back if the request is refused later. The
        response's headers show the most constrained window (O14).

        Raises:
            Refused: 429 when it is over them, 503 when the limiter is away.
            InvalidArgument: `limits` are malformed, `name` is no name, or `cost` no cost.
        """
        self._means.weighing.limit(self, limits, name, per, cost)

    async def limit_async(
        self, limits: str, *, name: str, per: PerCaller = "key", cost: int = 1
    ) -> None:
        """`limit`, for coroutines: the event loop goes on meanwhile."""
        await self._means.weighing.limit_async(self, limits, name, per, cost)

    def cost(self, units: int) -> None:
        """Make this request cost `units` in each window of its plan and its rule, instead of one or
        the rule's `cost`. Call it before the answer begins; what it took beyond is given back.

        Blocks if windows are on a server: in a coroutine, await `cost_async`.

        Raises:
            Refused: 429 when there are not so many left, 503 when the limiter is away.
            InvalidArgument: `units` is no whole number from 0 to 1,000,000,000.
        """
        self._means.weighing.cost(self, units)

    async def cost_async(self, units: int) -> None:
        """`cost`, for coroutines: the event loop goes on meanwhile."""
        await self._means.weighing.cost_async(self, units)

    def cost_after(self, units: int) -> None:
        """Make this request cost `units`, as with `cost`, once they are known, such as tokens or
        rows: at any time, even after its answer. All of them are counted, even beyond the limits;
        then the caller's next requests have to wait longer. Does no I/O.

        Raises:
            InvalidArgument: `units` is no whole number from 0 to 1,000,000,000.
        """
        self._means.weighing.cost_after(self, units)


class Calling(Principal):
    """The caller of a request that is not the plain one: to a resource, where it is as many as it
    has calls, or over limits that are only observed.
    """

    __slots__ = ("paid", "resource", "taken", "would_limit")

    def __init__(
        self,
        verified: Verified,
        means: Means,
        taken_at: int,
        shown: list[Header],
        came: Came | None,
        *,
        resource: Resource | None,
        taken: int,
        would_limit: str,
    ) -> None:
        super().__init__(verified, means, taken_at, shown, came)
        self.resource = resource
        self.taken = taken
        self.would_limit = would_limit
        self.paid = ()


class Anonymous(Caller):
    """`request.user` and `request.auth` where nobody is known: no scopes."""

    __slots__ = ("_weighing", "slots", "takes")

    #: What it holds until it is over, by their address; unset where that is nothing.
    slots: tuple[Slot, ...]

    scopes = Scopes()
    display_name = ""
    identity = ""

    def __init__(self, weighing: Weighs | None = None) -> None:
        super().__init__()
        self.takes: tuple[Taken, ...] = ()  #: what was taken from windows by their address
        self._weighing = weighing  # None where nothing is limited

    def __repr__(self) -> str:
        return "<Anonymous>"

    def cost_after(self, units: int) -> None:
        """`Principal.cost_after` for the windows of the client's address: those of `[anonymous]`
        and of rules. If there are none, it does nothing.

        Raises:
            InvalidArgument: `units` is no whole number from 0 to 1,000,000,000.
        """
        checked_cost(units)
        if self._weighing is not None:
            self._weighing.cost_after(self, units)
