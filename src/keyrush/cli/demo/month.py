"""A month of made-up activity, so that the dashboard shows what it is for. The same for the same
seed but for ids of keys, and written as a gate writes it: rows, counts and ledger agree.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from keyrush.core.activity import Activity, Source
from keyrush.core.identity import account_subject, key_subject
from keyrush.core.ledger import By, Posting, Reason
from keyrush.core.model import ApiKey
from keyrush.core.times import DAY, SECOND, month_of
from keyrush.gate.gate import Gate
from keyrush.settings.settings import Settings
from keyrush.store.opening import activity_of

#: Whose month it is.
ACCOUNT = "acct_demo"

#: Days that are made up, and requests in them, about.
DAYS, REQUESTS = 30, 20_000

_HOUR = 3600 * SECOND

#: What is asked for: a path, which scope it needs, its share of all, and milliseconds it takes.
_READS: tuple[tuple[str, str, float, int], ...] = (
    ("/v1/articles/{id}", "read:articles", 0.40, 38),
    ("/v1/search", "read:articles", 0.28, 115),
    ("/v1/articles", "read:articles", 0.20, 60),
    ("/v1/entities/{id}", "read:entities", 0.12, 45),
)

#: Tools with their credits, shares and milliseconds; over the API and over MCP.
_TOOLS: tuple[tuple[str, int, float, int], ...] = (
    ("summarise", 2, 0.6, 1400),
    ("find_entities", 3, 0.25, 700),
    ("audit_site", 10, 0.15, 2300),
)

#: What the account got, by the days ago: as a grant, what was paid for, to make up for an outage,
#: and what is to be used by so many days from now.
_GOT: tuple[tuple[int, int, Reason, str, str, int | None], ...] = (
    (39, 1000, "grant", "welcome", "To begin with", None),
    (17, 5000, "top_up", "inv-1042", "Invoice 1042", None),
    (7, 250, "adjustment", "outage", "Goodwill for the outage", None),
    (3, 1000, "grant", "autumn", "For trying the audit out", 18),
)

#: When something went wrong: days ago when a key was too fast, and hours; days ago of an outage.
_BURSTS, _BURST, _OUTAGE = frozenset({17, 16, 4}), 3, 8

_MCP = "/mcp"


class _Caller(NamedTuple):
    """Who asks: a key, its share of all, the hour in which it does most, and its client."""

    name: str
    environment: str | None
    scopes: tuple[str, ...]
    share: float
    source: Source
    tools: float  #: the share of its requests that call tools
    agent: str
    made: int  #: days ago
    ends: int | None = None  #: days ago
    peak: int = 14
    width: float = 5.0


_CALLERS = (
    _Caller("production", "live", ("read:*", "run:tools"), 0.56, "api", 0.02, "acme-web/3.1", 38),
    _Caller("search-worker", "live", ("read:*",), 0.27, "api", 0, "python-httpx/0.28.1", 36),
    _Caller(
        "nightly-export", "live", ("read:articles",), 0.07, "api", 0, "Go-http-client/2.0", 34,
        peak=2, width=0.7,
    ),
    _Caller("Claude Code", "live", ("read:*", "run:tools"), 0.03, "mcp", 1, "claude-code/2.1", 28),
    _Caller("ci", "test", ("read:*",), 0.04, "api", 0, "curl/8.14.1", 25, width=8),
    _Caller("old-crawler", "live", ("read:*",), 0.03, "api", 0, "crawler/0.9", 39, ends=12),
)  # fmt: skip


def settings(**options: Any) -> Settings:
    """Settings of the made-up product: paths to read, tools for credits, a plan that is nearly
    used up.
    """
    tools = [
        rule | {"tool": name, "credits": price}
        for name, price, _, _ in _TOOLS
        for rule in (
            {"path": f"/v1/tools/{name}", "methods": ["POST"], "scopes": ["run:tools"]},
            {"path": _MCP, "mcp": "tools/call"},
        )
    ]
    given: dict[str, Any] = {
        "config": "",
        "key_prefix": "fp",
        "key_environments": ("live", "test"),
        "unmetered_environments": ("test",),
        "argon2_memory_cost": 8,  # keys of a demo are worth nothing, and start-up is watched
        "argon2_time_cost": 1,
        "resources": [{"path": _MCP, "resource": f"https://api.fernpost.example{_MCP}",
                       "authorization_servers": ["https://login.fernpost.example"]}],
        "rules": [{"path": path, "scopes": [scope]} for path, scope, _, _ in _READS] + tools,
        "plans": {
            "starter": {
                "limits": "100/minute",
                "monthly_quota": 18_000,
                "quota_per": "account",
                "overage_price": "0.50",
                "modules": ["translations"],
            }
        },
    }  # fmt: skip
    return Settings(**(given | options))


def fill(gate: Gate, account_id: str = ACCOUNT, *, seed: int = 11) -> None:
    """Make an account that has used what `settings` offer for a month, up to now: some seconds.

    Raises:
        InvalidArgument: There is such an account already.
    """
    now = gate.clock()
    keys = _keys(gate, account_id, now)
    counts: dict[str, Counter[str]] = {}
    used: dict[str, int] = {}
    unmetered = gate.catalog.unmetered
    rows = list(_requests(gate, keys, now, random.Random(seed)))  # noqa: S311  # made up
    activity_of(gate.store).add_activity(rows)  # at once: a store sums up after its first addition
    for row in rows:
        key = keys[row.credential_id]
        used[key.id] = row.at
        if row.outcome in {"ok", "error"} and key.environment not in unmetered:
            subjects = counts.setdefault(month_of(row.at), Counter())
            subjects.update((account_subject(account_id), key_subject(key.lineage)))
    for month, subjects in counts.items():
        gate.store.add_usage(month, subjects, used=used)


def _keys(gate: Gate, account_id: str, now: int) -> dict[str, ApiKey]:
    """The keys of the account by their ids, made when they were: by a gate of that day."""
    day = now
    then = Gate.open(
        gate.settings.model_copy(update={"limiter_url": "memory://"}),
        store=gate.store,
        clock=lambda: day,
    )
    day = now - 40 * DAY
    then.accounts.create(account_id)
    keys = {}
    for caller in _CALLERS:
        day = now - caller.made * DAY
        key = then.keys.create(
            account_id, caller.name, scopes=caller.scopes, environment=caller.environment
        ).key
        keys[key.id] = key
    for key, caller in zip(keys.values(), _CALLERS, strict=True):
        if caller.ends is not None:
            day = now - caller.ends * DAY
            then.keys.revoke(key.id)
    then.close()
    return keys


def _requests(
    gate: Gate, keys: dict[str, ApiKey], now: int, rng: random.Random
) -> Iterator[Activity]:
    """The requests in their order; the ledger has what they cost by then."""
    callers = dict(zip(keys.values(), _CALLERS, strict=True))
    to_come = list(_postings(now))
    for number, (at, key, caller) in enumerate(_times(callers, now, rng)):
        while to_come and to_come[0].at <= at:
            gate.store.post(key.account_id, to_come.pop(0))
        days_ago = (now - at) // DAY
        row = _request(number, at, key, caller, rng)
        is_fast = days_ago in _BURSTS or (now - at) // _HOUR == _BURST
        if caller.name == "search-worker" and is_fast and rng.random() < 0.4:  # noqa: PLR2004  # made up
            yield row._replace(
                status=429, outcome="limited", reason="rate_limited", credits=0, duration=0
            )
        elif caller.name == "nightly-export" and rng.random() < 0.02:  # noqa: PLR2004  # made up
            yield row._replace(
                method="POST", path="/v1/tools/audit_site", rule="/v1/tools/audit_site",
                status=403, outcome="refused", reason="insufficient_scope", duration=0,
            )  # fmt: skip
        elif rng.random() < (0.12 if days_ago == _OUTAGE else 0.004):
            status = rng.choice((500, 502, 502, 504))
            yield row._replace(status=status, outcome="error", credits=0)
        else:
            yield _paid(gate, row, rng) if row.credits else row


def _postings(now: int) -> Iterator[Posting]:
    """What the account got, in its order."""
    for days, credits, reason, reference, note, until in _GOT:
        ends = None if until is None else (now // DAY + until) * DAY
        yield Posting(credits, reason, now - days * DAY, reference, note, ends)


def _times(
    callers: dict[ApiKey, _Caller], now: int, rng: random.Random
) -> list[tuple[int, ApiKey, _Caller]]:
    """When who asks: by the hour of the day, less at week-ends, and a little more each week."""
    times = []
    first = (now - DAYS * DAY) // _HOUR * _HOUR
    for hour in range(first, now + 1, _HOUR):
        days = (now - hour) / DAY
        weekday, clock = (hour // DAY + 3) % 7, hour // _HOUR % 24
        level = REQUESTS / DAYS * (0.5 if weekday >= 5 else 1.2) * (1.2 - 0.4 * days / DAYS)  # noqa: PLR2004  # Saturday
        for key, caller in callers.items():
            if days > caller.made:
                continue
            end = now if caller.ends is None else now - caller.ends * DAY
            away = min(abs(clock - caller.peak), 24 - abs(clock - caller.peak))
            form = math.exp(-((away / caller.width) ** 2) / 2)
            mean = level * caller.share * (0.12 / 24 + 0.88 * form / (caller.width * 2.5066))
            count = max(0, round(rng.gauss(mean, math.sqrt(mean)) + rng.random() - 0.5))
            for _ in range(count):
                at = hour + rng.randrange(_HOUR)
                if at <= end:
                    times.append((at, key, caller))
    return sorted(times, key=lambda one: one[0])


def _request(number: int, at: int, key: ApiKey, caller: _Caller, rng: random.Random) -> Activity:
    """A request that went well, before anything of it is paid."""
    method, credits = "GET", 0
    if rng.random() < caller.tools:
        name, credits, _, slow = rng.choices(_TOOLS, [share for _, _, share, _ in _TOOLS])[0]
        method = "tools/call" if caller.source == "mcp" else "POST"
        rule = name if caller.source == "mcp" else f"/v1/tools/{name}"
    else:
        rule, _, _, slow = rng.choices(_READS, [share for _, _, share, _ in _READS])[0]
    return Activity(
        id=f"act_{at:x}{number:06x}",
        at=at,
        account_id=key.account_id,
        credential_id=key.id,
        subject=None,
        source=caller.source,
        method=method,
        path=rule,
        rule=rule,
        status=200 if rng.random() > 0.05 or credits else 304,  # noqa: PLR2004  # not changed
        outcome="ok",
        reason=None,
        credits=credits,
        duration=round(1000 * slow * rng.lognormvariate(0, 0.35)),
        request_id=None,
        address="198.51.100.0/24" if caller.name == "ci" else "203.0.113.0/24",
        agent=caller.agent,
    )


def _paid(gate: Gate, row: Activity, rng: random.Random) -> Activity:
    """With what the ledger says: charged, given back where the tool failed, or refused."""
    by = By(row.source, row.credential_id, None, row.rule)
    if gate.store.charge(row.account_id, row.credits, row.id, row.at, by) is None:
        return row._replace(
            status=402, outcome="refused", reason="insufficient_credits", credits=0, duration=0
        )
    if rng.random() < 0.03:  # noqa: PLR2004  # tools fail more often than reads
        gate.store.reverse(row.account_id, row.id, row.at + SECOND)
        return row._replace(status=502, outcome="error", credits=0)
    return row
