"""Links to the dashboard, their sessions, and forms that are sent once; alike in every store."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from keyrush.core.portal import PortalLink, PortalSession
from keyrush.store.opening import open_store, portal_of
from keyrush.store.protocol import MAX_SESSIONS, PortalStore, Store
from tests.support.stores import empty, in_threads, store
from tests.support.values import NOW

__all__ = ["empty", "store"]  # fixtures

LATER = NOW + 1000


def link(hash: str = "link-a", **values: Any) -> PortalLink:
    known: dict[str, Any] = {"account_id": "acct_a", "created_at": NOW, "ends_at": LATER}
    return PortalLink(hash, **known | values)


def session(id: str = "sess_a", **values: Any) -> PortalSession:
    known: dict[str, Any] = {"account_id": "acct_a", "created_at": NOW, "ends_at": LATER}
    return PortalSession(id, f"hash of {id}", **known | values)


@pytest.fixture
def portal(store: Store) -> PortalStore:
    """The part of each store that keeps them."""
    found = portal_of(store)
    assert found is not None
    return found


def test_a_link_becomes_one_session(portal: PortalStore) -> None:
    """O10: a link is there until it is used, and then its session is."""
    portal.add_portal_link(link(write=False))
    assert portal.portal_link("link-a", NOW) == link(write=False)
    assert portal.open_portal_session("link-a", session(write=False))
    assert portal.portal_link("link-a", NOW) is None
    assert not portal.open_portal_session("link-a", session("sess_b"))
    assert portal.portal_session("hash of sess_a", NOW) == session(write=False)
    assert portal.portal_session("hash of sess_b", NOW) is None
    assert portal.portal_session("sess_a", NOW) is None


def test_what_has_ended(portal: PortalStore) -> None:
    """O10: a link opens nothing, and a session shows nothing, from its end on."""
    portal.add_portal_link(link())
    assert portal.portal_link("link-a", LATER - 1) is not None
    assert portal.portal_link("link-a", LATER) is None
    late = session(created_at=LATER, ends_at=LATER + 9)
    assert not portal.open_portal_session("link-a", late)
    portal.add_portal_link(link("link-b"))
    assert portal.open_portal_session("link-b", session())
    assert portal.portal_session("hash of sess_a", LATER - 1) is not None
    assert portal.portal_session("hash of sess_a", LATER) is None
    assert portal.portal_sessions(LATER) == []
    assert not portal.end_portal_session("sess_a", LATER)


def test_of_another_account(portal: PortalStore) -> None:
    """O10: a link is of its account alone, whatever is asked for by it."""
    portal.add_portal_link(link())
    assert not portal.open_portal_session("link-a", session(account_id="acct_b"))
    assert portal.portal_sessions(NOW) == []


def test_listed_and_ended(portal: PortalStore) -> None:
    """O10: sessions are listed oldest first, of one account or all, and end one by one."""
    for number in range(3):
        made = session(
            f"sess_{number}",
            account_id="acct_b" if number == 1 else "acct_a",
            created_at=NOW - number,
        )
        portal.add_portal_link(link(f"link-{number}", account_id=made.account_id))
        assert portal.open_portal_session(f"link-{number}", made)
    assert [one.id for one in portal.portal_sessions(NOW)] == ["sess_2", "sess_1", "sess_0"]
    assert [one.id for one in portal.portal_sessions(NOW, "acct_a")] == ["sess_2", "sess_0"]
    assert portal.portal_sessions(NOW, "acct_x") == []
    assert portal.end_portal_session("sess_2", NOW)
    assert not portal.end_portal_session("sess_2", NOW)
    assert not portal.end_portal_session("sess_x", NOW)
    assert portal.portal_session("hash of sess_2", NOW) is None
    assert [one.id for one in portal.portal_sessions(NOW, "acct_a")] == ["sess_0"]
    assert MAX_SESSIONS == 1000


def test_one_of_many_uses_a_link(portal: PortalStore) -> None:
    """O10: of posts at once one uses the link."""
    portal.add_portal_link(link())
    tried = in_threads(lambda n: portal.open_portal_session("link-a", session(f"sess_{n}")), 32)
    assert sorted(tried) == [False] * 31 + [True]
    assert len(portal.portal_sessions(NOW)) == 1


def test_one_of_many_processes_uses_a_link(url: str) -> None:
    """O10: and over connections that know nothing of each other."""
    stores = [open_store(url).store for _ in range(4)]
    portals = [found for one in stores if (found := portal_of(one)) is not None]
    portals[0].add_portal_link(link())

    def use(number: int) -> bool:
        return portals[number % 4].open_portal_session("link-a", session(f"sess_{number}"))

    assert sorted(in_threads(use, 16, 8)) == [False] * 15 + [True]
    assert sorted(in_threads(lambda n: portals[n % 4].spend_form("form", NOW, LATER), 16, 8)) == [
        *[False] * 15,
        True,
    ]
    for one in stores:
        one.close()


def test_a_form_is_sent_once(portal: PortalStore) -> None:
    """Of calls with one name, one is the first; another name is another form."""
    tried = in_threads(lambda _: portal.spend_form("form-a", NOW, LATER), 32)
    assert sorted(tried) == [False] * 31 + [True]
    assert not portal.spend_form("form-a", LATER - 1, LATER)
    assert portal.spend_form("form-b", NOW, LATER)


def test_what_has_ended_goes(portal: PortalStore) -> None:
    """What has ended is deleted with what comes after: it never piles up."""
    for number in range(30):
        at = NOW + number * 1000
        portal.add_portal_link(link(f"old-{number}", created_at=at, ends_at=at + 1000))
        portal.add_portal_link(link(f"new-{number}", created_at=at, ends_at=at + 1000))
        made = replace(session(f"sess_{number}"), created_at=at, ends_at=at + 1000)
        assert portal.open_portal_session(f"new-{number}", made)
        assert portal.spend_form(f"form-{number}", at, at + 1000)
    # Asked as of the beginning, when none of them would have ended.
    assert len(portal.portal_sessions(0)) == 1
    assert [n for n in range(30) if portal.portal_link(f"old-{n}", 0)] == [29]


def test_no_secret_is_shown() -> None:
    """S82: neither value says in its repr what stands for it."""
    assert "link-a" not in repr(link())
    assert "hash of" not in repr(session())
