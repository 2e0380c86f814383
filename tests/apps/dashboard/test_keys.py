"""API access: keys are listed, looked for, made and shown once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from typing import Any

import pytest

from keyrush import Gate
from keyrush.apps import Dashboard
from keyrush.apps.dashboard.pages.keys import asked, query_of
from keyrush.apps.dashboard.revealing import file_of, variable_of
from keyrush.core.activity import Outcome
from keyrush.core.model import ApiKey
from keyrush.core.times import DAY, iso
from tests.apps.dashboard.conftest import app_of
from tests.conftest import Clock, settings, still
from tests.support.activity import activity
from tests.support.dashboard import Browser, Page

RULES: list[dict[str, Any]] = [
    {"path": "/v1/articles/{id}", "methods": ["GET"], "scopes": ["read:articles"]},
    {"path": "/v1/search", "methods": ["GET"], "scopes": ["read:articles"]},
    {"path": "/v1/alerts", "methods": ["POST"], "scopes": ["write:alerts"]},
    {"path": "/v1/audit", "methods": ["POST"], "scopes": ["run:tools"], "tool": "audit_site"},
]
NEW = "/dashboard/keys/new"
FILE = "/dashboard/keys/file"

#: Names that pages must show as they are.
HOSTILE = [
    "'\"&amp;{{7*7}}",
    "مفتاح الإنتاج",
    "🔑🚀" * 20,
    "W" * 120,
    "a b",
    "javascript:alert(1)",
]


@pytest.fixture
def gate(clock: Clock) -> Iterator[Gate]:
    """A gate with scopes and three active keys at most, and two accounts."""
    plans = {"starter": {"max_keys": 3}}
    opened = still(Gate.open(settings(rules=RULES, plans=plans), clock=clock))
    opened.accounts.create("acct_a")
    opened.accounts.create("acct_b")
    yield opened
    opened.close()


def fill(browser: Browser, **more: str) -> Page:
    """The answer to the form of a new key, filled in."""
    given = {"name": "checkout", "expires": "90d", "access": "some", "scope": "read:articles"}
    return browser.submit(browser.get(NEW), NEW, given | more)


def key_in(page: Page) -> str:
    """The key that a page shows."""
    found = re.findall(r'<output id="secret"[^>]*>([^<]+)</output>', page.text)
    assert len(found) == 1
    return str(found[0])


def only(gate: Gate) -> ApiKey:
    """The one key of `acct_a`."""
    (key,) = gate.keys.list("acct_a")
    return key


# --- create --------------------------------------------------------------------------------------


def test_create(gate: Gate, browser: Browser, clock: Clock) -> None:
    """R3, O2, O4: a key is made as it was asked for, by whoever is signed in, and shown once."""
    page = fill(browser, env="test")
    assert page.status == 201
    key = only(gate)
    assert gate.keys.find(key_in(page)) == key
    made = (key.name, key.scopes, key.environment, key.expires_at, key.created_by)
    assert made == ("checkout", ("read:articles",), "test", clock.now + 90 * DAY, "owner:host")
    assert page["cache-control"] == "no-store"
    assert "is the only time that it is shown" in page.said
    assert key_in(page) not in browser.get("/dashboard/keys").text
    assert key_in(page) not in browser.get(f"/dashboard/keys/{key.id}").text


@pytest.mark.parametrize(
    ("given", "days"),
    [
        ({"expires": "never"}, None),
        ({"expires": "30d"}, 30),
        ({"expires": "1y"}, 365),
    ],
)
def test_when_it_ends(
    gate: Gate, browser: Browser, clock: Clock, given: dict[str, str], days: int | None
) -> None:
    """R3: a key ends after the time that was chosen, or never."""
    assert fill(browser, **given).status == 201
    assert only(gate).expires_at == (None if days is None else clock.now + days * DAY)


def test_ends_after_a_day(gate: Gate, browser: Browser) -> None:
    """R3: a date is the last day, in UTC."""
    assert fill(browser, expires="date", until="2099-03-04").status == 201
    assert iso(only(gate).expires_at) == "2099-03-05T00:00:00Z"


def test_where_there_are_no_environments(clock: Clock) -> None:
    """R2: where keys have no environments, one that was sent is left alone."""
    gate = still(Gate.open(settings(key_environments=()), clock=clock))
    gate.accounts.create("acct_a")
    browser = Browser(app_of(Dashboard(gate, account_of=lambda _: "acct_a")))
    assert fill(browser, access="full", env="live").status == 201
    assert only(gate).environment is None
    gate.close()


def test_scopes(gate: Gate, browser: Browser) -> None:
    """R4: several scopes, or full access, which is told plainly."""
    page = browser.get(NEW)
    assert "GET /v1/articles/{id}, GET /v1/search" in page.said
    assert "audit_site" in page.said
    assert "Whoever has this key can do everything" in page.said
    token = dict(page.form(NEW).fields)["_token"]
    fields = [("name", "n"), ("expires", "never"), ("access", "some"), ("env", "live")]
    scopes = [("scope", "run:tools"), ("scope", "read:articles"), ("_token", token)]
    assert browser.post(NEW, fields + scopes).status == 201
    only_some = ("run:tools", "read:articles")
    assert only(gate).scopes == only_some
    assert fill(browser, access="full").status == 201
    assert {key.scopes for key in gate.keys.list("acct_a")} == {only_some, ("*",)}


WRONG = [
    ({"name": " "}, "name", "Give the key a name."),
    ({"name": "W" * 121}, "name", "Shorten the name"),
    ({"name": "<b>"}, "name", "without < or >"),
    ({"name": "a\u202eb"}, "name", "invisible characters"),
    ({"env": "prod"}, "env", "Choose an environment."),
    ({"expires": ""}, "expires", "Choose when it expires."),
    ({"expires": "2d"}, "expires", "Choose when it expires."),
    ({"expires": "date"}, "until", "Choose the last day"),
    ({"expires": "date", "until": "2020-01-01"}, "until", "The date has passed."),
    ({"expires": "date", "until": "9999-12-31"}, "until", "Choose the last day"),
    ({"expires": "date", "until": "31.12.2099"}, "until", "Choose the last day"),
    ({"access": "all"}, "access", "Choose what it may do."),
    ({"scope": ""}, "scopes", "not known here"),
    ({"scope": "read:everything"}, "scopes", "not known here"),
]


@pytest.mark.parametrize(("given", "field", "says"), WRONG)
def test_what_is_wrong(
    gate: Gate, browser: Browser, given: dict[str, str], field: str, says: str
) -> None:
    """O16: nothing is made of a form that is wrong; it says where, and keeps what was typed."""
    page = fill(browser, **{"env": "live"} | given)
    assert page.status == 422
    assert says in page.said
    assert f'href="#{field}"' in page.text
    assert f'id="{field}"' in page.text
    assert "<title>Error: " in page.text
    assert not len(gate.keys.list("acct_a"))
    kept = dict(page.form(NEW).fields)
    assert kept["name"] == given.get("name", "checkout").strip(" ") or field == "name"
    assert browser.submit(page, NEW, {"env": "live", "name": "n", "expires": "never",
        "access": "some", "scope": "read:articles"}).status == 201  # fmt: skip


def test_a_key_for_a_name(gate: Gate, browser: Browser) -> None:
    """O22: a key that is pasted where a name belongs is neither stored nor shown again."""
    text = gate.keys.create("acct_b", "n").text
    page = fill(browser, name=f"my {text}")
    assert page.status == 422
    assert "That looks like a key." in page.said
    assert text not in page.text
    assert not len(gate.keys.list("acct_a"))


def test_too_many(gate: Gate, browser: Browser) -> None:
    """Where the plan allows no more keys, the form says so, and what to do."""
    gate.keys.create_many("acct_a", "n", 3)
    page = fill(browser)
    assert page.status == 422
    assert "The account has 3 active keys, as many as its plan allows." in page.said
    assert len(gate.keys.list("acct_a")) == 3


def test_loaded_again(gate: Gate, browser: Browser) -> None:
    """O2: the answer that shows a key is there once: sent again, the same form makes no other."""
    page = browser.get(NEW)
    given = {"name": "n", "expires": "never", "access": "full", "env": "live"}
    first, second = (browser.submit(page, NEW, given) for _ in range(2))
    assert (first.status, second.status) == (201, 409)
    assert "Already created; it can" in second.said
    assert key_in(first) not in second.text
    assert len(gate.keys.list("acct_a")) == 1


def test_no_form_of_others(gate: Gate, browser: Browser) -> None:
    """A form of another account, of another page, or without its token makes no key."""
    other = Browser(app_of(Dashboard(gate, account_of=lambda _: "acct_b")))
    given = {"name": "n", "expires": "never", "access": "full", "env": "live"}
    stolen = dict(other.get(NEW).form(NEW).fields)["_token"]
    own = dict(browser.get("/dashboard/keys").form("/dashboard/theme").fields)["_token"]
    for token in (stolen, own, ""):
        assert browser.post(NEW, given | {"_token": token}).status == 403
    assert browser.post(NEW, given, ("Sec-Fetch-Site", "cross-site")).status == 403
    assert not len(gate.keys.list())


def test_the_reveal(gate: Gate, browser: Browser) -> None:
    """What shows the key has it to copy and to store, guards it, and says how to try it."""
    page = fill(browser, name="Nightly export / é")
    key = key_in(page)
    assert "Download as nightly-export-e.env" in page.said
    file = browser.submit(page, FILE)
    assert (file.status, file.text) == (200, f"API_KEY={key}\n")
    assert file["content-disposition"] == 'attachment; filename="nightly-export-e.env"'
    assert file["content-type"] == "text/plain; charset=utf-8"
    assert (file["cache-control"], file["x-content-type-options"]) == ("no-store", "nosniff")
    assert page.text.count(key) == 2
    assert not [link for link in page.links if key in link]
    assert "data-secret" in page.text
    assert f'data-safe href="/dashboard/keys/{only(gate).id}"' in page.text


@pytest.mark.parametrize("spoilt", ["", "x", "<script>", "{}\r\nX: b", "{}x", "é"])
def test_only_keys_are_files(browser: Browser, spoilt: str) -> None:
    """O22: what is no key is no file, nor is what comes without the form's token, or from
    elsewhere; and nothing of it is said again.
    """
    page = fill(browser, name="n")
    key, form = key_in(page), dict(page.form(FILE).fields)
    wrong = browser.post(FILE, form | {"key": spoilt.format(key)})
    assert (wrong.status, key in wrong.text) == (415, False)
    for answer in (
        browser.post(FILE, form | {"_token": ""}),
        browser.post(FILE, form, ("Sec-Fetch-Site", "cross-site")),
        Browser(browser.app).get(FILE),
    ):
        assert answer.status in {403, 404}
        assert key not in answer.text
    named = browser.post(FILE, form | {"name": 'a"\r\nX: b'})
    assert named["content-disposition"] == 'attachment; filename="a-x-b.env"'


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("checkout", "checkout.env"),
        ("../../etc/passwd", "etc-passwd.env"),
        ("CON", "key.env"),
        ("lpt1", "key.env"),
        ("مفتاح", "key.env"),
        ("🔑", "key.env"),
        ('a"\r\nX: b', "a-x-b.env"),
        ("W" * 120, "w" * 60 + ".env"),
    ],
)
def test_names_of_files(name: str, file: str) -> None:
    """The file that a key is stored in has a name that any system takes, and that is no path."""
    assert file_of(name) == file


@pytest.mark.parametrize(
    ("product", "variable"),
    [
        ("Fernpost", "FERNPOST_API_KEY"),
        ("API", "API_KEY"),
        ("Über & Co.", "UBER_CO_API_KEY"),
        ("7 days", "_7_DAYS_API_KEY"),
        ("東京", "API_KEY"),
        ("a=$(rm)", "A_RM_API_KEY"),
    ],
)
def test_names_of_variables(product: str, variable: str) -> None:
    """The variable that holds a key is one that any shell takes."""
    assert variable_of(product) == variable


# --- the list ------------------------------------------------------------------------------------


def test_no_keys(browser: Browser) -> None:
    """Where there are no keys, the page says what one is for, and where to make it."""
    page = browser.get("/dashboard/keys")
    assert "No keys yet" in page.said
    assert NEW in page.links


def test_list(gate: Gate, browser: Browser, clock: Clock) -> None:
    """O5: each key of the account with how it stands, what it may do and its use; no other's."""
    gate.keys.create("acct_b", "foreign")
    old = gate.keys.create("acct_a", "rotated", scopes=["read:articles"]).key
    gate.keys.rotate(old.id, grace=3600)
    soon = gate.keys.create("acct_a", "soon", expires_at=clock.now + 3 * DAY).key
    gone = gate.keys.create("acct_a", "gone", scopes=["read:articles", "run:tools", "write:alerts"])
    gate.keys.revoke(gone.key.id)
    rows: list[tuple[Outcome, int]]
    rows = [("ok", 200), ("ok", 200), ("limited", 429), ("error", 500)]
    gate.store.add_activity(
        [activity(clock.now, soon.id, outcome, status) for outcome, status in rows]
    )
    page = browser.get("/dashboard/keys")
    for words in ("Retiring, 1 hour left", "Expires in 3 days", "Active", "Revoked 18 Nov 2026"):
        assert words in page.said
    assert "Full access" in page.said
    assert "+1 more: write:alerts" in page.said
    assert 'aria-label="2 answered and 2 not, in 30 days"' in page.text
    assert "foreign" not in page.text
    assert "4 of 4" in page.said


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names(gate: Gate, browser: Browser, name: str) -> None:
    """Whatever a key is called, each page about it shows that, isolated, and nothing else."""
    key = gate.keys.create("acct_a", name).key
    for path in ("", f"/{key.id}", *(f"/{key.id}/{what}" for what in ("edit", "rotate", "revoke"))):
        page = browser.get(f"/dashboard/keys{path}")
        assert page.status == 200
        shown = re.findall("<bdi>(.*?)</bdi>", page.text)
        assert name in {unescape(one) for one in shown}
        assert "49" not in page.said or "{{7*7}}" in page.said
    page = browser.get("/dashboard/keys?q=" + name.encode().hex())
    assert page.status == 200


