"""Edits of keys, what is kept of them, and outlines: a part of the suite that stores must pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from keyrush.core.key_search import Outline, outline_of
from keyrush.core.model import INHERIT, ApiKey, Limit, Link
from keyrush.core.times import NEVER
from keyrush.store.edits import MAX_EVENTS, Edit, KeyEvent, Value
from keyrush.store.protocol import Store
from tests.store.test_store_keys import CALLERS
from tests.support.stores import empty, in_threads, store
from tests.support.values import MONTH, NOW, account, api_key

__all__ = ["empty", "store"]  # fixtures

KEY = api_key(scopes=("read:*", "write:a"), expires_at=NOW + 100, max_concurrent=5)


def with_key(store: Store, **values: Any) -> ApiKey:
    """A key in the store."""
    key = replace(KEY, **values)
    assert store.add_keys([key]) == "done"
    return key


def _json(value: Any) -> Value:
    """The value of a field as events have it."""
    return [*value] if isinstance(value, tuple) else value


@pytest.mark.parametrize(
    ("edit", "becomes"),
    [
        ({"name": "other"}, {"name": "other"}),
        ({"scopes": ("read:a",)}, {"scopes": ("read:a",)}),
        ({"scopes": ("*",)}, {"scopes": ("*",)}),
        ({"expires_at": NOW + 9}, {"expires_at": NOW + 9}),
        ({"expires_at": NOW + 900}, {"expires_at": NOW + 900}),
        ({"expires_at": NEVER}, {"expires_at": None}),
        ({"max_concurrent": 3}, {"max_concurrent": 3}),
        ({"max_concurrent": 9}, {"max_concurrent": 9}),
        ({"max_concurrent": INHERIT}, {"max_concurrent": None}),
        (
            {"name": "o", "scopes": ("read:a",), "expires_at": NEVER},
            {"name": "o", "scopes": ("read:a",), "expires_at": None},
        ),
        ({}, {}),
    ],
)
@pytest.mark.parametrize("by", [None, "owner:somebody"])
def test_what_an_edit_changes(
    store: Store, edit: dict[str, Any], becomes: dict[str, Any], by: str | None
) -> None:
    """R3: operator and owner change name, scopes, end and number at once of a key, as they like,
    and nothing else; what has changed is kept with it, as it was and has become.
    """
    key = with_key(store)
    assert store.edit_key(key.id, Edit(NOW + 1, by=by, **edit)) == "done"
    after = replace(key, **becomes)
    found = store.find([key.fingerprint], MONTH)
    assert found is not None
    assert found.key == after == store.key(key.id)
    changed = {name: (_json(getattr(key, name)), _json(becomes[name])) for name in becomes}
    expected = [KeyEvent(NOW + 1, "edited", by, changed)] if changed else []
    assert list(store.key_events(key.id)) == expected


@pytest.mark.parametrize(
    "values",
    [{"revoked_at": NOW}, {"expires_at": NOW + 1}, {"retires_at": NOW + 1}, {"id": "cred_else"}],
)
def test_ended_keys_are_not_edited(store: Store, values: dict[str, Any]) -> None:
    """R5: what is revoked, has expired or retired stays as it was; so does what is not there."""
    key = with_key(store, **values)
    assert store.edit_key("cred_a", Edit(NOW + 1, expires_at=NEVER)) == "gone"
    assert store.key(key.id) == key
    assert not store.key_events(key.id)


@pytest.mark.parametrize(("caller", "outcome"), CALLERS)
def test_caller_that_edits(store: Store, caller: dict[str, Any], outcome: str) -> None:
    """O17: whether the key that asks may edit one is decided as that is changed."""
    store.add_keys([api_key(**{"id": "cred_by", "created_at": NOW - 9, **caller})])
    key = with_key(store)
    assert store.edit_key(key.id, Edit(NOW, name="other", by="cred_by")) == outcome
    after = store.key(key.id)
    assert after is not None
    assert after.name == ("other" if outcome == "done" else key.name)


#: What asks, what is to become of KEY, and whether that may be.
BOUNDS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    # to take away is open to whoever may revoke
    ({"scopes": ("x",)}, {"name": "other"}, "done"),
    ({"scopes": ("x",)}, {"scopes": ("read:a",)}, "done"),
    ({"scopes": ("x",), "expires_at": NOW + 9}, {"expires_at": NOW + 50}, "done"),
    ({"scopes": ("x",)}, {"scopes": ("read:*",)}, "done"),
    # to give needs what is given, and all that the key then may
    ({}, {"scopes": ("*",)}, "done"),
    ({}, {"expires_at": NEVER}, "done"),
    ({"scopes": ("read:*", "write:*")}, {"scopes": ("write:b",)}, "done"),
    ({"scopes": ("read:*", "write:*")}, {"scopes": ("*",)}, "beyond_caller"),
    ({"scopes": ("read:*", "write:*")}, {"scopes": ("write:*", "x")}, "beyond_caller"),
    ({"scopes": ("read:*",)}, {"expires_at": NEVER}, "beyond_caller"),  # write:a would live on
    ({"scopes": ("read:*",)}, {"scopes": ("read:a",), "expires_at": NEVER}, "done"),
    ({"expires_at": NOW + 500}, {"expires_at": NOW + 500}, "done"),
    ({"expires_at": NOW + 500}, {"expires_at": NOW + 501}, "beyond_caller"),
    ({"expires_at": NOW + 500}, {"expires_at": NEVER}, "beyond_caller"),
    ({"limits": ()}, {"expires_at": NEVER}, "beyond_caller"),
    ({"environment": "test"}, {"expires_at": NEVER}, "beyond_caller"),
    ({"environment": "test"}, {"scopes": ("read:a",)}, "done"),
    ({"scopes": ("x",), "max_concurrent": 1}, {"max_concurrent": 4}, "done"),
    ({}, {"max_concurrent": 6}, "done"),
    ({"max_concurrent": 5}, {"max_concurrent": 6}, "beyond_caller"),
    ({"max_concurrent": 9}, {"max_concurrent": 6}, "beyond_caller"),  # it makes none
    ({"max_concurrent": 5}, {"max_concurrent": INHERIT}, "beyond_caller"),
    ({"max_concurrent": 9}, {"expires_at": NEVER}, "beyond_caller"),
    ({"max_concurrent": 1}, {"scopes": ("read:a",)}, "done"),
]


@pytest.mark.parametrize(("caller", "edit", "outcome"), BOUNDS)
def test_bounds_of_a_key_that_edits(
    store: Store, caller: dict[str, Any], edit: dict[str, Any], outcome: str
) -> None:
    """O17: a key gives none what it could not give to one that it makes."""
    store.add_keys([api_key(**{"id": "cred_by", "created_at": NOW - 9, **caller})])
    key = with_key(store)
    assert store.edit_key(key.id, Edit(NOW, by="cred_by", **edit)) == outcome
    assert (store.key(key.id) == key) == (outcome != "done")


def test_a_key_that_edits_itself(store: Store) -> None:
    """O17: a key may take from itself, and never get it back."""
    key = with_key(store)
    assert store.edit_key(key.id, Edit(NOW, scopes=("read:a",), by=key.id)) == "done"
    assert store.edit_key(key.id, Edit(NOW, scopes=("read:*",), by=key.id)) == "beyond_caller"
    assert store.edit_key(key.id, Edit(NOW, expires_at=NEVER, by=key.id)) == "beyond_caller"


@pytest.mark.parametrize(
    ("granted", "edit", "outcome"),
    [
        (("x",), {"scopes": ("read:a",)}, "done"),
        (("x",), {"expires_at": NEVER}, "beyond_caller"),
        (("read:*", "write:*"), {"expires_at": NEVER}, "done"),
        (("read:*", "write:*"), {"scopes": ("*",)}, "beyond_caller"),
        (("*",), {"scopes": ("*",)}, "done"),
    ],
)
def test_bounds_of_a_session_that_edits(
    store: Store, granted: tuple[str, ...], edit: dict[str, Any], outcome: str
) -> None:
    """O9, O17: a session gives a key what its token has, and nothing once it is revoked."""
    assert store.add_link(Link("sub_a", "acct_a", "https://i", "s", NOW)) == "done"
    key = with_key(store)
    asked = Edit(NOW, by="sub_a", issued_at=NOW, granted=granted, **edit)
    assert store.edit_key(key.id, asked) == outcome
    assert store.revoke_sessions("sub_a", NOW + 1)
    assert store.edit_key(key.id, asked) == "caller_ended"


@pytest.mark.parametrize(
    ("caller", "made", "outcome"),
    [
        ({"scopes": ("read:*",)}, {"scopes": ("read:a",)}, "done"),
        ({"scopes": ("read:*",)}, {}, "beyond_caller"),
        ({"scopes": ("read:*",)}, {"scopes": ("read:a", "x")}, "beyond_caller"),
        ({"expires_at": NOW + 9}, {"expires_at": NOW + 9}, "done"),
        ({"expires_at": NOW + 9}, {"expires_at": NOW + 10}, "beyond_caller"),
        ({"expires_at": NOW + 9}, {}, "beyond_caller"),
        ({"max_concurrent": 5}, {"max_concurrent": 5}, "done"),
        ({"max_concurrent": 5}, {"max_concurrent": 6}, "beyond_caller"),
        ({"max_concurrent": 5}, {}, "beyond_caller"),
    ],
)
def test_what_a_key_makes(
    store: Store, caller: dict[str, Any], made: dict[str, Any], outcome: str
) -> None:
    """O17: that a new key may do no more than the one that makes it is decided as it is added, so
    that an edit of that one meanwhile counts; and so it is of a replacement.
    """
    store.add_keys([api_key("cred_by", **caller)])
    store.add_keys([api_key("cred_old", **made)])
    assert store.add_keys([api_key("cred_new", created_by="cred_by", **made)]) == outcome
    successor = api_key("cred_next", lineage="cred_old", **made)
    assert store.replace("cred_old", successor, NOW + 9, None, "cred_by") == outcome


def test_rotated_as_it_was(store: Store) -> None:
    """R17: a key that is edited while its replacement is made is not replaced by what it was."""
    key = with_key(store)
    successor = replace(key, id="cred_b", fingerprint="b" * 64)
    assert store.edit_key(key.id, Edit(NOW, scopes=("read:a",))) == "done"
    assert store.replace(key.id, successor, NOW + 9) == "gone"
    successor = replace(successor, scopes=("read:a",))
    assert store.edit_key(key.id, Edit(NOW, max_concurrent=1)) == "done"
    assert store.replace(key.id, successor, NOW + 9) == "gone"
    successor = replace(successor, max_concurrent=1)
    assert store.set_key_limits(key.id, (Limit(5, 60),))
    assert store.replace(key.id, successor, NOW + 9) == "gone"
    assert store.replace(key.id, replace(successor, limits=(Limit(5, 60),)), NOW + 9) == "done"


def test_what_is_kept_of_a_key(store: Store) -> None:
    """R17: rotations and revocations are kept with whoever asked, of each key what was done to it;
    what changes nothing is not.
    """
    key = with_key(store)
    successor = replace(key, id="cred_b", fingerprint="b" * 64, created_at=NOW + 3)
    assert store.replace(key.id, successor, NOW + 99, None, "owner:me") == "done"
    assert store.edit_key(key.id, Edit(NOW + 4, name=key.name)) == "done"
    bounds: dict[str, Any] = {"expires_at": NOW + 50, "max_concurrent": 5}
    child = api_key("cred_c", created_by="cred_b", scopes=("read:a",), **bounds)
    assert store.add_keys([child]) == "done"
    for _ in range(2):
        assert store.revoke("cred_b", NOW + 5, True, "cred_b").outcome in {"done", "caller_ended"}
    revoked = KeyEvent(NOW + 5, "revoked", "cred_b", {})
    ends: dict[str, tuple[Value, Value]] = {
        "retires_at": (None, NOW + 99),
        "successor": (None, "cred_b"),
    }
    assert list(store.key_events("cred_a")) == [KeyEvent(NOW + 3, "replaced", "owner:me", ends)]
    created = KeyEvent(NOW + 3, "created", "owner:me", {"predecessor": (None, "cred_a")})
    assert list(store.key_events("cred_b")) == [revoked, created]
    assert list(store.key_events("cred_c")) == [revoked]
    assert not store.key_events("cred_x")


def test_events_are_bounded(store: Store) -> None:
    """Of the edits of a key the last hundred are kept, and other keys' are not touched."""
    with_key(store)
    store.add_keys([api_key("cred_b")])
    store.edit_key("cred_b", Edit(NOW, name="b"))
    for number in range(MAX_EVENTS + 3):
        store.edit_key("cred_a", Edit(NOW + number % 50, name=f"{number}"))
    events = store.key_events("cred_a")
    assert [event.changes["name"][1] for event in events] == [
        f"{number}" for number in range(MAX_EVENTS + 2, 2, -1)
    ]
    assert len(store.key_events("cred_b")) == 1


