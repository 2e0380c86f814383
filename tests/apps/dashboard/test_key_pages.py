"""A key's own page, and the forms that change it: rotate, edit, revoke."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from keyrush import Gate
from keyrush.apps import Dashboard
from keyrush.apps.dashboard.acting import acting
from keyrush.apps.dashboard.scopes import groups
from keyrush.apps.dashboard.visit import May
from keyrush.core.model import INHERIT, ApiKey, Scopes
from keyrush.core.times import DAY
from keyrush.errors import StoreError
from keyrush.operations.keys import NewKey
from tests.apps.dashboard.conftest import app_of
from tests.apps.dashboard.test_keys import HOSTILE, RULES, key_in
from tests.conftest import Clock, settings, still
from tests.support.activity import activity
from tests.support.dashboard import Browser, Page


@pytest.fixture
def gate(clock: Clock) -> Iterator[Gate]:
    """A gate with scopes, and two accounts."""
    given = settings(rules=RULES, public_url="https://api.example.com")
    opened = still(Gate.open(given, clock=clock))
    opened.accounts.create("acct_a")
    opened.accounts.create("acct_b")
    yield opened
    opened.close()


@pytest.fixture
def key(gate: Gate) -> ApiKey:
    """A key of `acct_a`."""
    return gate.keys.create("acct_a", "production", scopes=["read:articles", "run:tools"]).key


def at(key: ApiKey, what: str = "") -> str:
    """The path of a page about a key."""
    return f"/dashboard/keys/{key.id}" + (f"/{what}" if what else "")


def fill(browser: Browser, key: ApiKey, what: str, **more: str) -> Page:
    """The answer to a form about the key, as it is but for `more`."""
    path = at(key, what)
    return browser.submit(browser.get(path), path, more)


# --- whose key -----------------------------------------------------------------------------------

PAGES = ["", "rotate", "edit", "revoke"]
GIVEN = {"grace": "0", "typed": "production", "name": "x", "expires": "never", "access": "full"}


@pytest.mark.parametrize("what", PAGES)
def test_keys_of_others(gate: Gate, browser: Browser, key: ApiKey, what: str) -> None:
    """O6: of a key of another account no page and no form says even that it is there, and none
    changes it: not by its id, nor by a form that was made for one's own.
    """
    foreign = gate.keys.create("acct_b", "production").key
    other = browser.get(f"/dashboard/keys/cred_none{'/' + what if what else ''}")
    page = browser.get(at(foreign, what))
    assert (page.status, page.said.split("Reference")[0]) == (404, other.said.split("Reference")[0])
    if what:
        own = dict(browser.get(at(key, what)).form(at(key, what)).fields)
        assert browser.post(at(foreign, what), GIVEN | {"_token": own["_token"]}).status == 403
        owner = Browser(app_of(Dashboard(gate, account_of=lambda _: "acct_b")))
        stolen = dict(owner.get(at(foreign, what)).form(at(foreign, what)).fields)["_token"]
        assert browser.post(at(foreign, what), GIVEN | {"_token": stolen}).status == 403
    assert gate.keys.get(foreign.id) == foreign
    assert len(gate.keys.list("acct_b")) == 1


@pytest.mark.parametrize("key_id", ["..", "%2e%2e", "cred_%00", "%ff", "a" * 3000, "'--", "<b>"])
@pytest.mark.parametrize("what", PAGES)
def test_hostile_ids(browser: Browser, key_id: str, what: str) -> None:
    """What can't be the id of a key is none, whatever it is."""
    page = browser.get(f"/dashboard/keys/{key_id}{'/' + what if what else ''}")
    assert page.status in {404, 303}
    assert "<b>" not in page.text.partition("<main")[2].partition("</main>")[0]


