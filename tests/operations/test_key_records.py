"""Looking for keys, what was done to them, and their days; with a store of one's own, too."""

from __future__ import annotations

from typing import Any

import pytest

from keyrush import ConfigurationError, Gate, InvalidArgument
from keyrush.core.key_search import Search
from keyrush.core.times import NEVER
from keyrush.errors import NotFound
from keyrush.store.memory import MemoryStore
from tests.conftest import Clock, settings, still
from tests.support.activity import activity


class _Small:
    """A store in memory that can't edit keys."""

    is_ephemeral = True

    def __init__(self) -> None:
        self._kept = MemoryStore()

    def __getattr__(self, name: str) -> Any:
        if name in {"edit_key", "key_events", "outlines"}:
            raise AttributeError(name)
        return getattr(self._kept, name)


def opened(clock: Clock, store: Any = None) -> Gate:
    """A gate with an account."""
    gate = still(Gate.open(settings(), store=store, clock=clock))
    gate.accounts.create("acct_a")
    return gate


def test_history(clock: Clock) -> None:
    """R17: what was done to a key is told with who did it, the last first, to its account."""
    gate = opened(clock)
    old = gate.keys.create("acct_a", "n").key
    gate.keys.edit(old.id, name="m", by="owner:host")
    new = gate.keys.rotate(old.id).key
    told = [(one.what, one.by) for one in gate.key_records.history(old.id, "acct_a")]
    assert told == [("replaced", None), ("edited", "owner:host"), ("created", None)]
    (made,) = gate.key_records.history(new.id)
    assert made.changes == {"predecessor": (None, old.id)}
    with pytest.raises(NotFound):
        gate.key_records.history(old.id, "acct_b")
    gate.close()


def test_a_store_that_edits_nothing(clock: Clock) -> None:
    """A store of one's own needs not edit keys: they are found, and say when they were made."""
    gate = opened(clock, _Small())
    keys = [gate.keys.create("acct_a", f"n{number}").key for number in range(3)]
    assert gate.key_records.search("acct_a", Search("n1")).total == 1
    (found,) = gate.key_records.outlines("acct_a", [keys[1].id, "cred_x"])
    assert found.name == "n1"
    assert [one.what for one in gate.key_records.history(keys[0].id)] == ["created"]
    with pytest.raises(ConfigurationError, match="EditStore"):
        gate.keys.edit(keys[0].id, name="m")
    gate.close()


def test_an_edit_is_told(clock: Clock) -> None:
    """R5: what is known of a key is looked up anew once it was edited."""
    gate = opened(clock)
    key = gate.keys.create("acct_a", "n", expires_at=clock.now + 9).key
    changed: list[str] = []
    gate.keys._changed = changed.append  # noqa: SLF001  # what the gate hears
    assert gate.keys.edit(key.id, expires_at=NEVER).expires_at is None
    assert changed == ["acct_a"]
    gate.close()


@pytest.mark.parametrize(
    "by", ["owner:", "owner:a b", "owner:<x>", "nobody", "", "owner", "cred_x"]
)
def test_who_is_nobody(clock: Clock, by: str) -> None:
    """O17: whoever asks is a key, a link, or stands for the owner by a text that can be an id."""
    gate = opened(clock)
    key = gate.keys.create("acct_a", "n").key
    with pytest.raises(Exception, match=r"no such key may ask|revoked or expired"):
        gate.keys.edit(key.id, name="m", by=by)
    assert gate.keys.get(key.id) == key
    gate.close()


def test_days_of_keys(clock: Clock) -> None:
    """O20: the days of keys are of the account alone, and of so many of its keys at most."""
    gate = opened(clock)
    gate.store.add_activity([activity(clock.now, "cred_a"), activity(clock.now, "cred_b")])
    (day,) = gate.activity.days_of_keys("acct_a", ["cred_a", "\0", "x" * 99])
    assert (day.credential_id, day.outcome, day.requests) == ("cred_a", "ok", 1)
    with pytest.raises(InvalidArgument, match="100"):
        gate.activity.days_of_keys("acct_a", ["cred_a"] * 101)
    with pytest.raises(NotFound):
        gate.activity.days_of_keys("acct_x", ["cred_a"])
    gate.close()
