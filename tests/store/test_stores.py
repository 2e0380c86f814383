"""One suite for every store, and what is particular to those in SQL databases."""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from keyrush.core.identity import Found, account_subject, key_subject
from keyrush.core.model import Limit, Override
from keyrush.core.sliding import Window
from keyrush.core.times import DAY, SECOND
from keyrush.errors import ConfigurationError, DataError, StoreError
from keyrush.limiter.ledgers.postgresql import PostgresqlLedger
from keyrush.runtime.circuit import Circuit
from keyrush.sql.engine import Database
from keyrush.sql.schema import SCHEMA
from keyrush.store.memory import MemoryStore
from keyrush.store.opening import open_store
from keyrush.store.protocol import Batch, Proved, Store
from keyrush.store.sql import SqlStore
from tests.support.scripts import run, together
from tests.support.stores import empty, grant, in_threads, store
from tests.support.values import MONTH, NOW, account, api_key

__all__ = ["empty", "store"]  # fixtures

LIMITS = (Limit(7, 10), Limit(0, 60), Limit(1000, 3600))


@pytest.fixture(params=["sqlite", "postgresql"])
def sql_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database of each kind that keyrush has never seen."""
    if request.param == "postgresql":
        url: str = request.getfixturevalue("bare_postgres_url")
        return url
    return f"sqlite:///{tmp_path}/keyrush.db"


def revoked(store: Store, key_id: str, at: int = NOW, **how: Any) -> list[str]:
    """The ids that one revocation names."""
    outcome, key_ids = store.revoke(key_id, at, **how)
    assert outcome == "done"
    return list(key_ids)


# --- accounts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [None, (), (Limit(0, 60),), LIMITS])
def test_account_round_trip(empty: Store, limits: tuple[Limit, ...] | None) -> None:
    """An account is read as it was written; no limits, unlimited and 0 are three things."""
    written = account("acct_x", plan="pro", created_at=NOW + 7, balance=2**40, limits=limits)
    assert empty.add_account(written)
    assert empty.account("acct_x") == written
    assert list(empty.accounts()) == [written]


@pytest.mark.parametrize("limits", [None, (), LIMITS])
@pytest.mark.parametrize("override", [(), (Limit(0, 60),), LIMITS])
def test_override_round_trip(
    empty: Store, limits: tuple[Limit, ...] | None, override: tuple[Limit, ...]
) -> None:
    """O13: an account is read with its override, whatever limits it has for good."""
    written = account("acct_x", limits=limits, override=Override(override, NOW + 7))
    assert empty.add_account(written)
    assert empty.account("acct_x") == written


def test_no_such_account(store: Store) -> None:
    """What is asked of an unknown account says so and changes nothing."""
    before = list(store.accounts())
    assert store.account("acct_x") is None
    assert store.set_plan("acct_x", "pro") is False
    assert store.set_account_limits("acct_x", ()) is False
    assert store.set_account_limits("acct_x", (), NOW) is False
    assert grant(store, "acct_x", 5) is None
    assert store.charge("acct_x", 0, reference(), NOW) is None
    assert list(store.accounts()) == before


def test_account_ids_are_unique(store: Store) -> None:
    """A second account with the same id is not added, and the first one stays."""
    assert store.add_account(account("acct_a", plan="business", balance=99)) is False
    assert store.account("acct_a") == account("acct_a")


def test_accounts_oldest_first(empty: Store) -> None:
    """Accounts are listed by their age, whenever they were added."""
    for number in (3, 1, 2):
        empty.add_account(account(f"acct_{number}", created_at=NOW + number))
    assert [found.id for found in empty.accounts()] == ["acct_1", "acct_2", "acct_3"]


def test_set_plan_and_limits(store: Store) -> None:
    """Each changes alone, and of this account alone."""
    grant(store, "acct_a", 5)
    assert store.set_plan("acct_a", "pro") is True
    assert store.set_account_limits("acct_a", (Limit(5, 60),)) is True
    changed = account("acct_a", plan="pro", balance=5, limits=(Limit(5, 60),))
    assert store.account("acct_a") == changed
    assert store.account("acct_b") == account("acct_b", created_at=NOW + 1)
    assert store.set_account_limits("acct_a", None) is True
    assert store.account("acct_a") == replace(changed, limits=None)


def test_set_an_override(store: Store) -> None:
    """O13: an override replaces an earlier one and leaves the limits that are for good; what is set
    for good ends it.
    """
    store.set_account_limits("acct_a", (Limit(5, 60),))
    plain = account("acct_a", limits=(Limit(5, 60),))
    for until in (NOW + 9, NOW + 5):
        assert store.set_account_limits("acct_a", LIMITS, until) is True
        assert store.account("acct_a") == replace(plain, override=Override(LIMITS, until))
    assert store.account("acct_b") == account("acct_b", created_at=NOW + 1)
    assert store.set_plan("acct_a", "pro") is True
    store.set_account_limits("acct_a", None, NOW + 9)
    assert store.account("acct_a") == replace(plain, plan="pro")
    store.set_account_limits("acct_a", LIMITS, NOW + 9)
    assert store.set_account_limits("acct_a", None) is True
    assert store.account("acct_a") == account("acct_a", plan="pro")


# --- credits -------------------------------------------------------------------------------------


def reference() -> str:
    """A new name for a charge."""
    return f"charge-{next(_numbers)}"


_numbers = itertools.count()


def test_grant_and_charge(store: Store) -> None:
    """O3, O11, O12, O19: exact, and nothing is taken where the balance is short."""
    assert grant(store, "acct_a", 500) == 500
    assert store.charge("acct_a", 3, reference(), NOW) == 497
    assert store.charge("acct_a", 498, reference(), NOW) is None
    assert store.charge("acct_a", 0, reference(), NOW) == 497
    assert store.charge("acct_a", 497, reference(), NOW) == 0
    assert store.charge("acct_a", 1, reference(), NOW) is None
    assert store.charge("acct_a", 0, reference(), NOW) == 0
    assert grant(store, "acct_a", 10**9) == 10**9
    assert store.charge("acct_b", 1, reference(), NOW) is None


def test_a_thousand_concurrent_charges(store: Store) -> None:
    """O12: never negative and exact: of 1,000 charges of 1, a balance of 600 pays for 600."""
    grant(store, "acct_a", 600)
    balances = in_threads(lambda _: store.charge("acct_a", 1, reference(), NOW), 1000)
    assert sorted(balance for balance in balances if balance is not None) == list(range(600))
    assert store.charge("acct_a", 1, reference(), NOW) is None
    found = store.account("acct_a")
    assert found is not None
    assert found.balance == 0


def test_concurrent_grants_and_charges(store: Store) -> None:
    """O19: what is granted and what is charged adds up."""

    def work(number: int) -> int:
        if number % 2:
            grant(store, "acct_a", 2)
            return 2
        return 0 if store.charge("acct_a", 3, reference(), NOW) is None else -3

    expected = sum(in_threads(work, 200))
    found = store.account("acct_a")
    assert found is not None
    assert found.balance == expected >= 0


# --- keys ----------------------------------------------------------------------------------------


FULL = api_key(
    "cred_full",
    lineage="cred_first",
    name="Überprüfung ✓ — 日本語 🗝️",
    prefix="rsh_live_abc123...",
    environment=None,
    scopes=("read:articles", "*", "a"),
    fingerprint="f" * 64,
    hash="$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA",
    pepper_id="0123456789abcdef",
    last_used_at=NOW + 1,
    expires_at=NOW + 2,
    revoked_at=NOW + 3,
    retires_at=NOW + 4,
    limits=(Limit(0, 60), Limit(5, 3600)),
    proof="a" * 64,
)


@pytest.mark.parametrize(
    "written", [api_key(), FULL, replace(FULL, limits=()), api_key(name="x" * 120, scopes=())]
)
def test_key_round_trip(store: Store, written: Any) -> None:
    """A key is read as it was written, by id, by list and by fingerprint."""
    store.add_keys([written])
    assert store.key(written.id) == written
    assert list(store.keys("acct_a")) == list(store.keys()) == [written]
    found = store.find([written.fingerprint], MONTH)
    assert found == Found(written, account("acct_a"), 0, 0)


def test_no_such_key(store: Store) -> None:
    """What is asked of an unknown key says so."""
    assert store.key("cred_x") is None
    assert store.revoke("cred_x", NOW) == ("gone", ())
    assert store.set_key_limits("cred_x", ()) is False
    assert store.replace("cred_x", api_key(), NOW) == "gone"
    store.add_usage(MONTH, {}, used={"cred_x": NOW})
    assert list(store.keys()) == list(store.keys("acct_x")) == []
    assert store.find([api_key().fingerprint], MONTH) is None
    assert store.find([], MONTH) is None


def test_keys_oldest_first_and_by_account(store: Store) -> None:
    """O5: an account's keys are listed by their age, and no other account's."""
    for number in (3, 1, 2):
        owner = "acct_b" if number == 2 else "acct_a"
        store.add_keys([api_key(f"cred_{number}", account_id=owner, created_at=NOW + number)])
    everyone = store.keys()
    assert [key.id for key in everyone] == ["cred_1", "cred_2", "cred_3"]
    assert [key.id for key in store.keys("acct_a")] == ["cred_1", "cred_3"]
    assert [key.id for key in store.keys("acct_b")] == ["cred_2"]


def test_find_by_any_fingerprint(store: Store) -> None:
    """Under rotating peppers a key has one of several fingerprints."""
    store.add_keys([api_key("cred_a")])
    store.add_keys([api_key("cred_b")])
    for fingerprints in (
        ["0" * 64, api_key("cred_b").fingerprint],
        [api_key("cred_b").fingerprint],
    ):
        found = store.find(fingerprints, MONTH)
        assert found is not None
        assert found.key.id == "cred_b"
    assert store.find(["0" * 64, "1" * 64], MONTH) is None
    assert store.find([api_key().fingerprint.upper() + "x"], MONTH) is None


def test_find_brings_everything(store: Store) -> None:
    """One look-up brings key, account and this month's counts, those of the key by its lineage."""
    store.add_keys([api_key("cred_b", lineage="cred_a")])
    store.set_plan("acct_a", "pro")
    store.set_account_limits("acct_a", (Limit(5, 60),))
    grant(store, "acct_a", 7)
    store.add_usage(
        MONTH,
        {
            key_subject("cred_a"): 3,
            key_subject("cred_b"): 100,
            account_subject("acct_a"): 9,
            account_subject("acct_b"): 200,
        },
    )
    store.add_usage("2026-12", {key_subject("cred_a"): 1})
    owner = account("acct_a", plan="pro", balance=7, limits=(Limit(5, 60),))
    fingerprint = api_key("cred_b").fingerprint
    key = api_key("cred_b", lineage="cred_a")
    assert store.find([fingerprint], MONTH) == Found(key, owner, 3, 9)
    assert store.find([fingerprint], "2026-12") == Found(key, owner, 1, 0)
    assert store.find([fingerprint], "2027-01") == Found(key, owner, 0, 0)
    store.set_account_limits("acct_a", LIMITS, NOW + 9)
    owner = replace(owner, override=Override(LIMITS, NOW + 9))
    assert store.find([fingerprint], MONTH) == Found(key, owner, 3, 9)


