"""The dashboard beside a WSGI app, which has signed people in by a session of its own."""

from __future__ import annotations

from typing import Any

from flask import Flask
from flask.sessions import SecureCookieSessionInterface

from keyrush import Gate
from keyrush.apps import Dashboard
from tests.apps.dashboard.conftest import app_of
from tests.support.dashboard import Browser
from tests.support.pages import PAGES


def signed_in(browser: Browser, signed_by: Flask) -> bool:
    """Whether the session of `acct_a` opens the dashboard, as this app has signed it."""
    sessions = SecureCookieSessionInterface().get_signing_serializer(signed_by)
    assert sessions is not None
    browser.cookies["session"] = str(sessions.dumps({"account": "acct_a"}))
    return browser.get("/dashboard/keys").status == 200


def test_beside_flask(gate: Gate) -> None:
    """O10: as the document has it, whom Flask's session names is signed in, and nobody else: not
    by a session that another has signed, or by one that is too old.
    """
    code = next(one for one in PAGES["docs/dashboard.md"].code("python") if "flask" in one)
    named: dict[str, Any] = {"__name__": "app"}
    exec(code, named)  # noqa: S102  # of a page of ours
    site = named["site"]
    browser = Browser(app_of(Dashboard(gate, account_of=named["account_of"])))
    assert browser.get("/dashboard/keys").status == 401
    assert signed_in(browser, site)
    other = Flask("other")
    other.secret_key = "of somebody else"
    assert not signed_in(browser, other)
    site.permanent_session_lifetime = -1
    assert not signed_in(browser, site)
