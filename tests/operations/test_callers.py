"""Keys that make keys: who may, for how long, how many, and what goes along with a revocation."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from keyrush import (
    BeyondCaller,
    CallerEnded,
    Gate,
    InvalidArgument,
    KeyrushError,
    NotFound,
    TooManyKeys,
)
from keyrush.authentication.keyring import Hashing
from keyrush.core.identity import account_subject, key_subject
from keyrush.core.times import month_of
from keyrush.operations.keys import NewKey
from tests.conftest import Clock, settings
from tests.support.calls import Asgi, Sent
from tests.support.faults import until

PLANS = {
    "three": {"max_keys": 3},
    "team": {"per": "account", "quota_per": "key", "monthly_quota": 2, "on_exceed": "block"},
    "solo": {"quota_per": "account", "monthly_quota": 2, "on_exceed": "block"},
    "many": {},
}
PEPPER = "0123456789abcdef0123456789abcdef"


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def gates(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[list[Gate]]:
    """Two processes' gates over one database of each kind, or one gate over memory."""
    urls: dict[str, Callable[[], str]] = {
        "memory": lambda: "memory://",
        "sqlite": lambda: f"sqlite:///{tmp_path}/keyrush.db",
        "postgresql": lambda: request.getfixturevalue("postgres_url"),
    }
    chosen = settings(
        store_url=urls[request.param](), pepper=PEPPER, plans=PLANS, limiter_url="memory://"
    )
    opened = [Gate.open(chosen, clock=clock)]
    if request.param != "memory":
        opened.append(Gate.open(chosen, clock=clock))
    opened[0].accounts.create("acct_a", plan="many")
    yield opened
    for one in opened:
        one.close()


@pytest.fixture
def gate(gates: list[Gate]) -> Gate:
    """The first gate."""
    return gates[0]


def made(gate: Gate, by: str | None = None, account_id: str = "acct_a") -> NewKey:
    """A new key."""
    return gate.keys.create(account_id, "n", by=by)


def hashes(monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object]) -> list[bytes]:
    """Have something happen each time that a key is hashed; what has been hashed."""
    hashed: list[bytes] = []
    original = Hashing.hash

    def hash_(self: Hashing, text: bytes) -> str:
        hashed.append(text)
        meanwhile()
        return original(self, text)

    monkeypatch.setattr(Hashing, "hash", hash_)
    return hashed


# --- a key that ends while it asks ---------------------------------------------------------------

MAKING: dict[str, Callable[[Gate, str, str], object]] = {
    "create": lambda gate, by, _: made(gate, by),
    "rotate": lambda gate, by, other: gate.keys.rotate(other, by=by),
    "rotate itself": lambda gate, by, _: gate.keys.rotate(by, by=by),
}


@pytest.mark.parametrize("making", MAKING)
@pytest.mark.parametrize("end", ["revoke", "revoke with descendants", "expire", "rotate"])
def test_key_that_ends_while_it_makes_one(
    gates: list[Gate], clock: Clock, monkeypatch: pytest.MonkeyPatch, making: str, end: str
) -> None:
    """O6, O17: a key that is revoked, expires or is replaced while its successor is being hashed
    makes none, whichever process does it.
    """
    gate, elsewhere = gates[0], gates[-1]
    by = gate.keys.create("acct_a", "n", expires_at=clock.now + 1000).key.id
    other = made(gate).key.id
    ends: dict[str, Callable[[], object]] = {
        "revoke": lambda: elsewhere.keys.revoke(by),
        "revoke with descendants": lambda: elsewhere.keys.revoke_with_descendants(by),
        "expire": lambda: clock.advance(1000),
        "rotate": lambda: elsewhere.keys.rotate(by) if len(hashed) == 1 else None,
    }
    hashed = hashes(monkeypatch, ends[end])
    with pytest.raises(BeyondCaller if end == "rotate" else CallerEnded):
        MAKING[making](gate, by, other)
    assert hashed
    monkeypatch.undo()
    keys = list(gate.keys.list("acct_a"))
    assert len(keys) == (3 if end == "rotate" else 2)  # the operator's own replacement
    assert not [key for key in keys if key.created_by == by]
    assert gate.keys.get(other).retires_at is None