def test_filters(gate: Gate, browser: Browser) -> None:
    """Search, status, environment, order and page are in the address, and in the form."""
    gate.keys.create("acct_a", "beta", environment="test")
    gate.keys.create("acct_a", "Alpha")
    gone = gate.keys.create("acct_a", "gone").key
    gate.keys.revoke(gone.id)

    def names(query: str) -> list[str]:
        return re.findall(r'class="name"[^>]*><bdi>(.*?)</bdi>', browser.get(query).text)

    assert names("/dashboard/keys?sort=name") == ["Alpha", "beta", "gone"]
    assert names("/dashboard/keys?sort=-name") == ["gone", "beta", "Alpha"]
    assert names("/dashboard/keys?q=ALPH") == ["Alpha"]
    assert names(f"/dashboard/keys?q={gone.id}") == ["gone"]
    assert names(f"/dashboard/keys?q={gone.prefix}") == ["gone"]
    assert names("/dashboard/keys?status=active&sort=name") == ["Alpha", "beta"]
    assert names("/dashboard/keys?status=revoked") == ["gone"]
    assert names("/dashboard/keys?env=test") == ["beta"]
    page = browser.get("/dashboard/keys?q=nothing%22%3E&status=active")
    assert 'No key matches “ nothing"> ”' in page.said
    assert "3 keys are hidden by the filters." in page.said
    assert dict(page.form("/dashboard/keys").fields) == {"q": 'nothing">', "status": "active"}
    page = browser.get("/dashboard/keys?q=a&sort=name")
    assert dict(page.form("/dashboard/keys").fields)["sort"] == "name"
    assert 'aria-sort="ascending"' in page.text


