"""The operations on credits: what is added once, what a month brings, what is proved."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from keyrush import Gate
from keyrush.core.ledger import NOT_CARRIED, NOT_ITS_SUM, Discrepancy
from keyrush.core.times import DAY, month_bounds
from keyrush.errors import InvalidArgument, NotFound
from keyrush.operations.audit import Checked
from keyrush.sql.engine import Database
from tests.conftest import Clock, settings, still

PLANS = {
    "starter": {},
    "pro": {"credits_per_month": {"amount": 1000}},
    "sum": {"credits_per_month": {"amount": 10, "mode": "add"}},
}


def opened(url: str, clock: Clock) -> Gate:
    """A gate with plans that give credits each month, and an account on each."""
    made = still(
        Gate.open(
            settings(store_url=url, plans=PLANS, pepper="p" * 32),
            clock=clock,
        )
    )
    for plan in PLANS:
        made.accounts.create(f"acct_{plan}", plan=plan)
    return made


@pytest.fixture
def plain(clock: Clock) -> Iterator[Gate]:
    """A gate over a store in memory."""
    made = opened("memory://", clock)
    yield made
    made.close()


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def gate(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Gate]:
    """A gate over each store."""
    url = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/keyrush.db"}.get(request.param)
    made = opened(url or request.getfixturevalue("postgres_url"), clock)
    yield made
    made.close()


def reasons(gate: Gate, account_id: str) -> list[tuple[str, int]]:
    """The account's entries, oldest first."""
    return [(one.reason, one.amount) for one in reversed(gate.credits.ledger(account_id))]


# --- adding --------------------------------------------------------------------------------------


def test_add(gate: Gate, clock: Clock) -> None:
    """O19: an entry says what was added, why, and until when it is good."""
    entry = gate.credits.add(
        "acct_starter",
        1000,
        reason="top_up",
        reference="inv_42",
        note="  thank you ",
        expires_at=clock.now + DAY,
    )
    assert (entry.number, entry.amount, entry.balance, entry.reason) == (1, 1000, 1000, "top_up")
    assert (entry.reference, entry.note, entry.expires_at) == (
        "inv_42",
        "thank you",
        clock.now + DAY,
    )
    assert (entry.by.source, entry.at) == ("operator", clock.now)
    assert gate.credits.balance("acct_starter") == 1000
    clock.advance(DAY)
    assert gate.credits.balance("acct_starter") == 0
    assert reasons(gate, "acct_starter") == [("top_up", 1000), ("expiry", -1000)]
    assert gate.accounts.get("acct_starter").balance == 0


def test_add_once(gate: Gate, clock: Clock) -> None:
    """O19: again with the same reference is the first entry, and for anything else an error."""
    first = gate.credits.add("acct_starter", 5, reason="top_up", reference="inv_42")
    clock.advance(1000)
    again = gate.credits.add("acct_starter", 5, reason="top_up", reference="inv_42", note="other")
    assert again == first
    for credits, reason in ((6, "top_up"), (5, "grant"), (-5, "adjustment")):
        with pytest.raises(InvalidArgument, match=r"^reference: 'inv_42' is of .* top_up of 5"):
            gate.credits.add("acct_starter", credits, reason=reason, reference="inv_42")  # type: ignore[arg-type]  # one of them
    assert reasons(gate, "acct_starter") == [("top_up", 5)]