def test_revoke(store: Store) -> None:
    """O6: for good: an earlier revocation stands, and nothing else changes."""
    store.add_keys([api_key("cred_a")])
    store.add_keys([api_key("cred_b")])
    assert revoked(store, "cred_a", NOW + 5) == ["cred_a"]
    assert revoked(store, "cred_a", NOW + 9) == ["cred_a"]
    assert revoked(store, "cred_a", NOW + 1) == ["cred_a"]
    assert store.key("cred_a") == api_key("cred_a", revoked_at=NOW + 5)
    assert store.key("cred_b") == api_key("cred_b")
    found = store.find([api_key("cred_a").fingerprint], MONTH)
    assert found is not None
    assert found.key.revoked_at == NOW + 5


def test_set_key_limits(store: Store) -> None:
    """A key's own limits come and go."""
    store.add_keys([api_key()])
    for limits in ((Limit(5, 60),), (), None):
        assert store.set_key_limits("cred_a", limits) is True
        assert store.key("cred_a") == api_key(limits=limits)


def test_refingerprint(store: Store) -> None:
    """A key that moves to a newer pepper is found there alone; nothing else of it changes."""
    store.add_keys([api_key()])
    store.refingerprint("cred_a", "e" * 64, "p2", "b" * 64)
    moved = api_key(fingerprint="e" * 64, pepper_id="p2", proof="b" * 64)
    assert store.key("cred_a") == moved
    assert store.find([api_key().fingerprint], MONTH) is None
    found = store.find(["e" * 64], MONTH)
    assert found is not None
    assert found.key == moved


