"""What every store decides about keys, credits given back, and pages: a part of its suite."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyrush.core.identity import account_subject, key_subject
from keyrush.core.model import ApiKey
from keyrush.core.paging import Place, place_of
from keyrush.errors import DataError
from keyrush.store.memory import MemoryStore
from keyrush.store.opening import open_store
from keyrush.store.protocol import Store
from tests.support.stores import empty, grant, in_threads, store
from tests.support.values import MONTH, NOW, account, api_key

__all__ = ["empty", "store"]  # fixtures

#: What may be drawn in one test over one store; each example has accounts of its own.
FUZZ = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)

numbers = itertools.count()


def every_key(store: Store, account_id: str | None = None) -> list[ApiKey]:
    """All keys, page by page."""
    found: list[ApiKey] = []
    while page := store.keys(account_id, 40, place_of(found[-1]) if found else None):
        found += page
    return found


# --- the key that asks ---------------------------------------------------------------------------

CALLERS: list[tuple[dict[str, Any], str]] = [
    ({}, "done"),
    ({"expires_at": NOW + 1}, "done"),
    ({"expires_at": NOW}, "caller_ended"),
    ({"revoked_at": NOW - 1}, "caller_ended"),
    ({"revoked_at": NOW + 1}, "caller_ended"),  # by a clock that is ahead
    ({"retires_at": NOW + 1}, "caller_retires"),
    ({"retires_at": NOW}, "caller_ended"),
    ({"retires_at": NOW + 1, "revoked_at": NOW}, "caller_ended"),
    ({"account_id": "acct_b"}, "caller_ended"),
    ({"id": "cred_else"}, "caller_ended"),
]


def with_caller(store: Store, caller: dict[str, Any]) -> list[ApiKey]:
    """The keys of a store to which the key that asks, `cred_by`, and `cred_a` have been added."""
    store.add_keys([api_key(**{"id": "cred_by", "created_at": NOW - 9, **caller})])
    store.add_keys([api_key("cred_a")])
    return every_key(store)


@pytest.mark.parametrize(("caller", "outcome"), CALLERS)
def test_caller_that_creates(store: Store, caller: dict[str, Any], outcome: str) -> None:
    """O17: whether the key that asks may create one is decided as the new one is added."""
    before = with_caller(store, caller)
    made = api_key("cred_new", created_by="cred_by", expires_at=caller.get("expires_at"))
    assert store.add_keys([made]) == outcome
    assert store.key("cred_new") == (made if outcome == "done" else None)
    assert len(every_key(store)) == len(before) + (outcome == "done")


@pytest.mark.parametrize(("caller", "outcome"), CALLERS)
def test_caller_that_rotates(store: Store, caller: dict[str, Any], outcome: str) -> None:
    """O17, R17: whether the key that asks may rotate one is decided in that step."""
    before = with_caller(store, caller)
    ends = caller.get("expires_at")
    successor = api_key("cred_new", created_by="cred_by", expires_at=ends)
    assert store.replace("cred_a", successor, NOW + 9, None, "cred_by") == outcome
    if outcome == "done":
        assert store.key("cred_a") == api_key("cred_a", retires_at=NOW + 9)
        assert store.key("cred_new") == successor
    else:
        assert every_key(store) == before


@pytest.mark.parametrize("descendants", [False, True])
@pytest.mark.parametrize(("caller", "outcome"), CALLERS)
def test_caller_that_revokes(
    store: Store, caller: dict[str, Any], outcome: str, descendants: bool
) -> None:
    """O6, O17: whether the key that asks may revoke another is decided in that step."""
    before = with_caller(store, caller)
    found = store.revoke("cred_a", NOW, descendants, "cred_by")
    assert found == (outcome, ["cred_a"] if outcome == "done" else ())
    if outcome != "done":
        assert every_key(store) == before


@pytest.mark.parametrize(
    ("caller", "alone", "with_descendants"),
    [
        ({}, "done", "done"),
        ({"retires_at": NOW + 1}, "done", "caller_retires"),
        ({"retires_at": NOW}, "caller_ended", "caller_ended"),
        ({"expires_at": NOW}, "caller_ended", "caller_ended"),
        ({"revoked_at": NOW}, "caller_ended", "caller_ended"),
    ],
)
def test_caller_that_revokes_itself(
    store: Store, caller: dict[str, Any], alone: str, with_descendants: str
) -> None:
    """O6: a key may revoke itself, one that retires too, but nothing along with it."""
    for number, (descendants, outcome) in enumerate([(False, alone), (True, with_descendants)]):
        key = api_key(f"cred_{number}", **caller)
        store.add_keys([key])
        assert store.revoke(key.id, NOW, descendants, key.id).outcome == outcome
        expected = replace(key, revoked_at=key.revoked_at or NOW) if outcome == "done" else key
        assert store.key(key.id) == expected


def test_nobody_to_ask_for(store: Store) -> None:
    """O15: keys of an account that is gone are neither added nor replaced."""
    assert store.add_keys([api_key(account_id="acct_x")]) == "gone"
    store.add_keys([api_key("cred_a")])
    foreign = api_key("cred_b", account_id="acct_b")
    assert store.replace("cred_a", foreign, NOW) == "gone"
    assert store.replace("cred_a", api_key("cred_b", account_id="acct_x"), NOW) == "gone"
    assert every_key(store) == [api_key("cred_a")]


# --- what goes along with a revocation -----------------------------------------------------------


@st.composite
def forests(draw: st.DrawFn) -> list[tuple[int | None, bool, bool]]:
    """Keys: by which earlier one each was made, whether it is of the first account, and revoked."""
    size = draw(st.integers(1, 10))
    makers = [
        draw(st.one_of(st.none(), st.integers(0, number - 1))) if number else None
        for number in range(size)
    ]
    return [(maker, draw(st.integers(0, 9)) < 8, draw(st.integers(0, 9)) < 3) for maker in makers]


@FUZZ
@given(forest=forests(), chosen=st.integers(0, 9))
def test_descendants(
    store: Store, forest: list[tuple[int | None, bool, bool]], chosen: int
) -> None:
    """O6: what a key has made goes along, through keys that are revoked too, within the account;
    nothing else does, and an earlier revocation stands.
    """
    run = next(numbers)
    accounts = [f"acct_{run}_{number}" for number in range(2)]
    for account_id in accounts:
        store.add_account(account(account_id))
    ids = [f"cred_{run}_{number}" for number in range(len(forest))]
    for number, (maker, is_first, is_revoked) in enumerate(forest):
        key = api_key(ids[number], account_id=accounts[not is_first], created_at=NOW + number)
        store.add_keys([key])
        made_by = None if maker is None else ids[maker]
        if made_by is not None:  # as if made when its maker was active
            again = api_key(
                f"{ids[number]}_", account_id=key.account_id, created_by=made_by, created_at=NOW
            )
            assert store.add_keys([again]) in ("done", "caller_ended")
        if is_revoked:
            store.revoke(key.id, NOW - 5)
    before = {key.id: key for one in accounts for key in every_key(store, one)}
    target = before[ids[chosen % len(ids)]]
    expected = {target.id}
    while (
        more := {
            key.id
            for key in before.values()
            if key.created_by in expected and key.account_id == target.account_id
        }
        - expected
    ):
        expected |= more
    found = store.revoke(target.id, NOW + 99, True)
    fresh = {key_id for key_id in expected if before[key_id].revoked_at is None} | {target.id}
    assert (found.outcome, found.key_ids[0]) == ("done", target.id)
    assert set(found.key_ids) == fresh
    assert len(found.key_ids) == len(fresh)
    for key in before.values():
        goes = key.id in expected and key.revoked_at is None
        assert store.key(key.id) == (replace(key, revoked_at=NOW + 99) if goes else key)


def test_descendants_of_a_chain(store: Store) -> None:
    """O6: however long the chain, and through what has been replaced; oldest first."""
    store.add_keys([api_key("cred_0")])
    for number in range(1, 60):
        made = api_key(f"cred_{number}", created_by=f"cred_{number - 1}", created_at=NOW + number)
        if number % 3:
            assert store.add_keys([made]) == "done"
        else:
            maker = f"cred_{number - 1}"
            assert store.replace(maker, made, NOW + 10**9, None, maker) == "done"
    store.revoke("cred_30", NOW)
    found = store.revoke("cred_10", NOW + 1, True)
    left = [f"cred_{number}" for number in range(10, 60) if number != 30]
    assert found == ("done", left)
    assert all(key.revoked_at for key in every_key(store)[10:])
    assert not any(key.revoked_at for key in every_key(store)[:10])


def test_without_descendants(store: Store) -> None:
    """O6: unless asked for, what a key has made stays."""
    store.add_keys([api_key("cred_a")])
    made = api_key("cred_b", created_by="cred_a")
    store.add_keys([made])
    assert store.revoke("cred_a", NOW) == ("done", ["cred_a"])
    assert store.key("cred_b") == made


# --- how many ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "grace", "expected"),
    [
        ((1, 0), 5, "done"),
        ((3, 0), 5, "done"),
        ((3, 2), 5, "done"),
        ((3, 3), 5, "too_many_active"),
        ((3, 3), 0, "done"),
        ((1, 5), 5, "too_many_active"),
        ((1, 5), 0, "done"),
        ((1, 6), 0, "too_many_active"),
        ((5, 0), 5, "done"),
        ((7, 0), 5, "too_many_active"),
    ],
)
def test_room_for_a_rotation(
    store: Store, counts: tuple[int, int], grace: int, expected: str
) -> None:
    """R17: of 3 keys each may be replaced, but with those that retire never more than 6 work."""
    staying, retiring = counts
    for number in range(staying + retiring):
        ends = {} if number < staying else {"retires_at": NOW + 1}
        store.add_keys([api_key(f"cred_{number}", **ends)])
    for number, ended in enumerate(({"revoked_at": NOW}, {"expires_at": NOW}, {"retires_at": NOW})):
        store.add_keys([api_key(f"cred_e{number}", **ended)])
    store.add_keys([api_key("cred_other", account_id="acct_b")])
    assert store.active_keys("acct_a", NOW) == counts
    before = every_key(store)
    assert store.replace("cred_0", api_key("cred_new"), NOW + grace, 3) == expected
    if expected == "done":
        assert store.key("cred_0") == api_key("cred_0", retires_at=NOW + grace)
        assert store.key("cred_new") == api_key("cred_new")
    else:
        assert every_key(store) == before


@pytest.mark.parametrize(
    ("staying", "retiring", "expected"),
    [
        (0, 0, "done"),
        (2, 0, "done"),
        (3, 0, "too_many_keys"),
        (2, 3, "done"),
        (2, 4, "too_many_active"),
        (3, 3, "too_many_keys"),
    ],
)
def test_room_for_one_more(store: Store, staying: int, retiring: int, expected: str) -> None:
    """Of 3 keys: a fourth is refused; with those that retire never more than 6 work."""
    for number in range(staying + retiring):
        ends = {} if number < staying else {"retires_at": NOW + 1}
        store.add_keys([api_key(f"cred_{number}", **ends)])
    assert store.add_keys([api_key("cred_new")], 3) == expected
    assert (store.key("cred_new") is not None) == (expected == "done")


def many(number: int, **values: Any) -> list[ApiKey]:
    """So many keys that are not there yet."""
    return [api_key(f"cred_many{next(numbers)}", **values) for _ in range(number)]


@pytest.mark.parametrize(
    ("staying", "retiring", "more", "expected"),
    [
        (0, 0, 3, "done"),
        (0, 0, 4, "too_many_keys"),
        (1, 0, 2, "done"),
        (1, 0, 3, "too_many_keys"),
        (1, 3, 2, "done"),
        (1, 4, 2, "too_many_active"),
    ],
)
def test_room_for_many(store: Store, staying: int, retiring: int, more: int, expected: str) -> None:
    """Of 3 keys: many are added at once where there is room for all of them, else none is."""
    for number in range(staying + retiring):
        ends = {} if number < staying else {"retires_at": NOW + 1}
        store.add_keys([api_key(f"cred_{number}", **ends)])
    added = many(more)
    assert store.add_keys(added, 3) == expected
    assert [store.key(key.id) for key in added] == (added if expected == "done" else [None] * more)


def test_many_or_none(store: Store) -> None:
    """Where one of many can't be added, none is: of no account, by nobody, with an id that is
    taken; and nothing is none.
    """
    before = api_key()
    store.add_keys([before])
    assert store.add_keys(many(3, account_id="acct_x")) == "gone"
    assert store.add_keys(many(3, created_by="cred_x")) == "caller_ended"
    if not isinstance(store, MemoryStore):  # which believes that ids are new
        with pytest.raises(DataError):
            store.add_keys([*many(3), api_key(fingerprint="f" * 64), *many(3)])
    assert store.add_keys([]) == "done"
    assert list(store.keys()) == [before]


def test_caller_that_ends_while_many_are_made(store: Store) -> None:
    """O6: whether a key may make others is judged as of the last of them."""
    store.add_keys([api_key(expires_at=NOW + 5)])
    older, newer = many(2, created_by="cred_a", expires_at=NOW + 5)
    newer = replace(newer, created_at=NOW + 5)
    assert store.add_keys([older, newer]) == "caller_ended"
    assert store.add_keys([older]) == "done"


@pytest.fixture
def stores(store: Store, request: pytest.FixtureRequest) -> Iterator[list[Store]]:
    """The store, and on PostgreSQL a second one on the same database."""
    if "postgresql" not in request.node.name:
        yield [store]
        return
    other = open_store(request.getfixturevalue("postgres_url")).store
    yield [store, other]
    other.close()


def test_room_is_exact_at_once(stores: list[Store]) -> None:
    """Of 30 calls at once exactly as many keys are added as there is room for."""

    def add(number: int) -> str:
        return stores[number % len(stores)].add_keys([api_key(f"cred_{number}")], 7)

    done = in_threads(add, 30, threads=30)
    assert sorted(done) == ["done"] * 7 + ["too_many_keys"] * 23
    assert stores[0].active_keys("acct_a", NOW) == (7, 0)


def test_room_for_many_is_exact_at_once(stores: list[Store]) -> None:
    """Of 12 calls at once that add 3 keys each, 2 find room for theirs among 7."""
    done = in_threads(lambda number: stores[number % len(stores)].add_keys(many(3), 7), 12, 12)
    assert sorted(done) == ["done"] * 2 + ["too_many_keys"] * 10
    assert stores[0].active_keys("acct_a", NOW) == (6, 0)


def test_rotations_at_once(stores: list[Store]) -> None:
    """However keys are rotated at once, twice as many as the account may have work at most."""
    for number in range(5):
        stores[0].add_keys([api_key(f"cred_{number}")])

    def rotate(number: int) -> str:
        successor = api_key(f"cred_new{number}")
        chosen = stores[number % len(stores)]
        return chosen.replace(f"cred_{number % 5}", successor, NOW + 9, 4)

    done = in_threads(rotate, 30, threads=30)
    assert done.count("done") == 3
    assert sum(stores[0].active_keys("acct_a", NOW)) == 8


# --- everything at once --------------------------------------------------------------------------


@pytest.mark.parametrize("descendants", [False, True])
def test_nothing_is_made_by_what_is_revoked(stores: list[Store], descendants: bool) -> None:
    """O6: threads that create and rotate as hard as they can make nothing after the revocation;
    with descendants, nothing is left of what they had made.
    """
    stores[0].add_keys([api_key("cred_by")])
    ids = itertools.count()
    is_revoked = threading.Event()

    def make(number: int) -> list[str]:
        chosen, by = stores[number % len(stores)], "cred_by"
        came: list[str] = []
        for step in range(14):
            if step == 13:
                assert is_revoked.wait(60)
            made = api_key(f"cred_{next(ids)}", created_by=by)
            if number % 3 or by == "cred_by":
                came.append(chosen.add_keys([made]))
            else:
                came.append(chosen.replace(by, made, NOW + 9, None, by))
            if came[-1] == "done" and number % 2:
                by = made.id  # what it has made makes the next
        return came

    with ThreadPoolExecutor(6) as pool:
        working = [pool.submit(make, number) for number in range(6)]
        while len(stores[0].keys("acct_a", 20)) < 20:
            pass
        found = stores[-1].revoke("cred_by", NOW, descendants)
        at_once = {key.id for key in every_key(stores[0]) if key.created_by == "cred_by"}
        is_revoked.set()
        came = [one.result() for one in working]
    everything = every_key(stores[0])
    assert {key.id for key in everything if key.created_by == "cred_by"} == at_once
    assert found.outcome == "done"
    assert [outcomes[-1] for outcomes in came[::2]] == ["caller_ended"] * 3
    if descendants:
        assert {outcomes[-1] for outcomes in came} == {"caller_ended"}
        assert all(key.revoked_at == NOW for key in everything)
        assert len(found.key_ids) == len(everything)


def test_revocations_and_touches_at_once(stores: list[Store]) -> None:
    """Revocations of many keys, uses of the same keys and other changes don't wait for each other
    for ever.
    """
    ids = [f"cred_{number:02}" for number in range(40)]
    for number, key_id in reversed(list(enumerate(ids))):
        stores[0].add_keys([api_key(key_id, created_at=NOW - number)])
    for number, key_id in enumerate(ids[1:]):
        stores[0].add_keys([api_key(f"cred_by_{number}", created_by=ids[0])])
        stores[0].add_keys([api_key(f"cred_up_{number}", created_by=key_id)])
    names = ["cred_00", *(f"cred_by_{number}" for number in range(39))]
    grant(stores[0], "acct_b", 20)
    for number in range(20):
        stores[0].charge("acct_b", 1, f"b{number}", NOW)

    def work(number: int) -> object:
        chosen = stores[number % len(stores)]
        calls: list[Callable[[], object]] = [
            lambda: chosen.revoke("cred_00", NOW + number, True),
            lambda: chosen.add_usage(MONTH, {}, used=dict.fromkeys(names, NOW + number)),
            lambda: chosen.set_key_limits(names[number % 40], ()),
            lambda: chosen.reverse("acct_b", f"b{number // 6}", NOW),
            lambda: chosen.add_keys([api_key(f"cred_x{number}", created_by="cred_01")]),
            lambda: chosen.charge("acct_a", 0, f"a{number}", NOW),
        ]
        return calls[number % 6]()

    in_threads(work, 120)
    assert all(stores[0].key(key_id).revoked_at for key_id in names)  # type: ignore[union-attr]  # it is there
    assert stores[0].account("acct_b") == account("acct_b", created_at=NOW + 1, balance=20)


# --- pages ---------------------------------------------------------------------------------------


@FUZZ
@given(
    ages=st.lists(st.integers(0, 4), max_size=25),
    limit=st.integers(1, 30),
    late=st.lists(st.integers(0, 4), max_size=4),
)
def test_pages_of_keys(store: Store, ages: list[int], limit: int, late: list[int]) -> None:
    """O5: whatever the limit, and whatever is added meanwhile, pages bring what was there once
    each, oldest first, also where many are of one instant.
    """
    run = next(numbers)
    account_id = f"acct_p{run}"
    store.add_account(account(account_id))

    def add(name: str, age: int) -> str:
        key = api_key(f"cred_{run}_{name}", account_id=account_id, created_at=NOW - age)
        store.add_keys([key])
        return key.id

    there = {add(f"{number}", age) for number, age in enumerate(ages)}
    found: list[ApiKey] = []
    added = iter(enumerate(late))
    while page := store.keys(account_id, limit, place_of(found[-1]) if found else None):
        assert len(page) <= limit
        found += page
        for number, age in itertools.islice(added, 1):
            add(f"late{number}", age)
    ids = [key.id for key in found]
    assert len(ids) == len(set(ids))
    assert there <= set(ids)
    assert [key.created_at for key in found] == sorted(key.created_at for key in found)
    assert {key.account_id for key in found} <= {account_id}


def test_pages_of_everything(empty: Store) -> None:
    """Lists of all accounts, and of the keys of all, come by pages too."""
    for number in range(60):
        owner = account(f"acct_{number}", created_at=NOW - number % 7)
        empty.add_account(owner)
        empty.add_keys(
            [api_key(f"cred_{number}", account_id=owner.id, created_at=owner.created_at)]
        )
    lists: list[Callable[[int, Place | None], Any]] = [
        empty.accounts,
        lambda most, after: empty.keys(None, most, after),
    ]
    for read, limit in itertools.product(lists, [1, 7, 60, 61, 100]):
        found: list[Any] = []
        while page := read(limit, place_of(found[-1]) if found else None):
            assert len(page) <= limit
            found += page
        assert len({one.id for one in found}) == len(found) == 60
        assert [one.created_at for one in found] == sorted(one.created_at for one in found)
    assert len(empty.keys()) == len(empty.accounts()) == 50


def test_page_after_what_is_gone(store: Store) -> None:
    """A place need not be that of anything."""
    store.add_keys([api_key("cred_b")])
    assert list(store.keys("acct_a", 9, Place(NOW, "cred_a"))) == [api_key("cred_b")]
    assert list(store.keys("acct_a", 9, Place(NOW, "cred_c"))) == []
    assert list(store.keys("acct_a", 9, Place(0, "z"))) == [api_key("cred_b")]


# --- counts --------------------------------------------------------------------------------------


def test_accounts_on_each_plan(store: Store) -> None:
    """Accounts are counted by their plans."""
    store.add_account(account("acct_c", plan="pro"))
    assert dict(store.plans()) == {"starter": 2, "pro": 1}


@FUZZ
@given(
    counts=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), max_size=8),
    quota=st.integers(0, 12),
)
def test_overage(store: Store, counts: list[tuple[int, int]], quota: int) -> None:
    """R13: of an account, the sum of what each lineage has above the quota, once however many
    keys it has had, in this month, and of no other account.
    """
    run = next(numbers)
    owners = [f"acct_o{run}_{number}" for number in range(2)]
    for owner in owners:
        store.add_account(account(owner))
    used: dict[tuple[str, str], int] = {}
    for number, (lineage, counted) in enumerate(counts):
        own, other = (f"cred_{run}_{name}{lineage}" for name in "ab")
        store.add_keys([api_key(f"{own}_{number}", account_id=owners[0], lineage=own)])
        store.add_keys([api_key(f"{other}_{number}", account_id=owners[1], lineage=other)])
        used[key_subject(own), MONTH] = counted
        used[key_subject(own), "2026-12"] = used[key_subject(other), MONTH] = 99
    used[account_subject(owners[0]), MONTH] = 999
    for month in (MONTH, "2026-12"):
        store.add_usage(month, {subject: used[subject, of] for subject, of in used if of == month})
    mine = {f"cred_{run}_a{lineage}" for lineage, _ in counts}
    expected = sum(max(0, used[key_subject(own), MONTH] - quota) for own in mine)
    assert store.overage(owners[0], MONTH, quota) == expected
    assert store.overage("acct_unknown", MONTH, quota) == 0


# --- credits that are given back -----------------------------------------------------------------


def balances(store: Store) -> dict[str, int]:
    """What each account has."""
    return {one.id: one.balance for one in store.accounts()}


def test_reverse(store: Store) -> None:
    """O11: a reversal gives back what its charge took, once, to whom it was taken from."""
    grant(store, "acct_a", 10)
    grant(store, "acct_b", 10)
    assert store.charge("acct_a", 3, "one", NOW) == 7
    assert store.charge("acct_b", 4, "two", NOW) == 6
    assert store.charge("acct_a", 0, "free", NOW) == 7
    assert store.charge("acct_a", 99, "short", NOW) is None
    assert store.reverse("acct_a", "one", NOW) == 10
    for reference in ("one", "free", "short", "never"):
        assert store.reverse("acct_a", reference, NOW) is None
    assert balances(store) == {"acct_a": 10, "acct_b": 6}


def test_charge_is_made_once(store: Store) -> None:
    """O11: a charge that is repeated takes nothing more, though the balance be short by then."""
    grant(store, "acct_a", 10)
    assert store.charge("acct_a", 8, "one", NOW) == 2
    assert store.charge("acct_a", 8, "one", NOW) == 2
    assert store.reverse("acct_a", "one", NOW) == 10
    assert store.charge("acct_a", 8, "one", NOW) is None
    assert balances(store)["acct_a"] == 10


def test_reversed_before_it_is_charged(store: Store) -> None:
    """O11: a charge that comes after its reversal, as one that was given up, takes nothing."""
    grant(store, "acct_a", 10)
    assert store.reverse("acct_a", "one", NOW) is None
    assert store.charge("acct_a", 3, "one", NOW) is None
    assert store.reverse("acct_a", "one", NOW) is None
    assert balances(store)["acct_a"] == 10


def test_reversed_once(stores: list[Store]) -> None:
    """O11: of reversals at once, in whatever processes, one gives back."""
    grant(stores[0], "acct_a", 30)
    for number in range(10):
        stores[0].charge("acct_a", 3, f"c{number}", NOW)

    def reverse(number: int) -> int | None:
        return stores[number % len(stores)].reverse("acct_a", f"c{number // 8}", NOW)

    came = in_threads(reverse, 80)
    assert sorted(balance for balance in came if balance is not None) == list(range(3, 31, 3))
    assert balances(stores[0])["acct_a"] == 30


def test_charges_and_reversals_at_once(stores: list[Store]) -> None:
    """O11, O12: whichever comes first, a charge and its reversals at once leave the balance as it
    was, and charges at once with one reference are one.
    """
    grant(stores[0], "acct_a", 100)

    def work(number: int) -> None:
        chosen, reference = stores[number % len(stores)], f"c{number // 6}"
        if number % 3:
            chosen.charge("acct_a", 2, reference, NOW)
        else:
            chosen.reverse("acct_a", reference, NOW)

    def charge(number: int) -> int | None:
        return stores[number % len(stores)].charge("acct_a", 5, f"kept{number // 8}", NOW)

    in_threads(work, 120)
    assert balances(stores[0])["acct_a"] == 100
    assert None not in in_threads(charge, 80)
    assert balances(stores[0])["acct_a"] == 50