def test_adjust(gate: Gate) -> None:
    """O12, O19: an adjustment takes what is there, and no more; so is one that is repeated."""
    gate.credits.grant("acct_starter", 5)
    taken = gate.credits.add("acct_starter", -5, reason="adjustment", reference="slip")
    assert gate.credits.add("acct_starter", -5, reason="adjustment", reference="slip") == taken
    with pytest.raises(InvalidArgument, match=r"^credits: the balance does not hold"):
        gate.credits.add("acct_starter", -1, reason="adjustment")
    assert gate.credits.balance("acct_starter") == 0


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("reason", {"reason": "charge"}),
        ("reason", {"reason": "refill"}),
        ("reason", {"reason": None}),
        ("credits", {"credits": 0}),
        ("credits", {"credits": -1}),
        ("credits", {"credits": -1, "reason": "top_up"}),
        ("credits", {"credits": 0, "reason": "adjustment"}),
        ("credits", {"credits": -(10**9) - 1, "reason": "adjustment"}),
        ("credits", {"credits": True, "reason": "adjustment"}),
        ("reference", {"reference": ""}),
        ("reference", {"reference": "a b"}),
        ("reference", {"reference": "é"}),
        ("reference", {"reference": "x" * 81}),
        ("reference", {"reference": 5}),
        ("reference", {"reference": "opening"}),
        ("reference", {"reference": "charge:19e0-1"}),
        ("reference", {"reference": "refill:2026-12"}),
        ("note", {"note": "x" * 201}),
        ("note", {"note": "a\nb"}),
        ("note", {"note": "<b>"}),
        ("note", {"note": 5}),
        ("expires_at", {"expires_at": 5}),
        ("expires_at", {"expires_at": "soon"}),
        ("expires_at", {"credits": -1, "reason": "adjustment", "expires_at": 2**42}),
    ],
)
def test_add_nonsense(plain: Gate, field: str, values: dict[str, Any]) -> None:
    """O19: what is wrong is named, and nothing is added."""
    with pytest.raises(InvalidArgument, match=f"^{field}: "):
        plain.credits.add("acct_starter", **{"credits": 5, **values})
    assert reasons(plain, "acct_starter") == []


def test_unknown_accounts(plain: Gate) -> None:
    """Every operation on an account that is not there says so."""
    for call in (plain.credits.balance, plain.credits.ledger):
        with pytest.raises(NotFound):
            call("acct_x")
    with pytest.raises(NotFound):
        plain.credits.add("acct_x", 5)
    with pytest.raises(NotFound):
        plain.credits.ledger("acct_x", cursor="5")


# --- a month's credits ---------------------------------------------------------------------------


def test_a_month_that_replaces(gate: Gate, clock: Clock) -> None:
    """O3: a month brings its credits to who asks, also on the 20th; what is not used ends with it,
    and what was added besides stays.
    """
    assert gate.credits.balance("acct_pro") == 1000
    gate.credits.add("acct_pro", 50, reason="top_up")
    gate.credits.add("acct_pro", -100, reason="adjustment")
    assert gate.credits.balance("acct_pro") == 950
    clock.now = month_bounds(clock.now)[1] - 1
    assert gate.credits.balance("acct_pro") == 950
    clock.advance(1 + 20 * DAY)
    assert gate.credits.balance("acct_pro") == 1050
    assert reasons(gate, "acct_pro") == [
        ("refill", 1000),
        ("top_up", 50),
        ("adjustment", -100),
        ("expiry", -900),
        ("refill", 1000),
    ]


def test_a_month_that_adds(gate: Gate, clock: Clock) -> None:
    """O3: with `add` what is not used stays; to look at the ledger brings the month's, too."""
    assert reasons(gate, "acct_sum") == [("refill", 10)]
    clock.now = month_bounds(clock.now)[1]
    assert reasons(gate, "acct_sum") == [("refill", 10), ("refill", 10)]
    assert gate.credits.balance("acct_sum") == 20


def test_an_adjustment_of_what_is_due(gate: Gate) -> None:
    """O12: what a month brings can be taken by whoever comes first."""
    assert gate.credits.add("acct_pro", -1000, reason="adjustment").balance == 0


def test_a_plan_that_is_changed(gate: Gate) -> None:
    """O3: a month's credits come once, whatever plans an account is on in it."""
    assert gate.credits.balance("acct_starter") == 0
    gate.accounts.set_plan("acct_starter", "sum")
    assert gate.credits.balance("acct_starter") == 10
    gate.accounts.set_plan("acct_starter", "pro")
    assert gate.credits.balance("acct_starter") == 10