def test_hammer(gates: list[Gate]) -> None:
    """O6, O17: threads that make keys by a key and by what it has made, while both processes
    revoke it along with its descendants: nothing of it goes on working.
    """
    by = made(gates[0]).key.id
    is_revoked = threading.Event()

    def work(number: int) -> KeyrushError | None:
        gate, maker = gates[number % len(gates)], by
        for step in itertools.count():
            if step == 4:
                assert is_revoked.wait(60)
            try:
                if number % 3 == 2 and step:
                    maker = gate.keys.rotate(maker, by=maker, grace=9).key.id
                else:
                    maker = made(gate, maker).key.id
            except KeyrushError as error:
                return error
        return None

    with ThreadPoolExecutor(9) as pool:
        working = [pool.submit(work, number) for number in range(9)]
        until(lambda: len(gates[0].keys.list("acct_a")) >= 12)
        for gate in gates:
            gate.keys.revoke_with_descendants(by)
        is_revoked.set()
        ended = [one.result() for one in working]
    now = gates[0].clock()
    assert not [key for key in gates[0].keys.list("acct_a", limit=100) if key.is_active(now)]
    # Whoever lost the race to replace one key has been told so.
    assert {type(error) for error in ended} <= {CallerEnded, BeyondCaller, InvalidArgument}
    assert CallerEnded in {type(error) for error in ended}


@pytest.mark.parametrize("by", ["cred_unknown", "", "x" * 65, "a\0", "\ud800", "theirs"])
def test_caller_that_is_none(gate: Gate, by: str) -> None:
    """O17: a key that is none of the account's gets nothing done."""
    key = made(gate).key
    gate.accounts.create("acct_b", plan="many")
    chosen = made(gate, account_id="acct_b").key.id if by == "theirs" else by
    for operation in (
        lambda: made(gate, chosen),
        lambda: gate.keys.rotate(key.id, by=chosen),
        lambda: gate.keys.revoke(key.id, by=chosen),
        lambda: gate.keys.revoke_with_descendants(key.id, by=chosen),
    ):
        with pytest.raises(CallerEnded):
            operation()
    assert list(gate.keys.list("acct_a")) == [key]


# --- who made what -------------------------------------------------------------------------------


def test_who_made_a_key(gate: Gate) -> None:
    """O17: the key that asked; of a rotation by the operator, whoever made its predecessor."""
    first = made(gate).key
    second = made(gate, first.id).key
    assert (first.created_by, second.created_by) == (None, first.id)
    by_operator = gate.keys.rotate(second.id).key
    assert by_operator.created_by == first.id
    by_key = gate.keys.rotate(by_operator.id, by=first.id).key
    assert by_key.created_by == first.id
    itself = gate.keys.rotate(by_key.id, by=by_key.id).key
    assert itself.created_by == by_key.id


def test_revoke_with_descendants(gates: list[Gate]) -> None:
    """O6: what a key has made stops with it, at once in this process; the rest goes on."""
    gate = gates[0]
    apart, first = made(gate), made(gate)
    second = made(gate, first.key.id)
    third = gate.keys.rotate(second.key.id, by=second.key.id)
    sender = Asgi(gates[0])
    keys = [apart, first, second, third]
    assert [get(sender, key.text) for key in keys] == [200] * 4
    revoked = gate.keys.revoke_with_descendants(first.key.id, "acct_a")
    assert [key.id for key in revoked] == [first.key.id, *sorted_ids(gate, second, third)]
    assert {key.revoked_at for key in revoked} == {gates[0].clock()}
    assert [get(sender, key.text) for key in keys] == [200, 401, 401, 401]
    with pytest.raises(NotFound):
        gate.keys.revoke_with_descendants(first.key.id, "acct_b")


def sorted_ids(gate: Gate, *keys: NewKey) -> list[str]:
    """Their ids as lists have them."""
    ids = {key.key.id for key in keys}
    return [key.id for key in gate.keys.list("acct_a") if key.id in ids]


def get(sender: Asgi, key: str) -> int:
    """The status of one request."""
    status: int = sender.send(Sent("/", [("X-API-Key", key)])).status
    return status


# --- how many ------------------------------------------------------------------------------------


