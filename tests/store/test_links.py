"""Links: whom issuers know, and for which account each acts; alike in every store."""

from __future__ import annotations

from typing import Any

import pytest

from keyrush.core.identity import FoundLink
from keyrush.core.model import Link
from keyrush.store.opening import open_store
from keyrush.store.protocol import Store
from tests.support.stores import empty, in_threads, store
from tests.support.values import MONTH, NOW, account, api_key

__all__ = ["empty", "store"]  # fixtures

ISSUER = "https://auth.example.com"


def link(id: str = "sub_a", **values: Any) -> Link:
    known: dict[str, Any] = {
        "account_id": "acct_a",
        "issuer": ISSUER,
        "subject": "user-1",
        "created_at": NOW,
    }
    return Link(id=id, **known | values)


def test_found_with_what_it_takes(store: Store) -> None:
    """O8: one look-up brings the link, its account, and what both have been counted this month."""
    assert store.find_link(ISSUER, "user-1", MONTH) is None
    assert store.add_link(link()) == "done"
    assert store.find_link(ISSUER, "user-1", MONTH) == FoundLink(link(), account("acct_a"), 0, 0)
    store.add_usage(MONTH, {"key:sub_a": 3, "account:acct_a": 5})
    found = store.find_link(ISSUER, "user-1", MONTH)
    assert found is not None
    assert (found.key_count, found.account_count) == (3, 5)
    assert store.link("sub_a") == link()
    assert store.link("cred_a") is None


@pytest.mark.parametrize(
    ("issuer", "subject"),
    [
        (ISSUER, "user-2"),
        (ISSUER, "USER-1"),
        (ISSUER, "user-1 "),
        (ISSUER + "/", "user-1"),
        (ISSUER, "user-%"),
        (ISSUER, "' OR 1=1 --"),
        ("", ""),
    ],
)
def test_nobody_else(store: Store, issuer: str, subject: str) -> None:
    """S45: issuer and subject are compared to the byte."""
    assert store.add_link(link()) == "done"
    assert store.find_link(issuer, subject, MONTH) is None


def test_one_link_of_a_subject(store: Store) -> None:
    """O8: a subject acts for one account, however often and for whom it is linked."""
    assert store.add_link(link()) == "done"
    assert store.add_link(link("sub_b", account_id="acct_b")) == "taken"
    assert store.add_link(link("sub_c"), account("acct_c"), 10) == "taken"
    assert store.account("acct_c") is None
    assert store.add_link(link("sub_d", issuer="https://other.example")) == "done"
    assert [it.id for it in store.links("acct_a")] == ["sub_a", "sub_d"]
    assert [it.id for it in store.links(subject="user-1")] == ["sub_a", "sub_d"]
    assert store.links("acct_b") == []


def test_no_account(store: Store) -> None:
    """A link with an account that there is not is none."""
    assert store.add_link(link(account_id="acct_x")) == "gone"
    assert store.link("sub_a") is None


def test_with_a_new_account(store: Store) -> None:
    """O8: account and link are made in one step."""
    made = account("acct_c", plan="pro")
    assert store.add_link(link(account_id="acct_c"), made, 1) == "done"
    assert store.find_link(ISSUER, "user-1", MONTH) == FoundLink(
        link(account_id="acct_c"), made, 0, 0
    )


def test_one_account_under_concurrency(store: Store) -> None:
    """O8: calls at once make one account for a subject."""

    def make(number: int) -> str:
        made = account(f"acct_{number}")
        return store.add_link(link(f"sub_{number}", account_id=made.id), made, 100)

    outcomes = in_threads(make, 32)
    assert sorted(outcomes) == ["done"] + ["taken"] * 31
    assert len(store.accounts(100)) == 3
    assert len(store.links(subject="user-1")) == 1


def test_one_account_of_several_processes(url: str) -> None:
    """O8: and so do calls over connections that know nothing of each other."""
    stores = [open_store(url).store for _ in range(4)]

    def make(number: int) -> str:
        made = account(f"acct_{number}")
        subject = f"user-{number % 2}"
        added = link(f"sub_{number}", account_id=made.id, subject=subject)
        return stores[number % 4].add_link(added, made, 100)

    outcomes = in_threads(make, 16, 8)
    assert sorted(outcomes) == ["done"] * 2 + ["taken"] * 14
    assert len(stores[0].accounts(100)) == 2
    for one in stores:
        one.close()


def test_so_many_a_minute(store: Store) -> None:
    """S19: beyond so many new ones of an issuer in a minute there are none, nor is there an account
    of them; other issuers, and what the operator links, are not bounded.
    """

    def make(number: int, at: int = NOW, **values: Any) -> str:
        made = account(f"acct_{number}")
        added = link(
            f"sub_{number}", account_id=made.id, subject=f"u{number}", created_at=at, **values
        )
        return store.add_link(added, made, 3)

    assert [make(number) for number in range(5)] == ["done"] * 3 + ["too_many"] * 2
    assert store.account("acct_4") is None
    assert make(5, issuer="https://other.example") == "done"
    assert store.add_link(link("sub_x", subject="x")) == "done"
    assert make(6, NOW + 59_999) == "too_many"
    assert make(7, NOW + 60_000) == "done"


def test_bounded_under_concurrency(store: Store) -> None:
    """S19: calls at once are exact in this."""

    def make(number: int) -> str:
        made = account(f"acct_{number}")
        return store.add_link(
            link(f"sub_{number}", account_id=made.id, subject=f"u{number}"), made, 5
        )

    assert sorted(in_threads(make, 24)) == ["done"] * 5 + ["too_many"] * 19
    assert len(store.accounts(100)) == 7


