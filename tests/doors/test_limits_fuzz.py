"""Random rules, plans and requests: ASGI and WSGI answer alike, and as a model of the pages does.

The model is written anew, with sums of its own (`oracle`), and knows nothing of the gate's values.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from urllib.parse import parse_qs
from wsgiref.validate import validator

import pytest

from keyrush import Gate, KeyrushMiddleware, wsgi
from tests.conftest import Clock, settings
from tests.support.calls import Reply, Sent, asgi_call, environ_of, scope_of, wsgi_call
from tests.support.oracle import used

#: Of each schedule. A failure names its seed.
REQUESTS, SEEDS = 150, range(12)

SECONDS = {"second": 1, "minute": 60, "hour": 3600}
PATHS = ("/a", "/b/1", "/c", "/open", "/public")
ACCOUNTS = {"acct_a": "starter", "acct_b": "pro"}

#: Ways to write a path that are one to every app, and others that name another one, or none.
SAME = ("{}", "{}", "{}", "{}/")
OTHER = ("{};x=1", "{}%2e", "{}%20", "{}%252f")
MALFORMED = ("/{}", "{}//", "{}/%2e", "{}/..{}", "{}%0a", "{}%5c", "{}/.%2e/")


class Limited(NamedTuple):
    """One window of the model."""

    subject: str
    group: str
    length: int
    amount: int

    @property
    def key(self) -> tuple[str, str, int]:
        return self[:3]


Windows = tuple[Limited, ...]


@dataclass
class Schedule:
    """Settings and requests, by chance."""

    seed: int
    random: Random = field(init=False)
    plans: dict[str, dict[str, Any]] = field(init=False)
    rules: list[dict[str, Any]] = field(init=False)
    anonymous: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.random = chance = Random(self.seed)  # noqa: S311  # no secret
        self.plans = {name: self._plan() for name in ("starter", "pro")}
        self.rules = [self._rule(path) for path in ("/a", "/b/{id}", "/c", "/open", "/public")]
        if chance.random() < 0.5:
            self.rules.insert(0, {**self._rule("/a"), "methods": ["GET"]})
        if shared := [rule for rule in self.rules if "limits" in rule]:
            # One rule more that shares a window with another.
            group, of = "shared", shared[0]
            of["limit_group"] = group
            others = [rule for rule in self.rules if "limits" not in rule]
            for rule in others[:1]:
                rule["limit_group"] = group
        self.anonymous = self._limits()

    def _limits(self) -> list[str]:
        chance = self.random
        lengths = chance.sample(sorted(SECONDS), chance.choice((1, 1, 2)))
        return [f"{chance.randint(1, 12)}/{length}" for length in lengths]

    def _plan(self) -> dict[str, Any]:
        chance = self.random
        plan: dict[str, Any] = {"per": chance.choice(("key", "account"))}
        plan["limits"] = self._limits() if chance.random() < 0.8 else "unlimited"
        plan["quota_per"] = chance.choice(("key", "account"))
        if chance.random() < 0.4:
            plan["monthly_quota"] = chance.randint(0, 40)
            plan["on_exceed"] = chance.choice(("overage", "block"))
        plan["mode"] = chance.choice(("enforce", "enforce", "observe"))
        return plan

    def _rule(self, path: str) -> dict[str, Any]:
        chance = self.random
        rule: dict[str, Any] = {"path": path, "cost": chance.choice((1, 1, 2, 3))}
        if chance.random() < 0.7:
            is_by_plan = chance.random() < 0.3
            rule["limits"] = {"pro": self._limits()} if is_by_plan else self._limits()
            rule["per"] = chance.choice(("key", "account", "address"))
            rule["mode"] = chance.choice(("enforce", "enforce", "observe"))
        return rule

    def requests(self) -> Iterator[Asked]:
        chance = self.random
        for _ in range(REQUESTS):
            path = chance.choice(PATHS)
            kind = chance.choices((SAME, OTHER, MALFORMED), (8, 1, 1))[0]
            actions = []
            if chance.random() < 0.3:
                actions = chance.choices(("limit", "cost", "after"), k=chance.randint(1, 2))
            yield Asked(
                chance.choices(range(4), (3, 3, 3, 2))[0],
                path,
                chance.choice(kind).format(path, path),
                kind,
                chance.choice(("GET", "GET", "HEAD", "POST")),
                chance.choice(("192.0.2.1", "192.0.2.2")),
                [f"{one}={chance.randint(0, 4)}" for one in actions],
                chance.choice((0, 0, 0, 1, 300, 1500, 20_000, 61_000, 3_600_000)),
            )


class Asked(NamedTuple):
    """A request."""

    who: int  #: one of three keys, or nobody
    path: str
    spelled: str
    kind: Sequence[str]
    method: str
    address: str
    actions: list[str]  #: what the app does
    passed: int  #: milliseconds since the last one


@dataclass
class Expected:
    """What comes of a request, by the model."""

    status: int
    remaining: int | None = None  #: None where it is not told, or nothing is
    is_over: bool = False  #: what is only observed would have refused it


class Model:
    """What the pages say, with counts by window and period."""

    def __init__(self, schedule: Schedule, clock: Clock) -> None:
        self._schedule = schedule
        self._clock = clock
        self.counts: defaultdict[tuple[str, str, int], Counter[int]] = defaultdict(Counter)
        self._requests: Counter[str] = Counter()  # of the month

    # --- windows ---

    def _add(self, windows: Windows, units: int) -> None:
        for one in windows:
            self.counts[one.key][self._clock() // one.length] += units

    def left(self, window: Limited) -> int:
        return window.amount - used(self.counts[window.key], window.length, self._clock())

    def _has(self, windows: Windows, units: int) -> bool:
        return not units or all(self.left(one) >= units for one in windows)

    @staticmethod
    def _windows(subject: str, group: str, limits: Any) -> Windows:
        if limits == "unlimited":
            return ()
        parsed = (one.split("/") for one in limits)
        lengths = ((int(amount), SECONDS[unit] * 1000) for amount, unit in parsed)
        return tuple(Limited(subject, group, length, amount) for amount, length in lengths)

    # --- rules ---

    def _rule(self, asked: Asked) -> dict[str, Any]:
        """The first rule that matches."""
        template = asked.path.replace("/b/1", "/b/{id}")
        method = "GET" if asked.method == "HEAD" else asked.method
        if asked.kind is OTHER and template != "/b/{id}":  # whose segment may be anything
            return {}
        for rule in self._schedule.rules:
            if rule["path"] == template and method in rule.get("methods", [method]):
                return rule
        return {}

    def _limits_of(self, rule: dict[str, Any]) -> dict[str, Any]:
        """The rule that says the limits of this one: itself, or one of its group."""
        group = rule.get("limit_group")
        for one in self._schedule.rules:
            if "limits" in one and (one is rule or (group and one.get("limit_group") == group)):
                return one
        return {}

    def _of_rule(self, rule: dict[str, Any], subjects: dict[str, str], plan: str) -> Windows:
        saying = self._limits_of(rule)
        limits = saying.get("limits", [])
        if isinstance(limits, dict):
            limits = limits.get(plan, [])
        own = f"{saying.get('methods')} {saying.get('path')}"
        group = saying.get("limit_group") or own
        return self._windows(subjects[saying.get("per", "key")], group, limits)

    # --- requests ---

    def ask(self, asked: Asked) -> Expected:
        """What comes of it."""
        if asked.kind is MALFORMED:
            return Expected(400)
        is_known_path = asked.kind is SAME and asked.spelled == asked.path
        if is_known_path and asked.path == "/public":
            return self._nobody(asked)
        if asked.who == 3:
            return self._nobody(asked) if is_known_path and asked.path == "/open" else Expected(401)
        account_id = "acct_b" if asked.who == 2 else "acct_a"
        name = ACCOUNTS[account_id]
        plan, rule = self._schedule.plans[name], self._rule(asked)
        subjects = {"key": f"key {asked.who}", "account": account_id, "address": asked.address}
        own = self._windows(subjects[plan["per"]], "", plan["limits"])
        ruled = self._of_rule(rule, subjects, name)
        is_observed = plan["mode"] == "observe", self._limits_of(rule).get("mode") == "observe"
        request = Going(self, [(is_observed[0], own), (is_observed[1], ruled)])
        if not request.take(rule.get("cost", 1)):
            return Expected(429)
        counted = subjects[plan["quota_per"]]
        blocks = "monthly_quota" in plan and plan["on_exceed"] == "block"
        is_above = blocks and self._requests[counted] + 1 > plan["monthly_quota"]
        if is_above and not is_observed[0]:
            request.undo()
            return Expected(429)
        request.is_over = request.is_over or is_above
        for action in asked.actions:
            verb, _, units = action.partition("=")
            if not request.act(verb, int(units), subjects):
                request.undo()
                return Expected(429)
        self._requests[f"key {asked.who}"] += 1
        self._requests[account_id] += 1
        return Expected(200, request.shown, request.is_over)

    def _nobody(self, asked: Asked) -> Expected:
        rule = self._rule(asked)
        subjects = dict.fromkeys(("key", "account", "address"), asked.address)
        own = self._windows(asked.address, "anonymous", self._schedule.anonymous)
        is_observed = self._limits_of(rule).get("mode") == "observe"
        ruled = self._of_rule(rule, subjects, "")
        request = Going(self, [(False, own), (is_observed, ruled)])
        if not request.take(rule.get("cost", 1)):
            return Expected(429)
        return Expected(200, request.shown, request.is_over)


class Going:
    """A request that is let in, and what it has taken."""

    def __init__(self, model: Model, own: list[tuple[bool, Windows]]) -> None:
        self._model = model
        self._own = [windows for is_observed, windows in own if windows and not is_observed]
        self._observed = [windows for is_observed, windows in own if windows and is_observed]
        self._taken: dict[Windows, int] = {}
        self.is_over = False
        self.shown: int | None = None

    def _change(self, windows: Windows, units: int) -> None:
        self._model._add(windows, units)  # noqa: SLF001  # one model in two parts
        self._taken[windows] = self._taken.get(windows, 0) + units

    def _take(self, enforced: dict[Windows, int], observed: dict[Windows, int]) -> bool:
        """All that is enforced or nothing, then each that is observed."""
        has = self._model._has  # noqa: SLF001  # as above
        if not all(has(windows, units) for windows, units in enforced.items()):
            return False
        for windows, units in enforced.items():
            self._change(windows, units)
        over = [windows for windows, units in observed.items() if not has(windows, units)]
        for windows, units in observed.items():
            self._change(windows, 0 if windows in over else units)
        self.show()
        for windows in over:  # nothing is taken, nor was before
            self.is_over = True
            self._change(windows, -self._taken[windows])
        return True

    def show(self) -> None:
        """Note what the fields say is left."""
        left = [self._model.left(one) for windows in self._taken for one in windows]
        self.shown = max(0, min(left)) if left else None

    def take(self, cost: int) -> bool:
        return self._take(dict.fromkeys(self._own, cost), dict.fromkeys(self._observed, cost))

    def act(self, verb: str, units: int, subjects: dict[str, str]) -> bool:
        """What the app does; False where that is refused."""
        if verb == "limit":
            per = "account" if units % 2 else "key"
            named = Limited(subjects[per], "named", 60_000, 3)
            return not units or self._take({(named,): units}, {})
        going = [*self._own, *(one for one in self._observed if self._taken.get(one))]
        more = {one: units - self._taken[one] for one in going if units > self._taken[one]}
        less = {one: units - self._taken[one] for one in going if units < self._taken[one]}
        if verb == "after":
            for windows, missing in more.items():
                self._change(windows, missing)
        elif more:
            enforced = {one: it for one, it in more.items() if one in self._own}
            observed = {one: it for one, it in more.items() if one not in self._own}
            if not self._take(enforced, observed):
                return False
        for windows, surplus in less.items():
            self._change(windows, surplus)
        return True

    def undo(self) -> None:
        for windows, units in list(self._taken.items()):
            self._change(windows, -units)


# --- the apps -------------------------------------------------------------------------------------


def _actions(query: str) -> list[tuple[str, int]]:
    asked = parse_qs(query).get("do", [])
    return [(verb, int(units)) for verb, _, units in (one.partition("=") for one in asked)]


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    """Does what the query says, then answers."""
    caller = scope["keyrush"]
    for verb, units in _actions(scope["query_string"].decode()):
        if caller is None:
            break
        if verb == "cost":
            await caller.cost_async(units)
        elif verb == "after":
            caller.cost_after(units)
        elif units:
            per = "account" if units % 2 else "key"
            await caller.limit_async("3/minute", name="x", per=per, cost=units)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body"})


def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
    """The same."""
    caller = environ["keyrush.principal"]
    for verb, units in _actions(environ["QUERY_STRING"]):
        if caller is None:
            break
        if verb == "cost":
            caller.cost(units)
        elif verb == "after":
            caller.cost_after(units)
        elif units:
            per = "account" if units % 2 else "key"
            caller.limit("3/minute", name="x", per=per, cost=units)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b""]


class Door:
    """A gate by a schedule's settings, behind one of the doors."""

    def __init__(self, schedule: Schedule, clock: Clock, limiter: str) -> None:
        self.gate = Gate.open(
            settings(
                plans=schedule.plans,
                rules=schedule.rules,
                anonymous={"limits": schedule.anonymous},
                public_paths=["/public"],
                optional_paths=["/open"],
                limiter_url=limiter,
            ),
            clock=clock,
        )
        self.keys = []
        for account_id, plan in ACCOUNTS.items():
            self.gate.accounts.create(account_id, plan=plan)
        for account_id in ("acct_a", "acct_a", "acct_b"):
            self.keys.append(self.gate.keys.create(account_id, "agent").text)

    def sent(self, asked: Asked) -> Sent:
        query = "&".join(f"do={one.replace('=', '%3D')}" for one in asked.actions)
        headers: Any = [("x-api-key", self.keys[asked.who])] if asked.who < 3 else []
        return Sent(f"{asked.spelled}?{query}", headers, asked.method)


