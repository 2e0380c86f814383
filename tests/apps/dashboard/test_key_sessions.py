"""What somebody does to keys who is signed in by an issuer's session, with less than all scopes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from keyrush import Gate
from keyrush.apps import Dashboard
from keyrush.operations.keys import NewKey
from tests.apps.dashboard.conftest import app_of
from tests.apps.dashboard.test_key_pages import at, fill
from tests.apps.dashboard.test_keys import NEW, RULES
from tests.apps.dashboard.test_keys import fill as create
from tests.apps.dashboard.test_signing_in import ISSUER, SECRET, token
from tests.conftest import Clock, settings, still
from tests.support.dashboard import Browser


@pytest.fixture
def gate(clock: Clock) -> Iterator[Gate]:
    """A gate that knows sessions of an issuer, which may read."""
    known = {"issuer": ISSUER, "algorithms": ("HS256",), "secret": SECRET, "audience": "api"}
    issuers = ({**known, "kind": "session", "scopes": ("read:*",)},)
    given = settings(rules=RULES, issuers=issuers, dashboard_cookie="sb-token")
    opened = still(Gate.open(given, clock=clock))
    opened.accounts.create("acct_a")
    opened.accounts.link("acct_a", issuer=ISSUER, subject="user-1")
    yield opened
    opened.close()


@pytest.fixture
def browser(gate: Gate, clock: Clock) -> Browser:
    """The browser of who has that session."""
    made = Browser(app_of(Dashboard(gate)))
    made.cookies = {"sb-token": token(clock)}
    return made


def test_what_they_make(gate: Gate, browser: Browser) -> None:
    """O9, O17: a session makes keys with the scopes that it has, no others; the form says so."""
    page = browser.get(NEW)
    assert "You have signed in with less than full access" in page.said
    assert 'value="full" disabled' in page.text
    assert create(browser, access="full").status == 422
    assert create(browser, scope="run:tools").status == 422
    assert create(browser, scope="read:*").status == 201
    (key,) = gate.keys.list("acct_a")
    (link,) = gate.accounts.links("acct_a")
    assert (key.scopes, key.created_by) == (("read:*",), link.id)
    assert "by user-1 , signed in" in browser.get(at(key)).said


def test_what_they_change(gate: Gate, browser: Browser) -> None:
    """O9, O17: a session takes from any key, and gives no more than it has; nor does it have one
    replaced that may do more.
    """
    key = gate.keys.create("acct_a", "n", scopes=["read:articles", "run:tools"]).key
    page = browser.get(at(key, "rotate"))
    assert page.status == 409
    assert "all that it may do: run:tools." in page.said
    assert fill(browser, key, "edit", expires="30d").status == 303
    assert fill(browser, key, "edit", expires="never").status == 422
    assert fill(browser, key, "edit", access="some", scope="write:alerts").status == 422
    assert fill(browser, key, "edit", name="m", access="some", scope="read:articles").status == 303
    assert fill(browser, key, "edit", expires="never").status == 303
    assert gate.keys.get(key.id).expires_at is None
    assert fill(browser, key, "rotate", grace="0").status == 201
    assert fill(browser, key, "revoke", typed="m").status == 303


def test_a_key_that_is_given_more_meanwhile(gate: Gate, browser: Browser) -> None:
    """O9: a session gets no key that may do more than it, though the owner has given the old one
    more while the form was under way.
    """
    key = gate.keys.create("acct_a", "n", scopes=["read:articles"]).key
    rotate = gate.keys.rotate

    def late(*args: Any, **values: Any) -> NewKey:
        gate.keys.edit(key.id, scopes=["read:articles", "run:tools"])
        return rotate(*args, **values)

    gate.keys.rotate = late  # type: ignore[method-assign]  # the owner is faster
    page = fill(browser, key, "rotate", grace="0")
    assert page.status == 409
    assert "edited" in page.said
    assert [one.id for one in gate.keys.list("acct_a")] == [key.id]


def test_a_session_that_ends_meanwhile(gate: Gate, browser: Browser) -> None:
    """O8: a form that was open when the session was revoked changes nothing."""
    key = gate.keys.create("acct_a", "n", scopes=["read:articles"]).key
    forms = {what: browser.get(at(key, what)) for what in ("edit", "rotate", "revoke")}
    gate.sessions.revoke("user-1")
    given = {"name": "m", "grace": "0", "typed": "n"}
    for what, form in forms.items():
        assert browser.submit(form, at(key, what), given).status == 401
    assert gate.keys.get(key.id) == key
