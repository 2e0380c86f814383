"""Forms of the dashboard: that nobody else sends them, nor sends them late or twice."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Router

from keyrush import Gate
from keyrush.apps.dashboard.endpoints import page
from keyrush.apps.dashboard.forms import (
    FORM_AGE,
    MAX_FIELDS,
    MAX_FORM,
    Fields,
    NoForm,
    Tokens,
    parse,
)
from keyrush.apps.dashboard.frame import FRAME, Frame
from keyrush.apps.dashboard.visit import Visit
from tests.conftest import Clock, settings, still
from tests.support.calls import Sent, run, together
from tests.support.dashboard import Browser


async def _show(visit: Visit) -> Response:
    return PlainTextResponse(f"{visit.token('/form')}|{visit.token('/other')}")


async def _take(visit: Visit) -> Response:
    form = await visit.form()
    is_first = await visit.spend()
    return PlainTextResponse(f"{'first' if is_first else 'again'} {form.get('name')}")


class Forms:
    """Two forms, and who is signed in to send them."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.who: str | None = "acct_a"
        self.router = Router([page("/form", _show, post=_take), page("/other", _show, post=_take)])
        self.frame = Frame(gate, self.account_of)
        self.browser = Browser(self)

    def account_of(self, _: Request) -> str | None:
        return self.who

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.router({**scope, FRAME: self.frame}, receive, send)

    def token(self, which: int = 0) -> str:
        """The token of the form, or of the other."""
        fields = self.browser.get("/form").text.split("|")
        return fields[which].split('value="')[1].rstrip('">')


@pytest.fixture
def forms(gate: Gate) -> Forms:
    """Two forms of `acct_a`."""
    return Forms(gate)


def test_a_form_of_ours(forms: Forms) -> None:
    """A form with its token is taken, once; what is sent again is known as that."""
    token = forms.token()
    sent = {"name": "é <b>", "_token": token}
    assert forms.browser.post("/form", sent).text == "first é <b>"
    assert forms.browser.post("/form", sent).text == "again é <b>"
    assert forms.browser.post("/form", {"_token": forms.token()}).text == "first None"


def test_one_of_two_tabs(forms: Forms) -> None:
    """Of one form sent several times at once, one is the first."""
    sent = {"_token": forms.token()}
    pages = run(together(lambda: forms.browser.posting("/form", sent), 8))
    assert sorted(page.text for page in pages) == ["again None"] * 7 + ["first None"]


@pytest.mark.parametrize(
    ("sent_from", "status"),
    [
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "same-origin", "origin": "null"}, 200),  # as no-referrer has it
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site", "origin": "https://app.example"}, 403),
        ({"sec-fetch-site": "none"}, 403),
        ({"sec-fetch-site": ""}, 403),
        ({"origin": "https://app.example"}, 200),
        ({"origin": "http://app.example"}, 200),  # a proxy may speak TLS
        ({"origin": "https://api.example.com"}, 200),  # as public_url has it
        ({"sec-fetch-site": "cross-site", "origin": "https://api.example.com"}, 403),
        ({"origin": "https://app.example:444"}, 403),
        ({"origin": "https://app.example.evil"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "https://x@app.example"}, 403),
        ({"origin": "app.example"}, 403),
        ({"origin": "//app.example"}, 403),
        ({"origin": "file://app.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({}, 403),
        ({"origin": "http://["}, 403),
    ],
    ids=str,
)
def test_where_it_was_sent_from(forms: Forms, sent_from: dict[str, str], status: int) -> None:
    """O10: a form counts only where the browser says that it was sent from here, with a good token,
    too; from elsewhere nothing of it is carried along.
    """
    token = forms.token()

    async def post() -> Any:
        kind = ("content-type", "application/x-www-form-urlencoded")
        body = urlencode({"_token": token, "name": "mine"}).encode()
        return await forms.browser.send(Sent("/form", [kind, *sent_from.items()], "POST"), body)

    answer = run(post())
    assert answer.status == status
    if status != 200:
        assert "Nothing was changed" in answer.said
        assert "mine" not in answer.text


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda token: "",
        lambda token: token[:-1],
        lambda token: token[:-2] + ("AA" if token[-2:] != "AA" else "BB"),
        lambda token: "A" + token[1:] if token[0] != "A" else "B" + token[1:],
        lambda token: token + "A",
        lambda token: token * 50,
        lambda token: "é" * 20,
        lambda token: "=" * 9,
        lambda token: "\x00",
    ],
)
def test_a_token_that_is_none(forms: Forms, spoilt: Any) -> None:
    """O10: a form without a good token changes nothing, and can be sent again."""
    answer = forms.browser.post("/form", {"name": "mine", "_token": spoilt(forms.token())})
    assert answer.status == 403
    assert "Nothing was changed" in answer.said
    assert forms.browser.submit(answer, "/form").text == "first mine"