def test_ended(store: Store) -> None:
    """A link that has ended is found no more; its subject gets no new account, but may be linked
    again.
    """
    assert store.add_link(link()) == "done"
    assert store.end_link("sub_a", NOW + 1)
    assert not store.end_link("sub_a", NOW + 2)
    assert not store.end_link("sub_x", NOW)
    assert store.find_link(ISSUER, "user-1", MONTH) is None
    assert store.links("acct_a") == []
    assert store.link("sub_a") == link(ended_at=NOW + 1)
    assert store.add_link(link("sub_b", account_id="acct_c"), account("acct_c"), 9) == "ended"
    assert store.account("acct_c") is None
    assert store.add_link(link("sub_c", account_id="acct_b")) == "done"
    found = store.find_link(ISSUER, "user-1", MONTH)
    assert found is not None
    assert found.link.id == "sub_c"


def test_revoked_sessions(store: Store) -> None:
    """O17: the latest instant stands before which nothing that was issued is good."""
    assert store.add_link(link()) == "done"
    assert store.revoke_sessions("sub_a", NOW + 5)
    assert store.revoke_sessions("sub_a", NOW + 1)
    found = store.find_link(ISSUER, "user-1", MONTH)
    assert found is not None
    assert found.link == link(revoked_before=NOW + 5)
    assert [found.link.admits(at) for at in (NOW + 4, NOW + 5, None)] == [False, True, False]
    assert not store.revoke_sessions("sub_x", NOW)
    assert store.end_link("sub_a", NOW)
    assert not store.revoke_sessions("sub_a", NOW)


def test_revoked_and_linked_again(store: Store) -> None:
    """O17: what was revoked of a subject stays so when it is linked again, with whomever."""
    assert store.add_link(link()) == "done"
    assert store.revoke_sessions("sub_a", NOW + 5)
    assert store.end_link("sub_a", NOW + 6)
    for name in ("sub_b", "sub_c"):
        assert store.add_link(link(name, account_id="acct_b")) == "done"
        assert store.link(name) == link(name, account_id="acct_b", revoked_before=NOW + 5)
        assert store.end_link(name, NOW + 7)
    assert store.add_link(link("sub_d", subject="user-2")) == "done"
    assert store.link("sub_d") == link("sub_d", subject="user-2")


def test_caller(store: Store) -> None:
    """O17: whether a session may change keys is decided with the change: not once it is revoked or
    its link has ended, nor in another account.
    """
    assert store.add_link(link()) == "done"
    made = api_key("cred_a", created_by="sub_a")
    assert store.add_keys([made], 9, NOW) == "done"
    assert store.revoke("cred_a", NOW, False, "sub_a", NOW) == ("done", ["cred_a"])
    successor = api_key("cred_b", account_id="acct_b", created_by="sub_a")
    assert store.add_keys([successor], 9, NOW) == "caller_ended"
    assert store.revoke_sessions("sub_a", NOW + 1)
    for issued_at in (NOW, None):
        assert store.add_keys([api_key("cred_c", created_by="sub_a")], 9, issued_at) == (
            "caller_ended"
        )
        assert store.revoke("cred_a", NOW, False, "sub_a", issued_at).outcome == "caller_ended"
        replaced = store.replace("cred_a", api_key("cred_d"), NOW, 9, "sub_a", issued_at)
        assert replaced == "caller_ended"
    assert store.add_keys([api_key("cred_e", created_by="sub_a")], 9, NOW + 1) == "done"
    assert store.replace("cred_e", api_key("cred_f"), NOW, 9, "sub_a", NOW + 1) == "done"
    assert store.end_link("sub_a", NOW + 2)
    assert store.add_keys([api_key("cred_g", created_by="sub_a")], 9, NOW + 9) == "caller_ended"
    assert store.add_keys([api_key("cred_h", created_by="sub_x")], 9, NOW + 9) == "caller_ended"


def test_descendants(store: Store) -> None:
    """O17: what a session has made is known to be made by it."""
    assert store.add_link(link()) == "done"
    assert store.add_keys([api_key("cred_a", created_by="sub_a")], 9, NOW) == "done"
    found = store.key("cred_a")
    assert found is not None
    assert found.created_by == "sub_a"


def test_overage(store: Store) -> None:
    """R13: what is above the quota of each link is counted, of those that have ended, too."""
    assert store.add_link(link()) == "done"
    assert store.add_keys([api_key("cred_a")]) == "done"
    store.add_usage(MONTH, {"key:sub_a": 7, "key:cred_a": 6})
    assert store.overage("acct_a", MONTH, 5) == 3
    assert store.end_link("sub_a", NOW)
    assert store.overage("acct_a", MONTH, 5) == 3
    assert store.overage("acct_b", MONTH, 5) == 0


def test_told(url: str) -> None:
    """O17: whoever follows the database hears of it at once, whichever way a session ends."""
    opened = open_store(url)
    store, changes = opened.store, opened.changes
    assert changes is not None
    store.add_account(account("acct_a"))
    assert store.add_link(link()) == "done"
    other = open_store(url).store
    assert changes.poll() is None
    for change in (other.revoke_sessions, other.end_link):
        assert change("sub_a", NOW)
        found: Any = ()
        for _ in range(1000):  # until the notification has come
            found = found or changes.poll()
        assert set(found) == {"acct_a"}
    changes.close()
    for one in (store, other):
        one.close()