def test_record_proofs(store: Store) -> None:
    """Proofs of many keys are set at once, of those alone whose hash is as it was; nothing else of
    a key changes.
    """
    for key_id, hash in (("cred_a", "h"), ("cred_b", ""), ("cred_c", "other")):
        store.add_keys([api_key(key_id, hash=hash)])
    many = [api_key(f"cred_{number:04}") for number in range(600)]
    store.add_keys(many)
    proofs = [Proved(key.id, key.hash, key.id.rjust(64, "0")) for key in many]
    store.record_proofs(
        [
            Proved("cred_a", "h", "a" * 64),
            Proved("cred_b", "", "b" * 64),
            Proved("cred_c", "h", "c" * 64),
            Proved("cred_x", "h", "x" * 64),
            *proofs,
        ]
    )
    store.record_proofs([])
    assert store.key("cred_a") == api_key("cred_a", hash="h", proof="a" * 64)
    assert store.key("cred_b") == api_key("cred_b", hash="", proof="b" * 64)
    assert store.key("cred_c") == api_key("cred_c", hash="other")
    found = {key.id: key.proof for key in store.keys(limit=1000)}
    assert [found[one.key_id] for one in proofs] == [one.proof for one in proofs]


def test_replace(store: Store) -> None:
    """R17: the successor is there, and the old key retires; nothing else of it changes."""
    store.add_keys([api_key(expires_at=NOW + 5)])
    successor = api_key("cred_b", lineage="cred_a")
    assert store.replace("cred_a", successor, NOW + 9) == "done"
    assert store.key("cred_a") == api_key(expires_at=NOW + 5, retires_at=NOW + 9)
    assert store.key("cred_b") == successor
    assert store.find([successor.fingerprint], MONTH) is not None


@pytest.mark.parametrize("ended", [{"revoked_at": NOW}, {"retires_at": NOW + 5}])
def test_replace_of_a_key_that_ends(store: Store, ended: dict[str, Any]) -> None:
    """R17: a key that is revoked, or was replaced before, has no successor and stays as it is."""
    store.add_keys([api_key(**ended)])
    assert store.replace("cred_a", api_key("cred_b"), NOW + 9) == "gone"
    assert list(store.keys()) == [api_key(**ended)]


def test_replaced_once(store: Store) -> None:
    """R17: of concurrent rotations of one key exactly one succeeds."""
    store.add_keys([api_key()])
    done = in_threads(
        lambda number: store.replace("cred_a", api_key(f"cred_b{number}"), NOW + number), 20
    )
    assert sorted(done) == ["done"] + ["gone"] * 19
    winner = done.index("done")
    assert store.key("cred_a") == api_key(retires_at=NOW + winner)
    assert {key.id for key in store.keys("acct_a")} == {"cred_a", f"cred_b{winner}"}


# --- last use ------------------------------------------------------------------------------------


def test_touch_only_forwards(store: Store) -> None:
    """`last_used_at` is set for many keys at once, and never goes back."""
    for key_id in ("cred_a", "cred_b"):
        store.add_keys([api_key(key_id)])
    store.add_usage(MONTH, {}, used={"cred_a": NOW + 5, "cred_b": NOW + 6, "cred_x": NOW})
    store.add_usage(MONTH, {}, used={"cred_a": NOW + 4, "cred_b": NOW + 7})
    store.add_usage(MONTH, {}, used={})
    assert store.key("cred_a") == api_key("cred_a", last_used_at=NOW + 5)
    assert store.key("cred_b") == api_key("cred_b", last_used_at=NOW + 7)