def test_whose_it_is(forms: Forms, clock: Clock) -> None:
    """O10: a token is of one who is signed in, one form, and half a day."""
    own, other = forms.token(), forms.token(1)
    assert forms.browser.post("/form", {"_token": other}).status == 403
    assert forms.browser.post("/other", {"_token": own}).status == 403
    forms.who = "acct_b"
    assert forms.browser.post("/form", {"_token": own}).status == 403
    forms.who = "acct_a"
    clock.advance(FORM_AGE - 1)
    assert forms.browser.post("/form", {"_token": own}).status == 200
    clock.advance(1)
    assert forms.browser.post("/form", {"_token": own}).status == 403


def test_by_post_alone(forms: Forms) -> None:
    """O10: the same in a query changes nothing."""
    assert forms.browser.get(f"/form?_token={forms.token()}").status == 200
    assert forms.browser.get("/form", method="PUT").status == 405


def test_of_any_process(clock: Clock) -> None:
    """What one process has given out another knows by the pepper that they share; without it,
    nobody does.
    """
    gates = [still(Gate.open(settings(pepper=pepper * 40), clock=clock)) for pepper in "aab"]
    for gate in gates:
        gate.accounts.create("acct_a")
    first, second, foreign = (Forms(gate) for gate in gates)
    token = first.token()
    assert second.browser.post("/form", {"_token": token}).status == 200
    assert foreign.browser.post("/form", {"_token": token}).status == 403
    both = still(Gate.open(settings(pepper=("b" * 40, "a" * 40)), clock=clock))
    both.accounts.create("acct_a")
    assert Forms(both).browser.post("/form", {"_token": token}).status == 200
    for gate in (*gates, both):
        gate.close()


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"", "application/x-www-form-urlencoded", 403),
        (b"a=" + b"b" * MAX_FORM, "application/x-www-form-urlencoded", 413),
        (b"&".join([b"a=b"] * (MAX_FIELDS + 1)), "application/x-www-form-urlencoded", 415),
        (b"\xff", "application/x-www-form-urlencoded", 415),
        (b"a=%ff", "application/x-www-form-urlencoded", 415),
        (b"{}", "application/json", 415),
        (b"a=b", "text/plain", 415),
        (b"a=b", "", 415),
        (b"--x", "multipart/form-data; boundary=x", 415),
    ],
)
def test_what_is_no_form(forms: Forms, body: bytes, kind: str, status: int) -> None:
    """S10: so much is read of what is sent, and what is no form changes nothing."""
    headers = [("content-type", kind), ("sec-fetch-site", "same-origin")]

    async def post() -> Any:
        return await forms.browser.send(Sent("/form", [*headers], "POST"), body)

    assert run(post()).status == status
    forms.who = None
    assert run(post()).status in {401, 413, 415}


@given(st.lists(st.tuples(st.text(), st.text()), max_size=20))
def test_fields_as_they_were_sent(pairs: list[tuple[str, str]]) -> None:
    """Fields come as they were typed, each in its place."""
    plain = [(n, v.replace("\r\n", "\n")) for n, v in pairs if n.isprintable()]
    encoded = urlencode(plain, errors="surrogatepass")
    try:
        fields = parse(encoded.encode(), "application/x-www-form-urlencoded; charset=utf-8")
    except NoForm:
        assert any("\ud800" <= char <= "\udfff" for pair in plain for char in "".join(pair))
        return
    assert list(fields.pairs) == plain
    assert dict(fields) == dict(plain)
    for name, _ in plain:
        assert fields.all(name) == [value for other, value in plain if other == name]


@given(st.text(max_size=600), st.text(max_size=20))
def test_what_is_said_next(text: str, who: str) -> None:
    """What a page is to say next is known as ours, and said to them alone."""
    tokens = Tokens([b"k" * 32])
    sealed = tokens.seal(who, text)
    assert tokens.unseal(who, sealed) == text.encode("utf-8", "replace").decode()
    assert tokens.unseal(who + "x", sealed) is None
    assert Tokens([b"j" * 32]).unseal(who, sealed) is None
    assert tokens.unseal(who, text) is None


async def _saying(visit: Visit) -> Response:
    return visit.redirect("/next", said="Revoked <production>")


async def _next(visit: Visit) -> Response:
    return visit.render("sign_out.html")


def test_what_is_said_once(gate: Gate) -> None:
    """What was done is said by the next page, once, and by nobody else's: what others put into the
    cookie is not said.
    """
    forms = Forms(gate)
    forms.router = Router([page("/next", _next), page("/do", _saying)])
    browser = forms.browser
    done = browser.get("/do")
    cookie = dict(browser.cookies)
    assert "Revoked &lt;production&gt;" in browser.follow(done).text
    assert "Revoked" not in browser.get("/next").text
    for said, who in ((cookie, "acct_b"), ({"keyrush-said": "QUJD" * 20}, "acct_a")):
        forms.who, browser.cookies = who, dict(said)
        assert "Revoked" not in browser.get("/next").text
    for hostile in ("é", "=", "A" * 43, "A" * 5000, "<b>"):
        browser.cookies = {"keyrush-said": hostile}
        assert browser.get("/next").status == 200


def test_nothing_typed_is_shown() -> None:
    """S82: a traceback shows the names of fields, and nothing of what was typed."""
    assert repr(Fields([("name", "secret")])) == "<Fields name>"