@contextmanager
def doors(schedule: Schedule, clock: Clock, limiter: str) -> Iterator[tuple[Any, Any]]:
    """What sends a request through the one and through the other door."""
    asgi, other = Door(schedule, clock, "memory://"), Door(schedule, clock, limiter)
    outer = KeyrushMiddleware(asgi_app, gate=asgi.gate)
    inner = wsgi.KeyrushMiddleware(validator(wsgi_app), gate=other.gate)

    def by_asgi(runner: asyncio.Runner, asked: Asked) -> Reply:
        scope = scope_of(asgi.sent(asked), client=(asked.address, 1))
        return runner.run(asgi_call(outer, scope))

    def by_wsgi(asked: Asked) -> Reply:
        return wsgi_call(inner, environ_of(other.sent(asked)) | {"REMOTE_ADDR": asked.address})

    with asyncio.Runner() as runner:
        yield partial(by_asgi, runner), by_wsgi
    asgi.gate.close()
    other.gate.close()


def _said(reply: Reply) -> tuple[int, list[tuple[str, str]], bytes]:
    """What an answer says, but for what goes with the door."""
    names = ("x-ratelimit", "retry-after", "www-authenticate", "vary")
    return (
        reply.status,
        sorted(one for one in reply.headers if one[0].startswith(names)),
        reply.body,
    )