def test_touch_never_unrevokes(store: Store) -> None:
    """A late write of a key's use leaves alone what others have changed meanwhile."""
    store.add_keys([api_key()])
    store.revoke("cred_a", NOW)
    store.set_key_limits("cred_a", ())
    store.add_usage(MONTH, {}, used={"cred_a": NOW + 5})
    assert store.key("cred_a") == api_key(revoked_at=NOW, limits=(), last_used_at=NOW + 5)


def test_concurrent_touches(store: Store) -> None:
    """Writers that name the same keys in other orders don't wait for each other for ever."""
    ids = [f"cred_{number}" for number in range(50)]
    for key_id in ids:
        store.add_keys([api_key(key_id)])

    def work(number: int) -> None:
        used = dict.fromkeys(ids if number % 2 else reversed(ids), NOW + number)
        store.add_usage(MONTH, {}, used=used)

    in_threads(work, 100)
    assert {key.last_used_at for key in store.keys("acct_a")} == {NOW + 99}


def test_touch_and_revoke_at_once(store: Store) -> None:
    """Of concurrent uses and revocations none undoes another."""
    for number in range(20):
        store.add_keys([api_key(f"cred_{number}")])

    def work(number: int) -> None:
        key_id = f"cred_{number % 20}"
        if number < 20:
            store.revoke(key_id, NOW)
        else:
            used = dict.fromkeys([key_id, f"cred_{(number + 7) % 20}"], NOW + number)
            store.add_usage(MONTH, {}, used=used)

    in_threads(work, 100)
    for key in store.keys("acct_a"):
        assert key.revoked_at == NOW
        assert key.last_used_at is not None
        assert key.last_used_at >= NOW + 80


# --- usage ---------------------------------------------------------------------------------------


def test_add_usage(store: Store) -> None:
    """Increments add up, down too, and the totals of exactly these come back."""
    a, b = "key:cred_a", "key:cred_b"
    assert store.add_usage(MONTH, {a: 3, b: 1}) == {a: 3, b: 1}
    assert store.add_usage(MONTH, {a: 2}) == {a: 5}
    assert store.add_usage(MONTH, {a: -1, b: 0}) == {a: 4, b: 1}
    assert store.add_usage(MONTH, {}) == {}
    assert store.usage(a, MONTH) == 4
    assert store.usage(b, MONTH) == 1
    assert store.add_usage("2026-12", {a: 7}) == {a: 7}
    assert store.usage(a, MONTH) == 4
    assert store.usage("key:cred_x", MONTH) == 0


def test_add_usage_of_many(store: Store) -> None:
    """A flush of many keys is one step, however many."""
    increments = {f"key:cred_{number}": number for number in range(12_345)}
    assert store.add_usage(MONTH, increments) == increments
    assert store.usage("key:cred_12344", MONTH) == 12_344


def test_concurrent_usage(store: Store) -> None:
    """Increments of many processes and threads are never lost, in whatever order they name keys."""
    subjects = [f"key:cred_{number}" for number in range(20)]

    def work(number: int) -> int:
        chosen = subjects if number % 2 else reversed(subjects)
        return len(store.add_usage(MONTH, dict.fromkeys(chosen, 1)))

    assert set(in_threads(work, 100)) == {20}
    assert {store.usage(subject, MONTH) for subject in subjects} == {100}


def test_batch_is_added_once(store: Store) -> None:
    """A flush whose outcome was unknown, repeated: counted once, with the totals as they are."""
    a, b = "key:cred_a", "key:cred_b"
    assert store.add_usage(MONTH, {a: 3, b: 1}, Batch("one", 1)) == {a: 3, b: 1}
    store.add_usage(MONTH, {a: 10})
    assert store.add_usage(MONTH, {a: 3, b: 1}, Batch("one", 1)) == {a: 13, b: 1}
    assert store.add_usage(MONTH, {b: 1}, Batch("one", 2)) == {b: 2}
    assert store.add_usage(MONTH, {a: 3, b: 1}, Batch("one", 1)) == {a: 13, b: 2}
    assert store.add_usage(MONTH, {}, Batch("one", 3)) == {}
    assert store.usage(a, MONTH) == 13


def test_batches_of_each_worker(store: Store) -> None:
    """Workers number their batches each on its own; numbers may be left out."""
    a = "key:cred_a"
    assert store.add_usage(MONTH, {a: 1}, Batch("one", 7)) == {a: 1}
    assert store.add_usage(MONTH, {a: 1}, Batch("two", 1)) == {a: 2}
    assert store.add_usage(MONTH, {a: 1}, Batch("one", 9)) == {a: 3}
    assert store.add_usage(MONTH, {a: 1}, Batch("two", 1)) == {a: 3}
    assert store.add_usage(MONTH, {a: 1}, Batch("one", 8)) == {a: 3}


