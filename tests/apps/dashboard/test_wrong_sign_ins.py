"""Every route of the dashboard, asked by everyone who must not get there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from starlette.routing import Route

from keyrush import Gate
from keyrush.apps import Dashboard
from keyrush.apps.dashboard.app import ROUTES
from keyrush.core.model import ApiKey
from keyrush.core.portal import SESSION_AGE
from tests.apps.dashboard.conftest import app_of
from tests.apps.dashboard.test_signing_in import ISSUER, SECRET, link, token, use
from tests.conftest import Clock, settings, still
from tests.support.dashboard import HTTPS, Browser

SESSION = "__Host-keyrush-session"

#: What is for everybody.
OPEN = {"/link/{code}", "/theme", "/static/{name}"}

#: Enough for every form, were its token good.
FILLED = {
    "name": "taken over",
    "env": "live",
    "expires": "never",
    "access": "full",
    "grace": "0",
    "typed": "production",
    "sure": "yes",
}


class Place(NamedTuple):
    """A dashboard with every way to sign in but that of an app around, and a key of `acct_a`."""

    gate: Gate
    clock: Clock
    key: ApiKey
    text: str

    def browser(self) -> Browser:
        """Somebody's."""
        return Browser(app_of(Dashboard(self.gate)))

    def entered(self, account_id: str = "acct_a", *, write: bool = True) -> Browser:
        """Somebody who has used a link."""
        browser = self.browser()
        use(browser, link(self.gate, account_id, write=write))
        return browser


@pytest.fixture
def place(clock: Clock) -> Iterator[Place]:
    """The place."""
    known = {"issuer": ISSUER, "algorithms": ("HS256",), "secret": SECRET, "audience": "api"}
    given = settings(
        public_url="https://api.example.com",
        dashboard_cookie="sb-token",
        issuers=(
            {**known, "kind": "session", "scopes": ("*",)},
            {**known, "kind": "oauth", "scopes": ("*",), "typ": "at+jwt"},
        ),
    )
    gate = still(Gate.open(given, clock=clock))
    for account_id in ("acct_a", "acct_b"):
        gate.accounts.create(account_id)
    gate.accounts.link("acct_a", issuer=ISSUER, subject="user-1")
    made = gate.keys.create("acct_a", "production")
    yield Place(gate, clock, made.key, made.text)
    gate.close()


def with_cookie(place: Place, name: str, value: str) -> Browser:
    """Somebody with a cookie that no page of ours has given them."""
    browser = place.browser()
    browser.cookies = {name: value}
    return browser


def with_header(place: Place, name: str, value: str) -> Browser:
    """Somebody who sends a header with everything."""
    browser = place.browser()
    browser.headers = [(name, value)]
    return browser


def revoked(place: Place) -> Browser:
    """Somebody whom the operator has signed out."""
    browser = place.entered()
    (session,) = place.gate.portal.sessions()
    place.gate.portal.end(session.id)
    return browser


def late(place: Place) -> Browser:
    """Somebody whose day is over."""
    browser = place.entered()
    place.clock.advance(SESSION_AGE)
    return browser


def session(place: Place) -> str:
    """What a browser has of a session that is good."""
    return place.entered().cookies[SESSION]


