"""Processes that share limits, held against an oracle; the oracle, held against tables; and how
often shared windows are asked. `make accuracy` is the long form.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

import pytest
from benchmarks import oracle, several
from benchmarks.accuracy import FEWER, MODES, measure
from benchmarks.arrivals import PATTERNS, Subject, arrivals, plan
from benchmarks.servers import PLACES, Place
from hypothesis import given
from hypothesis import strategies as st

from keyrush.core import sliding
from keyrush.core.sliding import Demand, Window, WindowCount
from keyrush.limiter.opening import open_limiter
from keyrush.limiter.protocol import Mode
from keyrush.runtime.background import Background
from keyrush.runtime.clock import now_ms
from keyrush.sql.engine import Database
from tests.support import warm
from tests.support.valkey import Valkey, own_valkey, valkey_server, valkey_url

__all__ = ["own_valkey", "valkey_server", "valkey_url"]  # fixtures

LENGTH = 1000


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Where windows are shared: a new file, a new database, keys of the test's own."""
    if request.param == "SQLite":
        return Place(f"sqlite:///{tmp_path}/keyrush.db", "store", "")
    if request.param == "PostgreSQL":
        return Place(request.getfixturevalue("postgres_url"), "store", "")
    return Place("", request.getfixturevalue("valkey_url"), "")


# --- processes ------------------------------------------------------------------------------------

#: Limits, how many subjects have each, and the load on them. One more or less is below a per cent.
LOADS = [(10, 15, 3.0), (100, 2, 3.0), (1_000, 1, 1.2)]


def subjects() -> list[Subject]:
    return [
        Subject(f"{limit}-{pattern}-{number}:2", limit, load, pattern, 1600, 0, 2000)
        for limit, copies, load in LOADS
        for pattern in PATTERNS
        for number in range(copies)
    ]


@pytest.mark.parametrize(
    ("place", "mode"),
    [(backend, mode) for backend in PLACES for mode in FEWER.get(backend, MODES)],
    indirect=["place"],
)
def test_processes_share_limits(place: Place, mode: Mode) -> None:
    """Three processes that ask for more than there is, in a steady flow and in bursts, never have
    more than the limit in use, and get 99 % of what a single counter would admit.
    """
    results = measure(place, mode, 3, subjects(), warm.start)
    assert all(result.used <= 1 for result in results), results
    for limit, _, _ in LOADS:
        of_limit = [result for result in results if result.limit == limit]
        allowed = sum(result.allowed for result in of_limit)
        assert sum(result.admitted for result in of_limit) >= 0.99 * allowed, of_limit
        assert allowed >= limit
        if limit < 1_000:  # a slow machine does not ask so often
            assert sum(result.asked for result in of_limit) > allowed


@pytest.mark.parametrize(
    ("place", "mode"),
    [("SQLite", "exact"), ("PostgreSQL", "leased"), ("Valkey", "leased")],
    indirect=["place"],
)
def test_processes_share_limits_of_several_subjects(place: Place, mode: Mode) -> None:
    """R6, O13: the same for requests that take of a plan and of a rule's limit, by key or by
    account, at one price or at several: none is ever exceeded.
    """
    wanted = [
        Subject(f"any-{sort}-{pattern}-{number}:2", 60, 2.0, pattern, 1600, 0, 2000, sort)
        for sort in several.SORTS
        for pattern in PATTERNS
        for number in range(2)
    ]
    for result in several.measure(place, mode, 3, wanted, warm.start).values():
        assert result.used <= 1, result
        assert result.admitted >= 0.97 * result.allowed, result
        assert 60 <= result.allowed < result.asked, result


def test_a_load_is_shared_out_once() -> None:
    """All processes together ask for each request of the plan once, the same at every call."""
    planned = plan([10, 1000], [0.5, 3], windows=2, rate=5000, prefix="any")
    alone = arrivals(planned, 0, 1)
    shares = [arrivals(planned, rank, 3) for rank in range(3)]
    assert shares == [arrivals(planned, rank, 3) for rank in range(3)]
    assert all(shares)
    for number, subject in enumerate(planned):
        expected = (subject.ends - subject.begins) * subject.rate
        for found in (alone, [one for share in shares for one in share]):
            count = sum(of == number for _, of in found)
            assert abs(count - expected) <= 6 * expected**0.5 + 4
        assert all(subject.begins <= at <= subject.ends for at, of in alone if of == number)