def test_batch_repeated_at_once(store: Store) -> None:
    """Calls at once with the same batch add it once, and all learn the same total."""
    subject = "key:cred_a"

    def work(number: int) -> int:
        return store.add_usage(
            MONTH, {subject: 1}, Batch(f"worker_{number % 4}", 1 + number // 32)
        )[subject]

    totals = in_threads(work, 128)
    # In the pool's order, a batch can come after the next one of its worker: then it is not added.
    assert store.usage(subject, MONTH) == max(totals) <= 16
    repeated = in_threads(lambda _: store.add_usage(MONTH, {subject: 5}, Batch("late", 1)), 32)
    assert [total[subject] for total in repeated] == [max(totals) + 5] * 32


def test_batch_that_fails_is_not_noted(sql_url: str) -> None:
    """What was not added can be added later: the note and the counts are one step."""
    store = open_store(sql_url).store
    with connect(sql_url) as connection:
        connection.execute(sa.text("ALTER TABLE keyrush_usage RENAME TO elsewhere"))
    with pytest.raises(StoreError):
        store.add_usage(MONTH, {"key:cred_a": 3}, Batch("one", 1))
    with connect(sql_url) as connection:
        connection.execute(sa.text("ALTER TABLE elsewhere RENAME TO keyrush_usage"))
    assert store.add_usage(MONTH, {"key:cred_a": 3}, Batch("one", 1)) == {"key:cred_a": 3}
    store.close()


def test_flush_is_one_transaction(tmp_path: Path) -> None:
    """Counts and uses are one commit, of as many statements however many keys there are."""
    store = SqlStore(Database(f"sqlite:///{tmp_path}/keyrush.db"))
    store.add_account(account())
    keys = [api_key(f"cred_{number}") for number in range(200)]
    store.add_keys(keys)
    store.add_usage(MONTH, {}, Batch("one", 1))  # which looks for old ones, too
    said: list[str] = []
    pooled = store.database.engine.raw_connection()
    connection: Any = pooled.dbapi_connection
    connection.set_trace_callback(said.append)
    pooled.close()
    for number, some in enumerate((keys, keys[:2])):
        said.clear()
        counted = {key_subject(key.id): 1 for key in some}
        used = {key.id: NOW + number for key in some}
        store.add_usage(MONTH, counted, Batch("one", number + 2), used)
        begin, *between, end = [statement.split()[0] for statement in said]
        assert (begin, end) == ("BEGIN", "COMMIT")
        assert between == ["INSERT", "INSERT", "SELECT", "UPDATE"]
        assert [store.key(key.id) for key in some] == [
            api_key(key.id, last_used_at=NOW + number) for key in some
        ]
    store.close()


def test_flush_is_written_as_a_whole(sql_url: str) -> None:
    """Where the uses can't be written, the counts are not either, and can be later."""
    store = open_store(sql_url).store
    with connect(sql_url) as connection:
        connection.execute(sa.text("ALTER TABLE keyrush_keys RENAME TO elsewhere"))
    with pytest.raises(StoreError):
        store.add_usage(MONTH, {"key:cred_a": 3}, Batch("one", 1), {"cred_a": NOW})
    assert store.usage("key:cred_a", MONTH) == 0
    with connect(sql_url) as connection:
        connection.execute(sa.text("ALTER TABLE elsewhere RENAME TO keyrush_keys"))
    assert store.add_usage(MONTH, {"key:cred_a": 3}, Batch("one", 1), {"cred_a": NOW}) == {
        "key:cred_a": 3
    }
    store.close()


def test_batches_are_forgotten(sql_url: str) -> None:
    """Workers that have added nothing for a day leave nothing behind."""
    store = open_store(sql_url).store
    for worker in ("old", "new"):
        store.add_usage(MONTH, {"key:cred_a": 1}, Batch(worker, 1))
    with connect(sql_url) as connection:
        connection.execute(
            sa.text("UPDATE keyrush_batches SET added_at = added_at - :day WHERE worker = 'old'"),
            {"day": DAY + SECOND},
        )
    store.close()
    later = open_store(sql_url).store
    later.add_usage(MONTH, {"key:cred_a": 1}, Batch("later", 1))
    later.close()
    with connect(sql_url) as connection:
        rows = connection.execute(sa.text("SELECT worker FROM keyrush_batches")).scalars().all()
    assert sorted(rows) == ["later", "new"]


def test_peppers_of_active_keys(store: Store) -> None:
    """Only keys that would still be accepted hold a pepper in use."""
    for number, (pepper, values) in enumerate(
        [
            ("p1", {}),
            ("p1", {"expires_at": NOW + 1}),
            ("p1", {"expires_at": NOW}),
            ("p2", {"revoked_at": NOW + 9}),
            ("p2", {"retires_at": NOW}),
            ("p3", {"retires_at": NOW + 1}),
        ]
    ):
        store.add_keys([api_key(f"cred_{number}", pepper_id=pepper, **values)])
    assert dict(store.peppers(NOW)) == {"p1": 2, "p3": 1}


def test_used_again_after_close(store: Store) -> None:
    """A closed store opens its connections again."""
    store.close()
    store.close()
    assert store.account("acct_a") == account("acct_a")


def test_reads_from_many_threads(store: Store) -> None:
    """Every thread finds every key."""
    for number in range(20):
        store.add_keys([api_key(f"cred_{number}")])

    def look(number: int) -> str | None:
        found = store.find([api_key(f"cred_{number % 20}").fingerprint], MONTH)
        return found and found.key.id

    assert in_threads(look, 400) == [f"cred_{number % 20}" for number in range(400)]


def test_memory_store_after_a_fork() -> None:
    """A child forked while a thread holds the lock goes on with what it has inherited."""
    out = run(
        """
        from keyrush.store.memory import MemoryStore
        from tests.support.scripts import fork_while_held
        from tests.support.stores import grant
        from tests.support.values import account

        store = MemoryStore()
        store.add_account(account())
        fork_while_held(store._lock, lambda: print(grant(store, "acct_a", 5), flush=True))
        """
    )
    assert out == "5\n"


# --- SQL: processes ------------------------------------------------------------------------------


def test_sql_store_after_a_fork(sql_url: str) -> None:
    """Parent and child both go on with a store that was open, and in use, at the fork."""
    out = run(
        """
        import os, sys
        from keyrush.store.opening import open_store
        from tests.support.stores import grant
        from tests.support.values import account

        store = open_store(sys.argv[1]).store
        store.add_account(account())
        children = []
        for _ in range(3):
            child = os.fork()
            if not child:
                for _ in range(50):
                    grant(store, "acct_a", 1)
                store.close()
                os._exit(0)
            children.append(child)
        for _ in range(50):
            grant(store, "acct_a", 1)
        for child in children:
            assert os.waitpid(child, 0)[1] == 0
        print(store.account("acct_a").balance)
        store.close()
        """,
        sql_url,
    )
    assert out == "200\n"


def test_processes_that_start_together(sql_url: str) -> None:
    """The tables are made once, however many processes find none."""
    code = """
        import sys
        from keyrush.store.opening import open_store
        from tests.support.values import account

        print("ready", flush=True)
        sys.stdin.readline()
        store = open_store(sys.argv[1]).store
        print(store.add_account(account()))
        store.close()
        """
    assert sorted(together(code, *[[sql_url]] * 3)) == ["False\n"] * 2 + ["True\n"]
    with connect(sql_url) as connection:
        rows = connection.execute(sa.text("SELECT name, value FROM keyrush_meta")).all()
    assert [tuple(row) for row in rows] == [("schema", str(SCHEMA))]


# --- SQL: opening --------------------------------------------------------------------------------


class connect:  # noqa: N801  # used like a function
    """A connection beside the store's, in a transaction."""

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))

    def __enter__(self) -> sa.Connection:
        self._connection = self._engine.connect()
        return self._connection

    def __exit__(self, *_: object) -> None:
        self._connection.commit()
        self._connection.close()
        self._engine.dispose()


