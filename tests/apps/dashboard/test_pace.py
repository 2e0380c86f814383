"""How often pages may be asked for: by a session, on an account, and links by an address."""

from __future__ import annotations

from pathlib import Path

import pytest

from keyrush import Gate
from keyrush.apps import Dashboard
from keyrush.apps.dashboard import pace
from keyrush.apps.dashboard.addresses import LINKS, REMEMBERED, Addresses
from tests.apps.dashboard.conftest import app_of
from tests.apps.dashboard.test_signing_in import link, use
from tests.conftest import Clock, settings, still
from tests.support.dashboard import Browser

FILE = "/dashboard/activity.csv"


def entered(gate: Gate, account_id: str = "acct_a") -> Browser:
    """Somebody who has used a link."""
    browser = Browser(app_of(Dashboard(gate)))
    use(browser, link(gate, account_id))
    return browser


def test_a_session_has_so_much_a_minute(gate: Gate, clock: Clock) -> None:
    """Above it every page is 429 and says when to come again; then it is as before, and other
    sessions never notice.
    """
    one, other = entered(gate), entered(gate)
    for _ in range(pace.SESSION // pace.FILE):
        assert one.get(FILE).status == 200
    for path in (FILE, "/dashboard/", "/dashboard/billing", "/dashboard/activity/rows"):
        refused = one.get(path)
        assert refused.status == 429
        assert "more than a minute has" in refused.said
    assert other.get(FILE).status == 200
    wait = int(refused["retry-after"])
    clock.advance(wait * 1000 - 1000)
    assert one.get("/dashboard/").status == 429
    clock.advance(1000)
    assert one.get("/dashboard/").status == 200
    clock.advance(120_000)
    assert one.get(FILE).status == 200


def test_an_account_has_so_much_a_minute(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many sessions there are on it; what was refused took nothing from the session, and
    other accounts never notice.
    """
    monkeypatch.setattr(pace, "ACCOUNT", 4 * pace.FILE)
    sessions = [entered(gate) for _ in range(3)]
    statuses = [one.get(FILE).status for one in sessions * 2]
    assert statuses == [200] * 4 + [429] * 2
    assert entered(gate, "acct_b").get(FILE).status == 200
    monkeypatch.setattr(pace, "ACCOUNT", 10_000)
    monkeypatch.setattr(pace, "SESSION", 2 * pace.FILE)
    assert [sessions[2].get(FILE).status for _ in range(2)] == [200, 429]


def test_what_was_typed_is_kept(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A form that came too often changes nothing, and can be sent again."""
    browser = entered(gate)
    page = browser.get("/dashboard/keys/new")
    monkeypatch.setattr(pace, "SESSION", 0)
    given = {"name": "nightly", "expires": "never", "access": "full"}
    refused = browser.submit(page, "/dashboard/keys/new", given)
    assert refused.status == 429
    assert len(gate.keys.list("acct_a")) == 0
    monkeypatch.undo()
    made = browser.submit(refused, "/dashboard/keys/new")
    assert made.status == 201
    assert [key.name for key in gate.keys.list("acct_a")] == ["nightly"]


def test_processes_count_together(tmp_path: Path, clock: Clock) -> None:
    """Where windows are shared, a session has the same minute in every process."""
    url = f"sqlite:///{tmp_path}/keyrush.db"
    given = settings(store_url=url, limiter_url="store", public_url="https://api.example.com")
    one, other = (still(Gate.open(given, clock=clock)) for _ in range(2))
    one.accounts.create("acct_a")
    first = entered(one)
    second = Browser(app_of(Dashboard(other)))
    second.cookies = first.cookies
    half = pace.SESSION // pace.FILE // 2
    assert {browser.get(FILE).status for browser in (first, second) for _ in range(half)} == {200}
    assert {first.get(FILE).status, second.get(FILE).status} == {429}
    one.close()
    other.close()


def test_links_by_address(gate: Gate, clock: Clock) -> None:
    """Of one address so many links are looked at in a minute, good or not; others never notice."""
    app = app_of(Dashboard(gate))
    guesser, other = (Browser(app, client=(host, 1)) for host in ("203.0.113.7", "203.0.113.8"))
    tried = [guesser.get(f"/dashboard/link/{'x' * 43}").status for _ in range(LINKS)]
    assert tried == [404] * LINKS
    path = link(gate)
    refused = guesser.get(path)
    assert refused.status == 429
    assert 1 <= int(refused["retry-after"]) <= 120
    assert use(other, path).status == 303
    clock.advance(120_000)
    assert guesser.get(path).status == 404


def test_very_many_addresses() -> None:
    """They take no more memory than so many; one IPv6 network is one address."""
    addresses = Addresses()
    for number in range(REMEMBERED + 50):
        assert addresses.take(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0).admitted
    assert len(addresses) == REMEMBERED
    taken = [addresses.take(f"2001:db8::{number:x}", 0).admitted for number in range(LINKS + 1)]
    assert taken == [True] * LINKS + [False]
