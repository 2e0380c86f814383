"""Who sends unknown keys, and how many of one address are looked up at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyrush.gate.strangers import AT_ONCE, PERIOD, REMEMBERED, TOLERATED, Strangers


class Seconds:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


@pytest.fixture
def strangers(seconds: Seconds) -> Strangers:
    return Strangers(seconds)


def send_unknown(strangers: Strangers, address: str, number: int = TOLERATED + 1) -> None:
    """As many unknown keys, one after the other."""
    for _ in range(number):
        assert strangers.enter(address)
        strangers.leave(address, is_unknown=True)


def at_once(strangers: Strangers, address: str | None, number: int = 100) -> int:
    """How many of so many look-ups may be under way at once; all of them end."""
    entered = sum(strangers.enter(address) for _ in range(number))
    for _ in range(entered):
        strangers.leave(address, is_unknown=False)
    return entered


def test_good_keys_are_not_limited(strangers: Strangers) -> None:
    """A fleet that starts anew behind one address is never in its own way."""
    assert at_once(strangers, "10.0.0.1", 5000) == 5000
    assert at_once(strangers, None, 5000) == 5000


def test_unknown_keys_are_limited(strangers: Strangers) -> None:
    """S80: an address that has sent some unknown keys has so many looked up at once, no more."""
    send_unknown(strangers, "10.0.0.1", TOLERATED)
    assert at_once(strangers, "10.0.0.1") == 100
    send_unknown(strangers, "10.0.0.1", 1)
    assert at_once(strangers, "10.0.0.1") == AT_ONCE
    assert at_once(strangers, "10.0.0.2") == 100


def test_it_is_forgiven(strangers: Strangers, seconds: Seconds) -> None:
    """What an address has sent counts for one to two periods."""
    send_unknown(strangers, "10.0.0.1")
    seconds.now += PERIOD
    assert at_once(strangers, "10.0.0.1") == AT_ONCE
    seconds.now += PERIOD
    assert at_once(strangers, "10.0.0.1") == 100


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("10.0.0.1", "::ffff:10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("rubbish:", "rubbish:x", False),
    ],
)
def test_what_one_client_is(strangers: Strangers, one: str, other: str, is_same: bool) -> None:
    """One client is one IPv4 address, or one IPv6 network of 64 bits, however it is written."""
    send_unknown(strangers, one)
    assert (at_once(strangers, other) == AT_ONCE) is is_same


def test_memory_is_bounded(strangers: Strangers) -> None:
    """A flood from ever new addresses takes no more memory, and those at work are not forgotten."""
    assert strangers.enter("busy")
    for number in range(REMEMBERED + 1000):
        strangers.enter(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
        strangers.leave(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", is_unknown=True)
    assert len(strangers) <= REMEMBERED + 1
    strangers.leave("busy", is_unknown=False)
    assert at_once(strangers, "busy") == 100


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans(), st.booleans()), max_size=300))
def test_never_more_than_at_once(steps: list[tuple[str, bool, bool]]) -> None:
    """Whatever comes in whatever order: who has sent too many never has more under way than may be
    entered, and nobody is refused who has not.
    """
    strangers = Strangers(lambda: 0.0)
    under_way, unknown = {"a": 0, "b": 0}, {"a": 0, "b": 0}
    for address, enters, is_unknown in steps:
        if enters:
            entered = strangers.enter(address)
            limited = unknown[address] > TOLERATED and under_way[address] >= AT_ONCE
            assert entered is not limited
            under_way[address] += entered
        elif under_way[address]:
            strangers.leave(address, is_unknown=is_unknown)
            under_way[address] -= 1
            unknown[address] += is_unknown