def refused(url: str) -> str:
    """Why the store can't be opened."""
    with pytest.raises(ConfigurationError, match=r"^KEYRUSH_STORE_URL: ") as caught:
        open_store(url)
    return str(caught.value)


def test_reopened(sql_url: str) -> None:
    """What was written is there the next time."""
    first = open_store(sql_url).store
    first.add_account(account())
    first.add_keys([api_key()])
    first.close()
    again = open_store(sql_url).store
    assert again.key("cred_a") == api_key()
    again.close()


@pytest.mark.parametrize("version", [str(SCHEMA + 1), "999", "next"])
def test_newer_schema(sql_url: str, version: str) -> None:
    """A database made by a newer keyrush is refused, and left as it is."""
    open_store(sql_url).store.close()
    with connect(sql_url) as connection:
        connection.execute(sa.text("UPDATE keyrush_meta SET value = :v"), {"v": version})
    assert f"schema {version}, this keyrush knows {SCHEMA}; upgrade keyrush" in refused(sql_url)
    with connect(sql_url) as connection:
        assert connection.execute(sa.text("SELECT value FROM keyrush_meta")).scalar() == version


def test_older_schema(sql_url: str) -> None:
    """A database made by an older keyrush gets what it lacks, and keeps what it holds."""
    first = open_store(sql_url).store
    first.add_account(account())
    first.close()
    with connect(sql_url) as connection:
        for table in ("batches", "changes", "charges", "windows", "workers"):
            connection.execute(sa.text(f"DROP TABLE IF EXISTS keyrush_{table}"))
        connection.execute(sa.text("UPDATE keyrush_meta SET value = '1'"))
    store = open_store(sql_url).store
    assert store.set_plan("acct_a", "pro")
    assert store.add_usage(MONTH, {"key:cred_a": 1}, Batch("w", 1))
    assert store.account("acct_a") == account(plan="pro")
    store.close()
    with connect(sql_url) as connection:
        assert connection.execute(sa.text("SELECT value FROM keyrush_meta")).scalar() == str(SCHEMA)


def test_half_made_schema(sql_url: str) -> None:
    """Tables without a version, as after a crash, are completed."""
    open_store(sql_url).store.close()
    with connect(sql_url) as connection:
        connection.execute(sa.text("DELETE FROM keyrush_meta"))
        connection.execute(sa.text("DROP TABLE keyrush_usage"))
    store = open_store(sql_url).store
    assert store.usage("key:cred_a", MONTH) == 0
    store.close()
    open_store(sql_url).store.close()


def test_replace_is_one_step(sql_url: str) -> None:
    """R17: when the successor can't be added, the old key stays as it was."""
    store = open_store(sql_url).store
    store.add_account(account())
    store.add_keys([api_key("cred_a")])
    store.add_keys([api_key("cred_b")])
    with pytest.raises(DataError):
        store.replace("cred_a", api_key("cred_b"), NOW + 9)
    assert store.key("cred_a") == api_key("cred_a")
    store.close()