def test_as_many_as_the_plan_allows(
    gate: Gate, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan's number of active keys is the most, for whoever creates one; ended keys make
    room, other accounts don't matter, and nothing is hashed for nothing.
    """
    gate.accounts.create("acct_3", plan="three")
    keys = [made(gate, account_id="acct_3").key for _ in range(3)]
    hashed = hashes(monkeypatch, int)
    for by in (None, keys[0].id):
        with pytest.raises(TooManyKeys, match="3 active keys, as many as its plan") as caught:
            made(gate, by, "acct_3")
        assert caught.value.limit == 3
    assert hashed == []
    made(gate)
    gate.keys.revoke(keys[0].id)
    short = gate.keys.create("acct_3", "n", expires_at=clock.now + 5)
    with pytest.raises(TooManyKeys):
        made(gate, account_id="acct_3")
    clock.advance(5)
    assert made(gate, account_id="acct_3").key.created_at > short.key.created_at
    gate.accounts.set_plan("acct_3", "many")
    made(gate, account_id="acct_3")


def test_rotations_at_the_limit(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """R17: keys can be replaced however many there are, until twice as many work at once."""
    gate.accounts.create("acct_3", plan="three")
    keys = [made(gate, account_id="acct_3").key for _ in range(3)]
    newer = [gate.keys.rotate(key.id).key for key in keys]
    hashed = hashes(monkeypatch, int)
    with pytest.raises(TooManyKeys, match="6 active keys") as caught:
        gate.keys.rotate(newer[0].id)
    assert (caught.value.limit, hashed) == (6, [])
    assert gate.keys.get(newer[0].id) == newer[0]
    assert gate.keys.rotate(newer[0].id, grace=0).key.lineage == keys[0].id
    gate.keys.revoke(keys[1].id)
    gate.keys.rotate(newer[1].id)


def test_the_limit_is_exact_at_once(gates: list[Gate]) -> None:
    """Of 30 threads in two processes as many get a key as there is room for."""
    gates[0].accounts.create("acct_3", plan="three")
    barrier = threading.Barrier(30)

    def create(number: int) -> bool:
        barrier.wait()
        try:
            made(gates[number % len(gates)], account_id="acct_3")
        except TooManyKeys:
            return False
        return True

    with ThreadPoolExecutor(30) as pool:
        assert sum(pool.map(create, range(30))) == 3
    assert len(gates[0].keys.list("acct_3")) == 3


def test_limit_where_no_plan_says(gates: list[Gate], gate: Gate) -> None:
    """Fifty keys unless the plan says otherwise, also where it has left the table."""
    for _ in range(50):
        made(gate)
    with pytest.raises(TooManyKeys, match="50"):
        made(gate)
    gates[0].store.set_plan("acct_a", "gone")
    with pytest.raises(TooManyKeys, match="50"):
        made(gate)


# --- whose quota ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "statuses"),
    [("solo", [200, 200, 429, 429]), ("team", [200, 200, 200, 200, 429, 429])],
)
def test_whose_quota(gates: list[Gate], plan: str, statuses: list[int]) -> None:
    """R6, R12: `quota_per` says whose the quota is, whatever windows are counted of; two keys of
    an account share its, or have each their own.
    """
    gate = gates[0]
    gate.accounts.set_plan("acct_a", plan)
    keys = [made(gate), made(gate)]
    sender = Asgi(gates[0])
    turns = [keys[number % 2].text for number in range(len(statuses))]
    assert [get(sender, text) for text in turns] == statuses


def test_usage_by_whose_quota(gates: list[Gate], clock: Clock) -> None:
    """R12, R13: usage is told of whoever has the quota."""
    gate, month = gates[0], month_of(clock.now)
    first, second = made(gate).key, made(gate).key
    again = gate.keys.rotate(second.id).key
    gates[0].store.add_usage(
        month,
        {key_subject(first.id): 5, key_subject(second.id): 4, account_subject("acct_a"): 9},
    )
    gate.accounts.set_plan("acct_a", "solo")
    used = gate.usage.this_month("acct_a", first.id)
    assert (used.counted, used.limit, used.overage) == (9, 2, 7)
    assert gate.usage.this_month("acct_a") == used
    gate.accounts.set_plan("acct_a", "team")
    used = gate.usage.this_month("acct_a", again.id)
    assert (used.counted, used.limit, used.overage) == (4, 2, 2)
    used = gate.usage.this_month("acct_a")
    assert (used.counted, used.limit, used.overage) == (9, None, 5)
