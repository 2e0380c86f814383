"""Ledger and activity over the account API: pages, filters, totals, and nobody else's rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from keyrush import Gate, KeyrushMiddleware
from keyrush.apps.account_api import account_api
from keyrush.core.activity import BUCKETS, Activity
from keyrush.core.times import DAY, iso
from keyrush.store.opening import activity_of
from tests.conftest import Clock, settings
from tests.support.activity import START, row
from tests.support.serving import serve

LEDGER, ACTIVITY, SUMMARY = "/v1/me/credits/ledger", "/v1/me/activity", "/v1/me/activity/summary"


class Two:
    """Two accounts, each asked for by a key of its own."""

    def __init__(self, gate: Gate, client: httpx2.Client) -> None:
        self.gate, self.client = gate, client
        self.keys = {}
        for account in ("acct_a", "acct_b"):
            gate.accounts.create(account)
            self.keys[account] = gate.keys.create(account, "first", limits="1000/minute")

    def add(self, *rows: Activity) -> None:
        """Write rows of activity."""
        activity_of(self.gate.store).add_activity(rows)

    def ask(self, path: str, account: str = "acct_a", **query: Any) -> httpx2.Response:
        """What the account is told."""
        key = self.keys[account].text
        asked = f"{path}?{urlencode(query, doseq=True)}" if query else path
        return self.client.get(asked, headers={"X-API-Key": key})

    def get(self, path: str, account: str = "acct_a", **query: Any) -> Any:
        """The same, as it ought to be."""
        reply = self.ask(path, account, **query)
        assert reply.status_code == 200, reply.text
        assert reply.headers["cache-control"] == "no-store"
        return reply.json()

    def ids(self, account: str = "acct_a", **query: Any) -> list[str]:
        """The rows of one page, by id."""
        return [one["id"] for one in self.get(ACTIVITY, account, **query)["activity"]]


@pytest.fixture
def two(clock: Clock) -> Iterator[Two]:
    """The account API of a gate with two accounts, whose activity is what tests write."""
    gate = Gate.open(settings(activity="off"), clock=clock)
    app = Starlette(routes=[Mount("/v1", app=account_api)])
    app.add_middleware(KeyrushMiddleware, gate=gate)
    with serve(app) as url, httpx2.Client(base_url=url) as client:
        yield Two(gate, client)
    gate.close()


def paged(two: Two, path: str, name: str, account: str = "acct_a", **query: Any) -> list[Any]:
    """All rows, page by page, each of them as the page before says."""
    found: list[Any] = []
    cursor: dict[str, str] = {}
    while True:
        page = two.get(path, account, **query, **cursor)
        found += page[name]
        if page["next_cursor"] is None:
            return found
        cursor = {"cursor": page["next_cursor"]}


# --- the ledger ---


def test_ledger(two: Two) -> None:
    """O3, O11, O19: the ledger has each change with what is left, newest first; the balance is that
    of the newest, and its body stays as it was.
    """
    expires_at = START + DAY
    two.gate.credits.add(
        "acct_a", 10, reason="top_up", reference="inv_42", note="paid", expires_at=expires_at
    )
    two.gate.credits.add("acct_a", -3, reason="adjustment")
    page = two.get(LEDGER)
    assert list(page) == ["entries", "next_cursor"]
    newest, oldest = page["entries"]
    assert oldest == {
        "id": 1,
        "at": iso(START),
        "amount": 10,
        "balance": 10,
        "reason": "top_up",
        "reference": "inv_42",
        "reverses": None,
        "source": "operator",
        "credential_id": None,
        "subject": None,
        "rule": None,
        "request_id": None,
        "note": "paid",
        "expires_at": iso(expires_at),
    }
    assert (newest["id"], newest["amount"], newest["balance"]) == (2, -3, 7)
    assert page["next_cursor"] is None
    assert two.get("/v1/me/credits") == {"balance": 7}


def test_pages_of_the_ledger(two: Two) -> None:
    """O19: pages of any size have every entry once, also where more come meanwhile; of some reasons
    alone, where they are named.
    """
    for number in range(1, 12):
        two.gate.credits.add("acct_a", number, reason="top_up" if number % 3 else "grant")
    every = [one["id"] for one in paged(two, LEDGER, "entries")]
    assert every == list(range(11, 0, -1))
    for limit in (1, 4, 11, 100):
        assert [one["id"] for one in paged(two, LEDGER, "entries", limit=limit)] == every
    first = two.get(LEDGER, limit=4)
    two.gate.credits.grant("acct_a", 1)
    second = two.get(LEDGER, limit=4, cursor=first["next_cursor"])
    assert [one["id"] for one in second["entries"]] == [7, 6, 5, 4]
    grants = paged(two, LEDGER, "entries", limit=2, reason="grant")
    assert [one["id"] for one in grants] == [12, 9, 6, 3]
    assert len(paged(two, LEDGER, "entries", reason=["grant", "top_up"])) == 12
    assert two.get(LEDGER, reason="charge")["entries"] == []
    assert len(paged(two, LEDGER, "entries", limit=5, source=["operator", "mcp"])) == 12
    assert two.get(LEDGER, source="mcp")["entries"] == []
    at = iso(START)
    assert len(paged(two, LEDGER, "entries", limit=5, since=at, until=iso(START + 1))) == 12
    assert two.get(LEDGER, until=at)["entries"] == two.get(LEDGER, since=iso(START + 1))["entries"]
    assert two.get(LEDGER, until=at)["entries"] == []


def test_nobody_elses_ledger(two: Two) -> None:
    """O19: whatever is asked for, the entries are of the caller's account: a reason, and a page
    that another account's cursor names.
    """
    for number in range(1, 7):
        two.gate.credits.add("acct_b", number, note="of acct_b")
    two.gate.credits.add("acct_a", 100)
    cursor = two.get(LEDGER, "acct_b", limit=2)["next_cursor"]
    for query in ({}, {"cursor": cursor}, {"reason": "grant"}, {"limit": 100}):
        entries = two.get(LEDGER, **query)["entries"]
        assert [one["amount"] for one in entries] == [100]
        assert [one["note"] for one in entries] == [None]


# --- activity ---


def test_activity(two: Two) -> None:
    """O20: a row has the time, the credential, the source, method, path or tool, status, credits
    and duration; null stands for what is not known.
    """
    two.add(
        row(1, at=START),
        row(
            2,
            at=START + 1,
            credential_id="link_1",
            subject="user-1",
            source="mcp",
            method="tools/call",
            path="audit_site",
            rule="audit_site",
            outcome="limited",
            status=429,
            reason="rate_limited",
            credits=0,
            duration=10,
        ),
        row(3, at=START + 2, rule="", path="/nothing", request_id=None, address=None, agent=None),
    )
    page = two.get(ACTIVITY)
    assert list(page) == ["activity", "next_cursor", "total", "has_more_than_total"]
    assert (page["next_cursor"], page["total"], page["has_more_than_total"]) == (None, 3, False)
    last, called, first = page["activity"]
    assert first == {
        "id": "act_0001",
        "at": iso(START),
        "credential_id": "cred_1",
        "subject": None,
        "source": "api",
        "method": "GET",
        "path": "/articles/{id}",
        "rule": "/articles/{id}",
        "status": 200,
        "outcome": "ok",
        "reason": None,
        "credits": 2,
        "duration_ms": 1.5,
        "request_id": "req-1",
        "address": "203.0.113.0/24",
        "agent": "curl/8",
    }
    assert (called["path"], called["reason"], called["duration_ms"]) == (
        *("audit_site", "rate_limited"),
        0.01,
    )
    assert {last[name] for name in ("rule", "request_id", "address", "agent")} == {None}


FILTERS: list[tuple[dict[str, str], list[int]]] = [
    ({"source": "mcp"}, [4]),
    ({"key": "cred_2"}, [3]),
    ({"outcome": "limited"}, [2]),
    ({"rule": "/other"}, [1]),
    ({"since": "2026-11-18T11:07:00.003Z"}, [4, 3]),
    ({"until": "2026-11-18T12:07:00.003+01:00"}, [2, 1]),
    ({"since": "2026-11-18T11:07:00.002Z", "until": "2026-11-18T11:07:00.003Z"}, [2]),
    ({"source": "api", "outcome": "ok"}, [3, 1]),
]


def mixed(account: str, first: int = 0) -> list[Activity]:
    """Four rows that differ in what is filtered by."""
    return [
        row(first + 1, at=START + 1, account_id=account, rule="/other"),
        row(first + 2, at=START + 2, account_id=account, outcome="limited"),
        row(first + 3, at=START + 3, account_id=account, credential_id="cred_2"),
        row(first + 4, at=START + 4, account_id=account, source="mcp"),
    ]


@pytest.mark.parametrize(("query", "numbers"), FILTERS)
def test_nobody_elses_activity(two: Two, query: dict[str, str], numbers: list[int]) -> None:
    """O20: each filter gives the rows of the caller's account that agree with it, and the number of
    these; another account's are never among them, nor by a cursor of its.
    """
    two.add(*mixed("acct_a"), *mixed("acct_b", 100))
    expected = [f"act_{number:04}" for number in numbers]
    assert two.ids(**query) == expected
    assert two.get(ACTIVITY, **query)["total"] == len(expected)
    of_other = [f"act_{number + 100:04}" for number in numbers]
    assert two.ids("acct_b", **query) == of_other
    two.add(*(row(n, at=START + 10 + n, account_id="acct_b") for n in range(300, 303)))
    cursor = two.get(ACTIVITY, "acct_b", limit=1)["next_cursor"]
    assert two.ids(**query, cursor=cursor) == expected
    values = two.get(SUMMARY, group="key", **query)["totals"]
    assert sum(one["requests"] for one in values) >= len(expected)
    for group in ("key", "rule", "source", "outcome"):
        totals = two.get(SUMMARY, by="day", group=group, **query)["totals"]
        assert sum(one["requests"] for one in totals) <= 4


@pytest.mark.parametrize("query", [{}, {"limit": 1}, {"limit": 7}, {"limit": 100}])
def test_pages_of_activity(two: Two, query: dict[str, Any]) -> None:
    """O20: pages of any size have every row once, newest first, those of one millisecond too."""
    two.add(*(row(number, at=START + number // 3) for number in range(60)))
    found = [one["id"] for one in paged(two, ACTIVITY, "activity", **query)]
    assert found == [f"act_{number:04}" for number in reversed(range(60))]


@pytest.mark.parametrize(
    ("number", "total", "has_more"), [(0, 0, False), (1000, 1000, False), (1001, 1000, True)]
)
def test_total_is_capped(two: Two, number: int, total: int, has_more: bool) -> None:
    """O20: rows are counted up to a thousand, and that there are more is said."""
    two.add(*(row(one, at=START + one) for one in range(number)))
    page = two.get(ACTIVITY, limit=1)
    assert (page["total"], page["has_more_than_total"]) == (total, has_more)


# --- totals ---


def test_summary(two: Two) -> None:
    """O20: totals have requests, credits and durations by bin, in bins of UTC, told apart by what
    is asked for; without a range they are the last day by the hour.
    """
    two.add(*mixed("acct_a"), row(9, at=START - 30 * 60_000, duration=6_000_000, credits=0))
    summary = two.get(SUMMARY)
    assert list(summary) == [
        *("by", "group", "since", "until"),
        *("durations_up_to_ms", "totals"),
    ]
    assert (summary["by"], summary["group"]) == ("hour", None)
    assert (summary["since"], summary["until"]) == ("2026-11-17T12:00:00Z", "2026-11-18T12:00:00Z")
    assert summary["durations_up_to_ms"] == [bound / 1000 for bound in BUCKETS]
    earlier, now = summary["totals"]
    assert (earlier["at"], earlier["requests"], earlier["credits"]) == (
        *("2026-11-18T10:00:00Z", 1),
        0,
    )
    assert (earlier["longest_ms"], earlier["durations"][-1]) == (6000.0, 1)
    assert now == {
        "at": "2026-11-18T11:00:00Z",
        "value": None,
        "requests": 4,
        "credits": 8,
        "duration_ms": 6.0,
        "longest_ms": 1.5,
        "durations": [0, 4, *(0 for _ in BUCKETS[1:])],
    }
    by_source = two.get(SUMMARY, by="day", group="source")["totals"]
    assert {(one["value"], one["requests"]) for one in by_source} == {("api", 4), ("mcp", 1)}
    minutes = two.get(SUMMARY, by="minute", source="mcp")
    assert (minutes["since"], minutes["until"]) == (
        *("2026-11-18T10:08:00Z",),
        "2026-11-18T11:08:00Z",
    )
    assert [one["requests"] for one in minutes["totals"]] == [1]


# --- what is wrong with a query ---

WRONG: list[tuple[str, dict[str, Any], list[str | int]]] = [
    (LEDGER, {"limit": "0"}, ["limit"]),
    (LEDGER, {"limit": "101"}, ["limit"]),
    (LEDGER, {"limit": "many"}, ["limit"]),
    (LEDGER, {"cursor": "x"}, ["cursor"]),
    (LEDGER, {"cursor": "9" * 5_000}, ["cursor"]),
    (LEDGER, {"cursor": "-1"}, ["cursor"]),
    (LEDGER, {"reason": "gift"}, ["reason", 0]),
    (LEDGER, {"reason": ["charge"] * 50}, ["reason"]),
    (LEDGER, {"source": "web"}, ["source", 0]),
    (LEDGER, {"since": "2026-11-18T11:07:00"}, ["since"]),
    (LEDGER, {"until": "9999-12-31T23:59:59-14:00"}, ["until"]),
    (ACTIVITY, {"limit": "1e9"}, ["limit"]),
    (ACTIVITY, {"cursor": "\u202e"}, ["cursor"]),
    (ACTIVITY, {"cursor": "MTIz"}, ["cursor"]),
    (ACTIVITY, {"source": "web"}, ["source"]),
    (ACTIVITY, {"source": "' OR 1=1 --"}, ["source"]),
    (ACTIVITY, {"outcome": "fine"}, ["outcome"]),
    (ACTIVITY, {"key": "cred_1\x00"}, ["key"]),
    (ACTIVITY, {"key": "x" * 65}, ["key"]),
    (ACTIVITY, {"key": ""}, ["key"]),
    (ACTIVITY, {"rule": "x" * 301}, ["rule"]),
    (ACTIVITY, {"since": "yesterday"}, ["since"]),
    (ACTIVITY, {"since": "2026-11-18T11:07:00"}, ["since"]),
    (ACTIVITY, {"since": "1960-01-01T00:00:00Z"}, ["since"]),
    (ACTIVITY, {"until": "9999-12-31T23:59:59-14:00"}, ["until"]),
    (ACTIVITY, {"until": "1e999"}, ["until"]),
    (ACTIVITY, {"until": "NaN"}, ["until"]),
    (SUMMARY, {"by": "second"}, ["by"]),
    (SUMMARY, {"by": "3600000"}, ["by"]),
    (SUMMARY, {"group": "account"}, ["group"]),
    (SUMMARY, {"since": "1970-01-01T00:00:00Z"}, ["since"]),
    (SUMMARY, {"by": "minute", "since": "2026-11-16T11:00:00Z"}, ["since"]),
    (SUMMARY, {"by": "minute", "until": "2026-11-16T11:00:00Z"}, ["by"]),
    (SUMMARY, {"limit": "5", "by": "day", "since": "2000-01-01T00:00:00Z"}, ["since"]),
]


@pytest.mark.parametrize(("path", "query", "named"), WRONG)
def test_wrong_queries(two: Two, path: str, query: dict[str, Any], named: list[str | int]) -> None:
    """O16: what a query says wrongly is 422, which names the field; nothing is asked of the store
    that can't be.
    """
    reply = two.ask(path, **query)
    assert reply.status_code == 422, reply.text
    (problem,) = reply.json()["detail"]
    assert problem["loc"] == ["query", *named]
    assert set(problem) == {"type", "loc", "msg", "input"}


@pytest.mark.parametrize("path", [LEDGER, ACTIVITY, SUMMARY])
@pytest.mark.parametrize("name", ["cursor", "key", "rule", "reason", "anything"])
def test_keys_in_queries(two: Two, path: str, name: str) -> None:
    """O22: a query with a key in it is refused whole, and the key is not repeated."""
    text = two.keys["acct_b"].text
    for asked in ({name: text}, {f"x{text}": "1"}, {name: text.replace("_", "%5F")}):
        reply = two.ask(path, **asked)
        assert reply.status_code == 422
        assert reply.json()["detail"][0]["loc"] == ["query"]
        assert text not in reply.text


@pytest.mark.parametrize(
    "rule", ["' OR '1'='1", "/a%", "\u202e/a", "\x00", "a\x00b", "😀" * 100, "/articles/{id}' --"]
)
def test_hostile_rules(two: Two, rule: str) -> None:
    """O20: whatever a filter says is a value that rows have or have not."""
    two.add(*mixed("acct_a"))
    assert two.ids(rule=rule) == []
    assert two.get(SUMMARY, rule=rule)["totals"] == []


def test_what_a_query_repeats(two: Two) -> None:
    """Of what is given twice the last holds; names that are none are passed over."""
    two.add(*mixed("acct_a"))
    assert two.ids(source=["mcp", "api"], account_id="acct_b", acct="acct_b") == [
        *("act_0003", "act_0002", "act_0001")
    ]


def test_asking_counts(two: Two, clock: Clock) -> None:
    """R7: asking for pages counts against the caller's limit as any request does."""
    gate = two.gate
    two.keys["acct_a"] = gate.keys.create("acct_a", "few", limits="2/minute")
    codes = [two.ask(path).status_code for path in (LEDGER, ACTIVITY, SUMMARY)]
    assert codes == [200, 200, 429]