def test_balance_is_guarded_by_the_database(sql_url: str) -> None:
    """O12: not even another program can make a balance negative."""
    store = open_store(sql_url).store
    store.add_account(account())
    store.close()
    with connect(sql_url) as connection, pytest.raises(sa.exc.IntegrityError):
        connection.execute(sa.text("UPDATE keyrush_accounts SET balance = -1, entries = 1"))


def test_failure_is_a_store_error(sql_url: str) -> None:
    """S19, O22: what fails in the database is a StoreError whose text holds no value."""
    store = open_store(sql_url).store
    store.add_account(account())
    store.add_keys([api_key()])
    with connect(sql_url) as connection:
        connection.execute(sa.text("DROP TABLE keyrush_keys"))
    calls: list[Callable[[], object]] = [
        lambda: store.find([api_key().fingerprint], MONTH),
        lambda: store.add_keys([api_key()]),
        lambda: store.add_usage(MONTH, {}, used={"cred_a": NOW}),
        lambda: store.revoke("cred_a", NOW),
        store.keys,
    ]
    for call in calls:
        with pytest.raises(StoreError) as caught:
            call()
        dialect = sql_url.partition(":")[0]
        cause = caught.value.__cause__
        assert str(caught.value).startswith(f"{type(cause).__name__} from {dialect}: ")
        for shown in (str(caught.value), repr(cause)):
            assert api_key().fingerprint not in shown
            assert api_key().hash not in shown
    store.close()


DATA: dict[str, Callable[[Store], object]] = {
    "a second key with an id": lambda store: store.add_keys([api_key()]),
    "a second key with a fingerprint": lambda store: store.add_keys(
        [api_key("cred_b", fingerprint=api_key().fingerprint)]
    ),
    "half a character": lambda store: store.key("cred_\ud800"),
    "half a character to write": lambda store: store.set_plan("acct_a", "\udfff"),
    "a number beyond 64 bits": lambda store: store.revoke("cred_a", 2**64),
    "a balance beyond 64 bits": lambda store: store.charge("acct_a", -(2**63), "one", NOW),
}

#: What PostgreSQL does not take, and SQLite does.
POSTGRESQL_DATA: dict[str, Callable[[Store], object]] = {
    "NUL": lambda store: store.account("acct\0"),
    "NUL to write": lambda store: store.set_plan("acct_a", "a\0"),
    "too long": lambda store: store.set_plan("acct_a", "a" * 65),
}


@pytest.mark.parametrize("call", [*DATA, *POSTGRESQL_DATA])
def test_data_is_no_outage(sql_url: str, call: str) -> None:
    """S19: what the database says of the values that it is given is told from an outage: the
    circuit stays closed, and the next call is answered.
    """
    store = open_store(sql_url).store
    store.add_account(account())
    store.add_keys([api_key()])
    circuit = Circuit("the store")
    if call in DATA or sql_url.startswith("postgresql"):
        with pytest.raises(DataError) as caught:
            circuit.call((DATA | POSTGRESQL_DATA)[call], store)
        assert not isinstance(caught.value, StoreError)
        dialect = sql_url.partition(":")[0]
        assert re.fullmatch(rf"\w+ from {dialect}(: 2[23]\w{{3}} \w+)?", str(caught.value))
    else:
        circuit.call(POSTGRESQL_DATA[call], store)
    assert circuit.is_closed
    assert store.key("cred_a") == api_key()
    store.close()


def test_connections_for_all_threads(sql_url: str) -> None:
    """Sixteen worker threads and whoever else asks the store each have a connection at once."""
    store = open_store(sql_url).store
    assert isinstance(store, SqlStore)
    with contextlib.ExitStack() as held:
        for _ in range(20):
            connection = store.database.engine.execution_options(
                isolation_level="AUTOCOMMIT"
            ).connect()
            held.enter_context(connection).execute(sa.text("SELECT 1"))
        assert store.account("acct_x") is None
    store.close()


def test_database_for_others(sql_url: str) -> None:
    """What else is kept in the database goes through the one engine, which stays the database's."""
    store, database, *_ = open_store(sql_url)
    assert isinstance(store, SqlStore)
    assert database is store.database
    with database.engine.begin() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM keyrush_meta")).scalar() == 1
    with pytest.raises(AttributeError):
        database.engine = database.engine  # type: ignore[misc]  # that is the point
    store.close()