@pytest.mark.parametrize("place", ["memory", "mapped"])
@pytest.mark.parametrize("seed", SEEDS)
def test_as_the_model_says(seed: int, place: str, clock: Clock, tmp_path: Path) -> None:
    """R11, O14: whatever the rules, both doors give the same answer, in memory and in a file of the
    machine: the status, what is left, and what is only observed are those of the model, so that
    nothing refused has taken anything, and no spelling of a path gets round what it is limited to.
    """
    schedule = Schedule(seed)
    model, numbers = Model(schedule, clock), count()
    limiter = "memory://" if place == "memory" else f"file://{tmp_path}/windows"
    seen: Counter[int] = Counter()
    with doors(schedule, clock, limiter) as (asgi, other):
        for asked in schedule.requests():
            clock.advance(asked.passed)
            expected = model.ask(asked)
            replies = asgi(asked), other(asked)
            where = f"seed {seed}, request {next(numbers)}: {asked}"
            assert _said(replies[0]) == _said(replies[1]), where
            reply = replies[0]
            assert reply.status == expected.status, where
            seen[reply.status] += 1
            if reply.status == 200:
                left = [it for name, it in reply.headers if name == "x-ratelimit-remaining"]
                told = [] if expected.remaining is None else [str(expected.remaining)]
                assert ("x-ratelimit-would-limit" in reply) == expected.is_over, where
                # What would have refused it is told as of a refusal: the window that does so for
                # longest, which need not be the fullest.
                assert left == told or expected.is_over, where
    assert {200, 400, 429} <= set(seen), "it tests too little"