def test_edits_at_once(store: Store) -> None:
    """Each of many edits at once finds the key as the one before has left it: none is lost."""
    with_key(store)
    done = in_threads(lambda n: store.edit_key("cred_a", Edit(NOW, name=f"{n}")), 30, threads=6)
    assert set(done) == {"done"}
    changes = [event.changes["name"] for event in reversed(store.key_events("cred_a"))]
    assert [was for was, _ in changes] == [KEY.name, *(became for _, became in changes[:-1])]
    key = store.key("cred_a")
    assert key is not None
    assert key.name == changes[-1][1]


HOSTILE = ["'); DROP TABLE keyrush_keys; --", '"quoted" \\ name', "مفتاح", "🔑" * 40, "%", "ẞ"]


def test_outlines(store: Store) -> None:
    """O5: an account's keys in outline, whatever they are called, the newest first; nobody else's,
    and no more than asked for.
    """
    keys = [api_key(f"cred_{n}", name=name, created_at=NOW + n) for n, name in enumerate(HOSTILE)]
    store.add_keys(keys)
    store.add_keys([api_key("cred_other", account_id="acct_b")])
    newest = [outline_of(key) for key in reversed(keys)]
    assert list(store.outlines("acct_a", 100)) == newest
    assert list(store.outlines("acct_a", 2)) == newest[:2]
    assert list(store.outlines("acct_a", 9, ["cred_1", "cred_other", "cred_4", "x'"])) == [
        newest[-5],
        newest[-2],
    ]
    assert not [*store.outlines("acct_a", 9, []), *store.outlines("acct_b", 9, ["cred_1"])]
    assert not store.outlines("acct_x", 9)
    assert store.add_account(account("acct_new"))
    assert not store.outlines("acct_new", 9)
    assert all(isinstance(one, Outline) for one in store.outlines("acct_b", 9))