@pytest.mark.parametrize("what", PAGES[1:])
def test_stolen_forms(gate: Gate, browser: Browser, key: ApiKey, what: str) -> None:
    """A form about another key, of another page, from another site or without a token changes
    nothing.
    """
    second = gate.keys.create("acct_a", "production").key
    others = [at(second, what), *(at(key, one) for one in PAGES[1:] if one != what)]
    tokens = [dict(browser.get(path).form(path).fields)["_token"] for path in others]
    for token in (*tokens, ""):
        page = browser.post(at(key, what), GIVEN | {"_token": token})
        assert page.status == 403
        assert "Nothing was changed" in page.said
    own = dict(browser.get(at(key, what)).form(at(key, what)).fields)
    cross = ("Sec-Fetch-Site", "cross-site")
    assert browser.post(at(key, what), GIVEN | {"_token": own["_token"]}, cross).status == 403
    assert gate.keys.get(key.id) == key


@pytest.mark.parametrize("what", PAGES[1:])
def test_a_link_that_only_shows(gate: Gate, nobody: Browser, key: ApiKey, what: str) -> None:
    """Who came by a link that only shows sees all and changes nothing; the page says why."""
    path = urlsplit(gate.portal_link("acct_a", write=False)).path
    link = nobody.get(path)
    assert nobody.submit(link, path).status == 303
    page = nobody.get(at(key))
    assert page.status == 200
    assert "by a link that only shows" in page.said
    assert at(key, what) not in page.links
    assert nobody.get(at(key, what)).status in {200, 409}
    assert nobody.post(at(key, what), GIVEN).status == 403
    assert gate.keys.get(key.id) == key


# --- its page ------------------------------------------------------------------------------------


def test_what_is_known(gate: Gate, browser: Browser, key: ApiKey, clock: Clock) -> None:
    """A key's page has its use, from where it came last, and its refusals with what helps."""
    gate.store.add_activity(
        [
            activity(clock.now - 9 * DAY, key.id, "refused", 403, reason="unruled"),
            *(
                activity(clock.now - 60_000 * n, key.id, "limited", 429, reason="rate_limited")
                for n in range(1, 4)
            ),
            activity(clock.now - DAY, key.id, "refused", 403, reason="insufficient_scope")._replace(
                rule="/v1/alerts"
            ),
            activity(clock.now - 5000, key.id, address="198.51.100.0/24"),
            activity(clock.now, "cred_other", "refused", 403, reason="beyond_caller"),
        ]
    )
    page = browser.get(at(key))
    assert "198.51.100.0/24" in page.said
    assert "The limit of 100 requests a minute was reached." in page.said
    assert "3 times, last 1 min ago" in page.said
    assert "The key lacks write:alerts." in page.said
    assert "Wait for as long as Retry-After says" in page.said
    assert "once, 1 d ago" in page.said
    assert "Keys are not admitted" not in page.said
    assert "A key can" not in page.said.partition("Recent refusals")[2].partition("Details")[0]
    assert f"key={key.id}" in page.text
    assert "/v1/search" in page.said
    assert "by support" in page.said.partition("History")[2]


def test_history(gate: Gate, browser: Browser, key: ApiKey) -> None:
    """R17: what was done to a key is told with who did it, and leads from one to the next."""
    by_key = gate.keys.create("acct_a", "the robot").key
    gate.keys.edit(key.id, name="other", scopes=["read:articles"], by=by_key.id)
    fill(browser, key, "rotate", grace="1h")
    (new,) = [one for one in gate.keys.list("acct_a") if one.lineage != one.id]
    told = browser.get(at(key)).said.partition("History")[2]
    assert "by the key the robot" in told
    assert "it was called production" in told
    assert "run:tools was removed" in told
    assert f"{new.id} stands in for it by you in the dashboard" in told
    page = browser.get(at(new))
    assert f"in place of {key.id}" in page.said
    assert at(key) in page.links