# --- how often they ask ---------------------------------------------------------------------------


def wide(subject: str) -> list[Window]:
    """Two windows whose limits are far away."""
    return [
        Window(f"{subject}:60", 60_000, 10_000_000, "minute"),
        Window(f"{subject}:3600", 3_600_000, 100_000_000, "hour"),
    ]


def test_exact_is_one_round_trip(own_valkey: Valkey) -> None:
    """An exact decision on two windows is one round trip, counted by the server: it reads once,
    and runs one script.
    """
    limiter = open_limiter(own_valkey.url, mode="exact").limiter
    assert limiter.take(wide("any"), 1, now_ms()).admitted  # connects, and brings the script
    with own_valkey.client() as client:
        read = client.info("stats")["total_reads_processed"]
        client.config_resetstat()
        read = client.info("stats")["total_reads_processed"]
        for _ in range(100):
            assert limiter.take(wide("any"), 1, now_ms()).admitted
        read = client.info("stats")["total_reads_processed"] - read - 1  # this look itself
        scripts = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    limiter.close()
    assert (read, scripts) == (100, 100)


@pytest.mark.parametrize("place", ["PostgreSQL", "Valkey"], indirect=True)
def test_a_busy_key_hardly_asks(place: Place) -> None:
    """Leased, a busy key asks the ledger for at most 0.02 of its requests, and gives back what
    it did not use: then what is counted is what was admitted.
    """
    database = Database(place.store_url) if place.store_url else None
    opened = open_limiter(place.limiter_url, database, mode="leased")
    limiter, ledger = opened.limiter, cast("Any", opened.ledger)
    asked: list[str] = []

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*values: Any) -> Any:
            asked.append(name)
            return call(*values)

        return counting

    ledger.take = counted("take", ledger.take)
    ledger.give_back = counted("give_back", ledger.give_back)
    background = Background()
    limiter.start(background)
    background.start()
    wanted = wide("busy")
    for _ in range(20_000):
        now = now_ms()
        tally = limiter.take_at_once(wanted, 1, now) or limiter.take(wanted, 1, now)
        assert tally.admitted
    calls = len(asked)
    background.close()
    limiter.flush()
    (_, current, previous) = ledger.take(wanted, 0, 0).counters[1]
    limiter.close()
    if database is not None:
        database.close()
    assert calls <= 0.02 * 20_000
    assert current + previous == 20_000


# --- the oracle -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("current", "previous", "elapsed", "expected"),
    [
        pytest.param(3, 0, 500, 3, id="the current period in full"),
        pytest.param(3, 10, 0, 13, id="at its beginning all of the previous one"),
        pytest.param(3, 10, 500, 8, id="in the middle half of it"),
        pytest.param(3, 10, 999, 3, id="rounded down"),
        pytest.param(0, 3, 1, 2, id="at once"),
    ],
)
def test_oracle_used(current: int, previous: int, elapsed: int, expected: int) -> None:
    """The previous period counts by what is left of it."""
    assert oracle.used(current, previous, LENGTH, elapsed) == expected


@pytest.mark.parametrize(
    ("arrivals", "limit", "expected"),
    [
        pytest.param([], 2, 0, id="nobody"),
        pytest.param([5], 0, 0, id="nothing allowed"),
        pytest.param([0, 1, 2], 2, 2, id="one too many"),
        pytest.param([2, 0, 1], 2, 2, id="in whatever order"),
        pytest.param([0, 0, 1000, 1001], 2, 3, id="of two a millisecond leaves one"),
        pytest.param([0, 0, 1001, 1002, 1501, 1502], 2, 4, id="and half a period none"),
        pytest.param([0, 0, 2000, 2000, 2000], 2, 4, id="a period later all is free"),
    ],
)
def test_oracle_admitted(arrivals: list[int], limit: int, expected: int) -> None:
    """One counter admits whenever one more is within the limit."""
    assert oracle.admitted(arrivals, limit, LENGTH) == expected