@pytest.mark.parametrize(
    "query",
    ["page=0", "page=-1", "page=99999", "page=9999999999", "page=x", "page=%D9%A1", "sort=x",
     "sort=", "status=x", "env=x", "q=%00", "q=%ff", "q=" + "a" * 5000, "q=%", "&&=="],
)  # fmt: skip
def test_hostile_queries(gate: Gate, browser: Browser, query: str) -> None:
    """What can't be meant stands for all; nothing fails, and nothing is echoed unescaped."""
    gate.keys.create("acct_a", "n")
    assert browser.get(f"/dashboard/keys?{query}").status == 200


def test_a_key_that_is_looked_for(gate: Gate, browser: Browser) -> None:
    """O22: who looks for a whole key finds it, and the address does not keep it."""
    new = gate.keys.create("acct_a", "n")
    page = browser.get(f"/dashboard/keys?q={new.text}&status=active")
    assert page.status == 303
    assert new.text not in page["location"]
    found = browser.follow(page)
    assert new.key.id in found.text
    assert new.text not in found.text
    assert browser.get(f"/dashboard/keys?q=x{new.text}")["location"] == "/dashboard/keys"


def test_pages(gate: Gate, browser: Browser) -> None:
    """A thousand keys are a page of 25 at a time, each once, and links lead through them."""
    names = [f"n{number:04}" for number in range(60)]
    for name in names:
        made = gate.keys.create("acct_a", name).key
        gate.keys.revoke(made.id)
    page, found = browser.get("/dashboard/keys?sort=name"), []
    while True:
        found += re.findall(r'class="name"[^>]*><bdi>(.*?)</bdi>', page.text)
        more = re.findall(r'href="([^"]+)" rel="next"', page.text)
        if not more:
            break
        page = browser.get(unescape(more[0]))
    assert found == names
    assert "Page 3 of 3" in page.said


def test_the_query_of_a_search() -> None:
    """The address of a search looks for the same again."""
    given = {"q": "a", "status": "expired", "env": "test", "sort": "created", "page": "7"}
    search = asked(given, ("live", "test"))
    again = {name: str(value) for name, value in query_of(search).items()}
    assert again == given
    assert not any(query_of(asked({}, ())).values())