def test_limits_of_a_key(gate: Gate, browser: Browser, key: ApiKey, clock: Clock) -> None:
    """O13: a key's page says which limits hold for it, until when, and how many requests at once;
    what the operator changes of that is in its history.
    """
    assert "Concurrent requests" not in browser.get(at(key)).said
    gate.accounts.set_limits("acct_a", "900/minute", until=clock.now + 60_000)
    gate.keys.edit(key.id, max_concurrent=1200)
    said = browser.get(at(key)).said
    assert "900 / minute until 18 Nov 2026" in said
    assert "Concurrent requests 1,200" in said
    assert "requests at once: 1,200;" in said
    own = gate.keys.create("acct_a", "own", limits="3/minute").key
    said = browser.get(at(own)).said
    assert "3 / minute" in said
    assert "until" not in said.partition("3 / minute")[2][:20]
    gate.keys.edit(key.id, max_concurrent=INHERIT)
    assert "requests at once: as the plan says;" in browser.get(at(key)).said


# --- rotate --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grace", "seconds"), [("0", 0), ("15m", 900), ("1h", 3600), ("24h", 86_400), ("7d", 604_800)]
)
def test_rotate(gate: Gate, browser: Browser, key: ApiKey, grace: str, seconds: int) -> None:
    """R17: the new key is shown once, and the old one works for as long as was chosen."""
    page = fill(browser, key, "rotate", grace=grace)
    assert page.status == 201
    new = gate.keys.find(key_in(page))
    assert (new.name, new.scopes, new.lineage) == (key.name, key.scopes, key.lineage)
    assert new.created_by == "owner:host"
    assert gate.keys.get(key.id).retires_at == gate.clock() + seconds * 1000
    assert ("The old one works no more." if not seconds else "The old one works until") in page.said


def test_rotate_says_the_last_use(gate: Gate, browser: Browser, key: ApiKey, clock: Clock) -> None:
    """Before a key is replaced, its page says when it was last used, from where and by what."""
    assert "It was never used." in browser.get(at(key, "rotate")).said
    gate.store.add_activity([activity(clock.now - 12_000, key.id)])
    said = browser.get(at(key, "rotate")).said
    assert "Its last request came 12 s ago , GET /v1/search ." in said
    assert "It came from 203.0.113.0/24 ." in said


def test_rotate_is_loaded_again(gate: Gate, browser: Browser, key: ApiKey) -> None:
    """R17: the form that has replaced a key does so once; in two tabs, the first of them wins."""
    tabs = [browser.get(at(key, "rotate")) for _ in range(2)]
    first = browser.submit(tabs[0], at(key, "rotate"), grace="24h")
    again = browser.submit(tabs[0], at(key, "rotate"), grace="24h")
    second = browser.submit(tabs[1], at(key, "rotate"), grace="24h")
    assert [page.status for page in (first, again, second)] == [201, 409, 409]
    assert "Already created" in again.said
    assert "It has been rotated already." in second.said
    assert len(gate.keys.list("acct_a")) == 2


@pytest.mark.parametrize("grace", ["", "1", "99999d", "-1", "24h\n"])
def test_no_such_grace(gate: Gate, browser: Browser, key: ApiKey, grace: str) -> None:
    """R17: how long the old key works is one of what can be chosen."""
    page = fill(browser, key, "rotate", grace=grace)
    assert page.status == 422
    assert "Choose for how long" in page.said
    assert gate.keys.get(key.id) == key


# --- edit ----------------------------------------------------------------------------------------


def test_edit(gate: Gate, browser: Browser, key: ApiKey, clock: Clock) -> None:
    """R3: name, end and scopes are changed, and the key itself is not."""
    page = fill(
        browser, key, "edit", name="staging", expires="30d", access="some", scope="read:articles"
    )
    assert page["location"] == at(key)
    after = gate.keys.get(key.id)
    changed = (after.name, after.scopes, after.expires_at)
    assert changed == ("staging", ("read:articles",), clock.now + 30 * DAY)
    assert after.fingerprint == key.fingerprint
    assert "staging was changed." in browser.follow(page).said