# --- reading -------------------------------------------------------------------------------------


def test_pages(gate: Gate) -> None:
    """O3: newest first, each once, whatever is added meanwhile."""
    for number in range(7):
        gate.credits.add("acct_starter", number + 1, reference=f"r{number}")
    found: list[int] = []
    cursor = None
    while True:
        page = gate.credits.ledger("acct_starter", limit=3, cursor=cursor)
        found += [one.amount for one in page]
        cursor = page.cursor
        if cursor is None:
            break
        gate.credits.add("acct_starter", 100)
    assert found == [7, 6, 5, 4, 3, 2, 1]
    assert [one.amount for one in gate.credits.ledger("acct_starter", reasons=["top_up"])] == []


@pytest.mark.parametrize("cursor", ["", "0", "-1", "x", "1.5", "٣", "1" * 19, " 1", 5])
def test_wrong_cursors(plain: Gate, cursor: Any) -> None:
    """A cursor is one that a page has given."""
    with pytest.raises(InvalidArgument, match=r"^cursor: "):
        plain.credits.ledger("acct_starter", cursor=cursor)


@pytest.mark.parametrize("asked", ["charge", ["paid"], [""], [None]])
def test_wrong_reasons(plain: Gate, asked: Any) -> None:
    """Reasons are a list of those that there are."""
    with pytest.raises(InvalidArgument, match=r"^reason: "):
        plain.credits.ledger("acct_starter", reasons=asked)
    with pytest.raises(InvalidArgument, match=r"^source: "):
        plain.credits.ledger("acct_starter", sources=asked)


@pytest.mark.parametrize("at", [-1, 1.5, 10**15, True])
def test_wrong_times(plain: Gate, at: Any) -> None:
    """Times are Unix milliseconds before the year 10000."""
    for field in ("since", "until"):
        with pytest.raises(InvalidArgument, match=rf"^{field}: "):
            plain.credits.ledger("acct_starter", **{field: at})


# --- proof ---------------------------------------------------------------------------------------


def test_check(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """O3: all ledgers are looked at, however small the portions, or as much as is asked for."""
    for number in range(7):
        gate.credits.add("acct_pro", 5)
        gate.store.charge("acct_pro", 1, f"c{number}", gate.clock())
    for portion in (1, 4, 15, 10_000):
        monkeypatch.setattr("keyrush.operations.audit._PORTION", portion)
        assert gate.credits.check() == Checked(3, 15, ())
    assert gate.credits.check(at_most=2) == Checked(2, 2, (), is_complete=False)
    assert gate.credits.check(at_most=100) == Checked(3, 15, ())
    for at_most in (0, -1, 1.5, "5", True):
        with pytest.raises(InvalidArgument, match=r"^at_most: "):
            gate.credits.check(at_most=at_most)  # type: ignore[arg-type]  # as a user may call it


def test_check_says_where(tmp_path: Path, clock: Clock) -> None:
    """O3: what does not add up is named, and much of it does not go on for ever."""
    url = f"sqlite:///{tmp_path}/keyrush.db"
    gate = opened(url, clock)
    for _ in range(1100):
        gate.credits.grant("acct_starter", 5)
    database = Database(url)
    with database.engine.begin() as connection:
        connection.execute(sa.text("UPDATE keyrush_ledger SET amount = 6 WHERE number = 7"))
        connection.execute(sa.text("DROP TRIGGER keyrush_balance_has_entry"))
        connection.execute(sa.text("UPDATE keyrush_accounts SET balance = 6 WHERE entries > 0"))
    assert gate.credits.check().discrepancies == (
        Discrepancy("acct_starter", None, NOT_ITS_SUM),
        Discrepancy("acct_starter", 7, NOT_CARRIED),
    )
    with database.engine.begin() as connection:
        connection.execute(sa.text("UPDATE keyrush_ledger SET amount = 6"))
    checked = gate.credits.check()
    assert (len(checked.discrepancies), checked.is_complete) == (1000, False)
    database.close()
    gate.close()