WRONG: dict[str, Callable[[Place], Browser]] = {
    "nobody": Place.browser,
    "a session that never was": lambda place: with_cookie(place, SESSION, "A" * 43),
    "a session that was revoked": revoked,
    "a session that is too old": late,
    "a session by its id": lambda place: with_cookie(
        place, SESSION, (place.entered(), place.gate.portal.sessions()[0].id)[1]
    ),
    "a session by what is kept of it": lambda place: with_cookie(
        place, SESSION, (place.entered(), place.gate.portal.sessions()[0].hash)[1]
    ),
    "a session without the prefix": lambda place: with_cookie(
        place, "keyrush-session", session(place)
    ),
    "a session that another host has planted": lambda place: with_cookie(
        place, f"\xa0{SESSION}", session(place)
    ),
    "a session in a header": lambda place: with_header(
        place, "authorization", f"Bearer {session(place)}"
    ),
    "a link's code as a session": lambda place: with_cookie(
        place, SESSION, place.gate.portal.link("acct_a")
    ),
    "a key as a session": lambda place: with_cookie(place, SESSION, place.text),
    "a key as a token": lambda place: with_cookie(place, "sb-token", place.text),
    "a key": lambda place: with_header(place, "authorization", f"Bearer {place.text}"),
    "a key in its header": lambda place: with_header(place, "x-api-key", place.text),
    "a token of nobody": lambda place: with_cookie(
        place, "sb-token", token(place.clock, sub="user-2")
    ),
    "a token that is too old": lambda place: with_cookie(
        place, "sb-token", token(place.clock, exp=place.clock() // 1000 - 1)
    ),
    "a token of an OAuth client": lambda place: with_header(
        place, "authorization", f"Bearer {token(place.clock, typ='at+jwt')}"
    ),
    "a token in another cookie": lambda place: with_cookie(place, "sb-token-1", token(place.clock)),
}


def path_of(route: Route, key_id: str) -> str:
    """A path of the route, with a key that there is."""
    return "/dashboard" + re.sub(r"\{[a-z_]+\}", key_id, route.path)


@pytest.mark.parametrize("wrong", WRONG)
def test_nobody_gets_anywhere(place: Place, wrong: str) -> None:
    """O10: by whatever is no sign-in no route shows anything of the account, nor changes it."""
    browser = WRONG[wrong](place)
    sessions = place.gate.portal.sessions()
    of_form = dict(browser.get("/dashboard/").form("/dashboard/theme").fields)["_token"]
    for route in ROUTES:
        path = path_of(route, place.key.id)
        page = browser.get(path)
        assert page.status in ({404, 405} if route.path in OPEN else {401}), route.path
        sent = browser.post(path, FILLED | {"_token": of_form})
        assert sent.status in ({303, 403, 404, 405} if route.path in OPEN else {401, 405})
        for shown in (page.text, sent.text):
            assert "production" not in shown.replace('value="production"', "")  # what was sent
            assert "acct_" not in shown
    assert place.gate.keys.list("acct_a").items == (place.key,)
    assert place.gate.portal.sessions() == sessions


@pytest.mark.parametrize("account_id", ["acct_b", "acct_a"])
def test_who_may_not(place: Place, account_id: str) -> None:
    """O6, O10: whoever has another account, or a link that only shows, changes nothing by any
    route: neither by their own forms' tokens, nor by those of who may.
    """
    browser = place.entered(account_id, write=account_id == "acct_b")
    owner = place.entered()
    for route in ROUTES:
        path = path_of(route, place.key.id)
        if "POST" not in (route.methods or ()) or route.path in {"/theme", "/sign-out"}:
            continue
        is_own = account_id == "acct_b" and route.path == "/keys/new"
        for someone in (owner,) if is_own else (owner, browser):
            page = someone.get(path)
            tokens = re.findall(r'name="_token" value="([^"]+)"', page.text)
            assert tokens
            for one in tokens:
                answer = browser.post(path, FILLED | {"_token": one})
                assert answer.status in {403, 404}, route.path
    assert place.gate.keys.list("acct_a").items == (place.key,)
    assert not place.gate.keys.list("acct_b").items


@pytest.mark.parametrize("name", [f"\xa0{SESSION}", f"\x85{SESSION}", f"\x1f{SESSION}", "x"])
def test_what_another_host_has_planted(place: Place, name: str) -> None:
    """S82: a cookie counts under its very name alone, which no host beside this one can give."""
    browser = place.entered()
    mine = browser.cookies[SESSION]
    planted = f"{name}={'A' * 43}"
    for cookies in (f"{planted}; {SESSION}={mine}", f"{SESSION}={mine};{planted} ; a"):
        page = Browser(browser.app).get("/dashboard/", ("cookie", cookies))
        assert page.status == 200


@pytest.mark.parametrize(
    "proxied",
    [
        [("x-forwarded-for", "198.51.100.7")],
        [("forwarded", "for=198.51.100.7")],
        [("via", "1.1 proxy")],
        [("x-real-ip", "198.51.100.7")],
        [("x-forwarded-host", "app.example")],
        [("x-forwarded-proto", "https, http")],
        None,  # HTTP/1.0, as nginx has it that is told nothing
    ],
    ids=str,
)
def test_a_proxy_on_this_machine(place: Place, proxied: list[tuple[str, str]] | None) -> None:
    """S82: a proxy that hides what it was asked for is no reason to do without the prefix, which
    keeps other hosts from planting sessions; one that says http is.
    """
    version = {"http_version": "1.0"} if proxied is None else {}
    browser = Browser(app_of(Dashboard(place.gate)), "http://127.0.0.1:8000", **version)
    browser.headers = proxied or []
    assert use(browser, link(place.gate))["set-cookie"].startswith(SESSION)
    plain = Browser(app_of(Dashboard(place.gate)), "http://127.0.0.1:8000", **version)
    plain.headers = [*(proxied or []), ("x-forwarded-proto", "http")][-2:]
    if proxied is None or proxied[0][0] != "x-forwarded-proto":
        assert use(plain, link(place.gate))["set-cookie"].startswith("keyrush-session")


def test_a_key_in_a_path(place: Place) -> None:
    """O22: a key that was put into an address goes no further: not to where people sign in, nor
    into a form.
    """
    app = app_of(Dashboard(place.gate, account_of=lambda _: None, sign_in_url="/login?{next}"))
    for path in (f"/keys/{place.text}", f"/keys/{place.text}/edit", f"/keys?q={place.text}", "/"):
        for browser in (Browser(app), place.entered()):
            page = browser.get(f"/dashboard{path}")
            assert place.text not in page.text
            assert place.text not in str(page.headers)
    assert HTTPS not in page.text