def test_edit_of_nothing(gate: Gate, browser: Browser, key: ApiKey) -> None:
    """A form that is sent as it came changes nothing, and is in no history."""
    path = at(key, "edit")
    page = browser.get(path)
    assert browser.post(path, page.form(path).fields).status == 303
    assert gate.keys.get(key.id) == key
    assert [record.what for record in gate.key_records.history(key.id)] == ["created"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"name": ""}, "Give the key a name."),
        ({"name": "<b>"}, "without < or >"),
        ({"expires": "date", "until": "2020-01-01"}, "The date has passed."),
        ({"expires": "tomorrow"}, "Choose when it expires."),
        ({"access": "some", "scope": "x"}, "not known here"),
    ],
)
def test_edit_that_is_wrong(
    gate: Gate, browser: Browser, key: ApiKey, given: dict[str, str], says: str
) -> None:
    """O16: nothing is changed by a form that is wrong; it says where."""
    page = fill(browser, key, "edit", **given)
    assert page.status == 422
    assert says in page.said
    assert gate.keys.get(key.id) == key


def test_edit_in_two_tabs(gate: Gate, browser: Browser, key: ApiKey) -> None:
    """Who edits what was changed meanwhile is shown how it is now, and undoes nothing."""
    tabs = [browser.get(at(key, "edit")) for _ in range(2)]
    assert browser.submit(tabs[0], at(key, "edit"), name="first").status == 303
    page = browser.submit(tabs[1], at(key, "edit"), name="second")
    assert page.status == 422
    assert "It was changed meanwhile" in page.said
    assert dict(page.form(at(key, "edit")).fields)["name"] == "first"
    assert gate.keys.get(key.id).name == "first"


@pytest.mark.parametrize(
    ("grace", "says"), [("0", "The old one works no more."), ("1h", "The old one works until ")]
)
def test_a_key_is_shown_whatever_happens(
    gate: Gate, browser: Browser, key: ApiKey, grace: str, says: str
) -> None:
    """R17: once the key has been replaced its page needs nothing more of the store, which may be
    away by then; it takes a moment to make one.
    """
    rotate = gate.keys.rotate

    def last(*args: Any, **values: Any) -> NewKey:
        gate.clock.advance(50)  # type: ignore[attr-defined]  # it is the test's
        made = rotate(*args, **values)

        def away(*_: Any) -> Any:
            raise StoreError("away")

        gate.store.key = away  # type: ignore[assignment,method-assign]  # from now on
        return made

    gate.keys.rotate = last  # type: ignore[method-assign]  # nothing is there after it
    page = fill(browser, key, "rotate", grace=grace)
    assert page.status == 201
    assert key_in(page)
    assert says in page.said


@pytest.mark.parametrize("what", ["edit", "rotate"])
@pytest.mark.parametrize("ending", ["revoked", "expired", "retired"])
def test_what_has_ended(gate: Gate, browser: Browser, clock: Clock, what: str, ending: str) -> None:
    """R5: what has ended, while its form was open or before, can't be changed; the page says so."""
    key = gate.keys.create("acct_a", "n", expires_at=clock.now + 9000).key
    form = browser.get(at(key, what))
    if ending == "revoked":
        gate.keys.revoke(key.id)
    elif ending == "retired":
        gate.keys.rotate(key.id, grace=0)
    else:
        clock.now += 9000
    before = gate.keys.get(key.id)
    given = {"grace": "0"} if what == "rotate" else {"name": "x"}
    for page in (browser.submit(form, at(key, what), given), browser.get(at(key, what))):
        assert page.status == 409
        assert "That can" in page.said
        assert "Create a new key." in page.said
    assert gate.keys.get(key.id) == before
    shown = browser.get(at(key))
    assert at(key, what) not in shown.links
    assert 'disabled aria-describedby="why"' in shown.text


# --- revoke --------------------------------------------------------------------------------------