def test_sqlite_in_wal(tmp_path: Path) -> None:
    """Readers don't wait for a writer: WAL is on."""
    store = open_store(f"sqlite:///{tmp_path}/keyrush.db").store
    store.close()
    with connect(f"sqlite:///{tmp_path}/keyrush.db") as connection:
        assert connection.execute(sa.text("PRAGMA journal_mode")).scalar() == "wal"


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("missing/keyrush.db", "unable to open database file"),
        ("folder", "unable to open database file"),
        ("file:{}/none.db?mode=ro&uri=true", "unable to open database file"),
        ("file:{}/there.db?mode=ro&uri=true", "readonly database"),
        ("file:{}/old.db?mode=ro&uri=true", "readonly database"),
        ("junk.db", "not a database"),
    ],
)
def test_sqlite_that_can_not_be_opened(tmp_path: Path, name: str, cause: str) -> None:
    """A path that is missing, a folder, read-only or no database is refused at start-up."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "junk.db").write_text("no database" * 100)
    open_store(f"sqlite:///{tmp_path}/there.db").store.close()
    with connect(f"sqlite:///{tmp_path}/old.db") as connection:
        connection.execute(sa.text("CREATE TABLE other (x)"))
    path = name.format(tmp_path) if name.startswith("file:") else f"{tmp_path}/{name}"
    message = refused(f"sqlite:///{path}")
    assert cause in message
    assert str(tmp_path) in message or str(tmp_path).replace("/", "%2F") in message


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_sqlite_in_memory(url: str) -> None:
    """A SQLite database in memory would be another for each connection: use `memory://`."""
    assert "memory://" in refused(url)


@pytest.mark.parametrize("options", ["", "existing"])
def test_read_only_postgresql(postgres_url: str, options: str) -> None:
    """A PostgreSQL database that can't be written is refused at start-up."""
    if options:
        open_store(postgres_url).store.close()
    message = refused(postgres_url + "&options=-cdefault_transaction_read_only%3Don")
    assert "read-only transaction" in message


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("mysql://user:hunter2@host/db", "'mysql' is not supported; use sqlite, postgresql"),
        ("oracle://user:hunter2@host", "'oracle' is not supported"),
        ("nonsense://user:hunter2@host", "'nonsense' is not supported"),
        ("postgresql+nope://user:hunter2@host/db", "'postgresql+nope' is not supported"),
        ("postgresql+psycopg2://user:hunter2@host/db", "'postgresql+psycopg2' is not supported"),
        ("sqlite+nope:///x.db", "'sqlite+nope' is not supported"),
        ("postgresql://user:hunter2@127.0.0.1:1/db", "can't open"),
        ("postgresql://user@127.0.0.1:1/db?password=hunter2", "can't open"),
        ("postgresql://user:hunter2@host:port/db", "not a database URL"),
        ("://hunter2", "not a database URL"),
        (
            "postgresql:/user:hunter2@host/db",
            "must be a URL, such as sqlite:///keyrush.db",
        ),
        (
            "user:hunter2@host/db",
            "must be a URL, such as sqlite:///keyrush.db",
        ),
        ("hunter2", "must be a URL, such as sqlite:///keyrush.db"),
        ("", "must be a URL, such as sqlite:///keyrush.db"),
        ("no.such.module:Store", "can't import 'no.such.module'"),
        ("json:NoSuchStore", "can't import it: not in 'json'"),
    ],
)
def test_urls_that_are_refused(url: str, cause: str) -> None:
    """O22: each is refused with its reason, and no message shows a password."""
    message = refused(url)
    assert cause in message
    assert "hunter2" not in message


def test_wrong_postgresql_database(postgres_url: str) -> None:
    """O22: the server's own words are passed on, the password is not."""
    head, _, tail = postgres_url.partition("postgres:@")
    name = tail.partition("?")[0].strip("/")
    message = refused(f"{head}postgres:hunter2@{tail.replace(name, 'no_such_database')}")
    assert 'database "no_such_database" does not exist' in message
    assert "hunter2" not in message


def test_missing_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without psycopg the message says what to install."""
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    message = refused("postgresql://user:hunter2@host/db")
    assert "needs the module 'psycopg'" in message
    assert "keyrush[postgres]" in message
    assert "hunter2" not in message


def test_driver_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where psycopg finds no libpq, that is what the message says, with what brings it."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "psycopg"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("PSYCOPG_IMPL", "python")  # which looks for the system's own
    monkeypatch.setattr("ctypes.util.find_library", lambda _name: None)
    message = refused("postgresql://user:hunter2@host/db")
    assert "needs libpq" in message
    assert "keyrush[postgres]" in message
    assert "hunter2" not in message


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_databases_of_other_encodings(postgres_url: str, encoding: str) -> None:
    """What the database can hold is kept in whatever encoding; the rest is an error about data."""
    name = f"in_{encoding.lower()}"
    create = f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(create.encode())
    store = SqlStore(Database(sa.make_url(postgres_url).set(database=name).render_as_string()))
    store.add_account(account())
    store.add_keys([api_key("cred_a", name="Zoë")])
    assert store.key("cred_a") == api_key("cred_a", name="Zoë")
    assert (
        PostgresqlLedger(store.database).take([Window("ö:60", 60_000, 9, "minute")], 1, 0).granted
        == 1
    )
    if encoding == "LATIN1":
        with pytest.raises(DataError, match="22P05 UntranslatableCharacter"):
            store.add_keys([api_key("cred_b", name="Łódź")])
    else:
        store.add_keys([api_key("cred_b", name="Łódź")])
        assert store.key("cred_b") == api_key("cred_b", name="Łódź")
    store.close()
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def test_no_key_in_the_log_of_sqlalchemy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """O22: with SQLAlchemy's log turned on, parameters stay out of it."""
    with caplog.at_level(logging.DEBUG, "sqlalchemy.engine"):
        store = open_store(f"sqlite:///{tmp_path}/keyrush.db").store
        store.add_account(account())
        store.add_keys([api_key(hash="$argon2id$very-secret")])
        store.revoke("cred_a", NOW)
        store.close()
    assert "UPDATE keyrush_keys" in caplog.text
    assert "very-secret" not in caplog.text


class OwnStore(MemoryStore):
    """A store of a user's own."""


def test_store_by_name_and_by_url(sql_url: str) -> None:
    """The URL decides which store it is."""
    assert isinstance(open_store("memory://").store, MemoryStore)
    assert isinstance(open_store(f"{__name__}:OwnStore").store, OwnStore)
    opened = open_store(sql_url).store
    assert isinstance(opened, SqlStore)
    opened.close()
