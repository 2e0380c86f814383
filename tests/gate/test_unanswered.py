"""Ids of calls of one session, each of one call until that is answered."""

from __future__ import annotations

import pytest

from keyrush.gate import unanswered
from keyrush.gate.unanswered import LASTS, Unanswered
from tests.conftest import Clock


def test_an_id_is_of_one_call(clock: Clock) -> None:
    """S60: an id is taken until its answer is seen, and for an hour where nobody sees it."""
    ids = Unanswered(clock)
    assert ids.take(["s 1", "s 2"])
    assert not ids.take(["s 3", "s 2"])
    assert ids.take(["s 3"])
    ids.end(["s 1"], are_answered=True)
    ids.end(["s 2"], are_answered=False)
    assert ids.take(["s 1"])
    clock.advance(LASTS - 1)
    assert not ids.take(["s 2"])
    clock.advance(1)
    assert ids.take(["s 2"])
    assert not ids.take(["s 3"])  # for whose answer somebody waits still


def test_what_nobody_waits_for_has_a_bound(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """S60: of ids that are left no more are kept than there is room for."""
    monkeypatch.setattr(unanswered, "_REMEMBERED", 10)
    ids = Unanswered(clock)
    for number in range(20):
        assert ids.take([str(number)])
        ids.end([str(number)], are_answered=False)
    assert [ids.take([str(number)]) for number in (9, 10)] == [True, False]