@pytest.mark.parametrize(
    ("spans", "limit", "expected"),
    [
        pytest.param([], 2, 0, id="nobody"),
        pytest.param([(0, 0), (1, 1), (2, 2)], 2, 3, id="one too many"),
        pytest.param([(0, 0), (0, 0), (1000, 1000)], 2, 3, id="at the beginning all count"),
        pytest.param([(0, 0), (0, 0), (1000, 1001)], 2, 2, id="perhaps a millisecond later"),
        pytest.param([(0, 0), (0, 0), (0, 1500)], 2, 2, id="the third in the next period"),
        pytest.param([(0, 0), (999, 1000), (1000, 1001)], 2, 2, id="the second in the first"),
        pytest.param([(0, 0)] * 2 + [(999, 1000)] * 2, 2, 4, id="no reading helps"),
        pytest.param([(0, 0), (0, 0), (0, 2500)], 2, 2, id="beyond a whole period"),
        pytest.param([(0, 0)] * 4 + [(7000, 7000)], 5, 4, id="long after"),
    ],
)
def test_oracle_highest(spans: list[oracle.Span], limit: int, expected: int) -> None:
    """Of all readings of when requests counted, the most favourable to who admitted them."""
    assert oracle.highest(spans, limit, LENGTH) == expected


#: Instants of requests, which rise.
instants = st.lists(
    st.one_of(st.integers(0, 5), st.integers(0, 2 * LENGTH)), min_size=1, max_size=40
).map(lambda steps: list(accumulate(steps, initial=7 * LENGTH)))


@given(instants, st.integers(0, 12))
def test_oracle_agrees_with_windows(requests: list[int], limit: int) -> None:
    """The oracle and `core.sliding`, written apart, admit the same and have the same in use."""
    window = Window("any", LENGTH, limit, "second")
    counters: dict[str, WindowCount] = {}
    admitted = []
    most = 0
    for now in requests:
        tally, changes = sliding.take([window], counters, 1, now)
        counters.update(changes)
        if tally.admitted:
            admitted.append((now, now))
            most = max(most, sliding.used(counters["any"], LENGTH, now))
    assert oracle.admitted(requests, limit, LENGTH) == len(admitted)
    assert oracle.highest(admitted, limit, LENGTH) == most


@given(instants)
def test_oracle_sees_what_is_too_much(requests: list[int]) -> None:
    """Where instants are known, what was in use is what `core.sliding` says, limit or not."""
    window = Window("any", LENGTH, 1000, "second")
    counters: dict[str, WindowCount] = {}
    most = 0
    for now in requests:
        _, changes = sliding.take([window], counters, 1, now)
        counters.update(changes)
        most = max(most, sliding.used(counters["any"], LENGTH, now))
    assert oracle.highest([(now, now) for now in requests], 1, LENGTH) == most


@given(instants, st.lists(st.integers(1, 3), min_size=41, max_size=41), st.integers(0, 12))
def test_oracle_of_several_agrees_with_windows(
    requests: list[int], costs: list[int], limit: int
) -> None:
    """So do they of several windows, at several costs."""
    one, other = Window("one", LENGTH, limit, "s"), Window("other", 700, 8, "700 ms")
    counters: dict[str, WindowCount] = {}
    admitted = 0
    wanted = []
    for now, cost in zip(requests, costs, strict=False):
        demands = [Demand([one], cost), Demand([other], 1)]
        tally, changes = sliding.take_together(demands, counters, now)
        counters.update(changes)
        admitted += tally.admitted
        wants = [("one", limit, LENGTH, cost), ("other", 8, 700, 1)]
        wanted.append((now, wants))
    assert oracle.admitted_together(wanted) == admitted


spread = st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 1500)), min_size=41, max_size=41)


@given(instants, st.integers(1, 12), spread)
def test_oracle_accuses_nobody(
    requests: list[int], limit: int, margins: list[tuple[int, int]]
) -> None:
    """However little is known of when requests counted, who kept to the limit is found to have."""
    window = Window("any", LENGTH, limit, "second")
    counters: dict[str, WindowCount] = {}
    spans = []
    for now, (early, late) in zip(requests, margins, strict=False):
        tally, changes = sliding.take([window], counters, 1, now)
        counters.update(changes)
        if tally.admitted:
            spans.append((now - early, now + late))
    assert oracle.highest(spans, limit, LENGTH) <= limit