def test_revoke(gate: Gate, browser: Browser, key: ApiKey, clock: Clock) -> None:
    """O6: who types the name ends the key for good; before, the page says what would stop."""
    gate.store.add_activity([activity(clock.now - 12_000, key.id) for _ in range(3)])
    page = browser.get(at(key, "revoke"))
    assert "This key is in use." in page.said
    assert "3 came in the last day." in page.said
    assert at(key, "rotate") in page.links
    done = browser.submit(page, at(key, "revoke"), typed=" production ")
    assert done["location"] == "/dashboard/keys"
    assert "production is revoked." in browser.follow(done).said
    assert gate.keys.get(key.id).revoked_at == clock.now
    assert gate.key_records.history(key.id)[0].by == "owner:host"


@pytest.mark.parametrize("typed", ["", "Production", "production2", "yes"])
def test_not_typed(gate: Gate, browser: Browser, key: ApiKey, typed: str) -> None:
    """O6: without the name nothing ends, nor by the tick that other keys have."""
    page = fill(browser, key, "revoke", typed=typed, sure="yes")
    assert page.status == 422
    assert "Type the name as it stands above." in page.said
    assert gate.keys.get(key.id) == key


@pytest.mark.parametrize("name", [*HOSTILE[1:4], "a\u00a0b", "naïve"])
def test_names_that_are_not_typed(gate: Gate, browser: Browser, name: str) -> None:
    """O6: a name that is long, or of other letters, is not to be typed: a tick will do."""
    key = gate.keys.create("acct_a", name).key
    page = browser.get(at(key, "revoke"))
    is_typed = 'name="typed"' in page.text
    assert is_typed == (name in {"a\u00a0b", "naïve"})
    assert browser.submit(page, at(key, "revoke")).status == 422
    given = {"typed": name} if is_typed else {"sure": "yes"}
    assert browser.submit(page, at(key, "revoke"), given).status == 303
    assert gate.keys.get(key.id).revoked_at is not None


def test_revoked_twice(gate: Gate, browser: Browser, key: ApiKey, clock: Clock) -> None:
    """O6: a form that is sent twice ends the key once, and is content."""
    page = browser.get(at(key, "revoke"))
    first = browser.submit(page, at(key, "revoke"), typed="production")
    at_first = gate.keys.get(key.id).revoked_at
    clock.now += 5000
    assert browser.submit(page, at(key, "revoke"), typed="production").status == first.status == 303
    assert gate.keys.get(key.id).revoked_at == at_first
    assert browser.get(at(key, "revoke")).status == 409


# --- who acts ------------------------------------------------------------------------------------


def test_who_acts() -> None:
    """O17: a session acts as the link that it stands for, all others as the account's owner, of
    whom is told how they came.
    """
    assert acting(May("session", mark="", by="sub_a", issued_at=7)) == ("sub_a", 7)
    assert acting(May("host", mark="")) == ("owner:host", None)
    assert acting(May("link", mark="", session_id="s1")) == ("owner:link.s1", None)


def test_what_scopes_open(gate: Gate) -> None:
    """R4: scopes are listed by what they are about, wildcards with all that they open; those that
    somebody lacks are not theirs to give.
    """
    found = groups(gate.catalog, Scopes(["read:*"]), ["read:*", "*"])
    assert [group.name for group in found] == ["", "alerts", "articles", "tools"]
    (wildcard,) = found[0].choices
    assert wildcard.opens == ("GET /v1/articles/{id}", "GET /v1/search")
    (articles,) = found[2].choices
    assert articles.is_open
    assert not found[1].choices[0].is_open


def test_an_account_that_vanishes(clock: Clock, key: ApiKey, gate: Gate) -> None:
    """A key of an account that is there no more is not shown, nor changed."""
    there: list[Any] = ["acct_a"]
    browser = Browser(app_of(Dashboard(gate, account_of=lambda _: there[0])))
    form = browser.get(at(key, "edit"))
    there[0] = "acct_gone"
    assert browser.submit(form, at(key, "edit"), name="x").status == 403
    assert browser.get(at(key)).status == 403
    assert gate.keys.get(key.id) == key
    assert not re.search("production", browser.get(at(key)).text)
