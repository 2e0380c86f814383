"""API access and Setup in a real browser: a key is made, copied, guarded, rotated, edited, revoked,
with JavaScript and without.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keyrush import Gate
from keyrush.apps import Dashboard
from keyrush.core.activity import Outcome
from keyrush.core.times import DAY
from tests.apps.dashboard.conftest import app_of
from tests.apps.dashboard.test_keys import HOSTILE, RULES
from tests.apps.dashboard.test_setup import RESOURCE
from tests.conftest import Clock, settings, still
from tests.support.activity import activity
from tests.support.browser import WIDTHS, Chromium, Tab, _browser, chromium
from tests.support.serving import serve

__all__ = ["_browser", "chromium"]  # fixtures

pytestmark = pytest.mark.browser

SCRIPTS = pytest.mark.parametrize("script", [True, False], ids=["script", "no-script"])


@pytest.fixture
def gate(clock: Clock) -> Iterator[Gate]:
    """A gate with scopes and an MCP server, and an account."""
    values: dict[str, Any] = {"rules": RULES, "resources": [RESOURCE]}
    opened = still(Gate.open(settings(**values, public_url="https://api.example.com"), clock=clock))
    opened.accounts.create("acct_a")
    yield opened
    opened.close()


@pytest.fixture
def base(gate: Gate) -> Iterator[str]:
    """Where the dashboard of `acct_a` is served."""
    with serve(app_of(Dashboard(gate, account_of=lambda _: "acct_a"))) as url:
        yield f"{url}/dashboard"


def fill_account(gate: Gate, now: int) -> str:
    """Keys in every state, with a month of use; the id of the one that is used most."""
    key = gate.keys.create("acct_a", "production", scopes=["read:articles", "write:alerts"]).key
    gate.keys.rotate(gate.keys.create("acct_a", "rotated").key.id)
    gate.keys.create("acct_a", "expiring", expires_at=now + 6 * DAY)
    gate.keys.revoke(gate.keys.create("acct_a", "revoked").key.id)
    for name in HOSTILE:
        gate.keys.create("acct_a", name, scopes=["read:articles", "run:tools", "write:alerts"])
    gate.keys.edit(key.id, name="checkout", scopes=["read:articles"])
    rows = [activity(now - 12_000, key.id), activity(now - 90_000, key.id, source="mcp")]
    rows += [activity(now - day * DAY, key.id) for day in range(30) for _ in range(day % 7 + 1)]
    for reason in ("rate_limited", "insufficient_scope"):
        outcome: Outcome = "limited" if reason == "rate_limited" else "refused"
        rows += [
            activity(now - 60_000 * n, key.id, outcome, 429, reason=reason) for n in range(1, 5)
        ]
    gate.store.add_activity(rows)
    return key.id


@pytest.mark.parametrize("width", WIDTHS)
def test_every_page(gate: Gate, base: str, chromium: Chromium, clock: Clock, width: int) -> None:
    """Every page about keys is accessible in every look, empty and filled, right and wrong."""
    tab = chromium.tab(base, theme=None, width=width)
    for path, name in (("/", "setup-new"), ("/keys", "keys-none"), ("/keys/new", "key-create")):
        tab.open(path)
        tab.check(name)
    tab.page.get_by_role("button", name="Create key").click()
    tab.check("key-create-wrong")
    tab.page.fill("#name", "checkout")
    tab.page.check("[value='read:articles']")
    tab.page.get_by_role("button", name="Create key").click()
    tab.check("key-made")
    tab.page.get_by_role("link", name="I have stored it").click()
    used = fill_account(gate, clock.now)
    for path, name in (
        ("/", "setup"),
        ("/keys", "keys"),
        ("/keys?q=nothing", "keys-nothing"),
        (f"/keys/{used}", "key"),
        (f"/keys/{used}/edit", "key-edit"),
        (f"/keys/{used}/rotate", "key-rotate"),
        (f"/keys/{used}/revoke", "key-revoke"),
    ):
        tab.open(path)
        tab.check(name)
    tab.page.get_by_role("button", name="Revoke key").click()
    tab.check("key-revoke-wrong")
    gate.keys.revoke(used)
    tab.open(f"/keys/{used}")
    tab.check("key-revoked")
    tab.open(f"/keys/{used}/edit", 409)
    tab.check("key-unable")


@pytest.mark.parametrize("width", [320, 768, 1280])
def test_long_words_fit(clock: Clock, chromium: Chromium, width: int) -> None:
    """Names, scopes, tools and paths of any length stay in their boxes at any width."""
    path, scope = "/v1/" + "long-segment/" * 9 + "{id}", "read:" + "subscriptions-and-" * 3 + "all"
    values: dict[str, Any] = {
        "rules": [
            {"path": path, "scopes": [scope]},
            {"path": "/v1/tool", "tool": "tool_" * 12, "credits": 12_345_678, "scopes": ["run:x"]},
        ],
        "plans": {"starter": {"limits": "100/minute", "monthly_quota": 9, "quota_per": "key"}},
        "dashboard_name": "Unabhängigkeitserklärungsgesellschaft und Nachfolger",
        "dashboard_links": {"Donaudampfschifffahrtsgesellschaft": "https://example.com/"},
    }
    gate = still(Gate.open(settings(**values), clock=clock))
    gate.accounts.create("acct_" + "a" * 50)
    key = gate.keys.create("acct_" + "a" * 50, "Ω" * 120, scopes=[scope, "run:x"]).key
    row = activity(clock.now - 1000, key.id)
    gate.store.add_activity([row._replace(account_id=key.account_id, path=path, rule=path)])
    pages = ("/", "/keys", "/keys/new", "/activity", "/billing")
    of_key = ("", "/edit", "/rotate", "/revoke")
    with serve(app_of(Dashboard(gate, account_of=lambda _: key.account_id))) as url:
        tab = chromium.tab(f"{url}/dashboard", width=width)
        for page in (*pages, *(f"/keys/{key.id}{end}" for end in of_key)):
            tab.open(page)
            tab.check_fit(page)
    gate.close()


def create(tab: Tab, name: str = "checkout") -> None:
    """Make a key by the form."""
    tab.open("/keys/new")
    tab.page.fill("#name", name)
    tab.page.check("[value='read:articles']")
    tab.page.get_by_role("button", name="Create key").click()


@SCRIPTS
def test_create(gate: Gate, base: str, chromium: Chromium, script: bool) -> None:
    """O2: a key is made and shown once; the page that is loaded again has and makes none."""
    tab = chromium.tab(base, script=script)
    create(tab)
    text = tab.page.locator("#secret").inner_text()
    assert gate.keys.find(text).name == "checkout"
    tab.page.on("dialog", lambda dialog: dialog.accept())  # as the script asks
    tab.page.reload()
    assert tab.page.get_by_role("heading", name="Already created").is_visible()
    assert text not in tab.page.content()
    assert len(gate.keys.list("acct_a")) == 1
    assert tab.noise == []


def test_leaving_asks(base: str, chromium: Chromium) -> None:
    """O2: who leaves the page of a new key is asked first, until the key is copied."""
    tab = chromium.tab(base, permissions=["clipboard-read", "clipboard-write"])
    create(tab)
    asked: list[str] = []

    def stay(dialog: Any) -> None:
        asked.append(dialog.type)
        dialog.dismiss()

    tab.page.on("dialog", stay)
    tab.page.get_by_role("link", name="Activity").click(no_wait_after=True)
    tab.page.wait_for_function("true")
    assert asked == ["beforeunload"]
    text = tab.page.locator("#secret").inner_text()
    tab.page.get_by_role("button", name="Copy key").click()
    tab.page.get_by_text("Copied", exact=True).first.wait_for()
    assert tab.page.evaluate("navigator.clipboard.readText()") == text
    tab.page.get_by_role("link", name="Setup").click()
    tab.page.wait_for_url(f"{base}/")
    assert asked == ["beforeunload"]
    assert tab.noise == []


@SCRIPTS
def test_stored_in_a_file(base: str, chromium: Chromium, script: bool, tmp_path: Path) -> None:
    """O2: the key is stored in a file that is called by its name; leaving asks no more."""
    tab = chromium.tab(base, script=script, accept_downloads=True)
    create(tab, "Nightly export")
    text = tab.page.locator("#secret").inner_text()
    with tab.page.expect_download() as downloaded:
        tab.page.get_by_role("button", name="Download as nightly-export.env").click()
    assert downloaded.value.suggested_filename == "nightly-export.env"
    downloaded.value.save_as(tmp_path / "key.env")
    assert (tmp_path / "key.env").read_text() == f"API_KEY={text}\n"
    tab.page.get_by_role("link", name="I have stored it").click()
    assert tab.page.get_by_role("heading", name="Nightly export").is_visible()
    assert tab.noise == []


@SCRIPTS
def test_through_the_life_of_a_key(gate: Gate, base: str, chromium: Chromium, script: bool) -> None:
    """R17, O6: a key is edited, rotated and revoked by its pages, each with what it ends in."""
    key = gate.keys.create("acct_a", "production").key
    tab = chromium.tab(base, script=script)
    page = tab.open("/keys")
    page.get_by_role("link", name="production").click()
    page.get_by_role("link", name="Edit", exact=True).click()
    page.fill("#name", "staging")
    page.check("[value=some]")
    page.check("[value='read:articles']")
    page.get_by_role("button", name="Save changes").click()
    assert page.get_by_role("status").filter(has_text="staging was changed.").is_visible()
    assert gate.keys.get(key.id).scopes == ("read:articles",)
    page.get_by_role("link", name="Rotate", exact=True).click()
    page.check("[value='1h']")
    page.get_by_role("button", name="Rotate key").click()
    new = gate.keys.find(page.locator("#secret").inner_text())
    assert new.lineage == key.id
    page.get_by_role("link", name="I have stored it").click()
    page.get_by_role("link", name="Revoke", exact=True).click()
    page.get_by_label("Type staging to confirm").fill("staging")
    page.get_by_role("button", name="Revoke key").click()
    assert page.get_by_role("status").filter(has_text="staging is revoked.").is_visible()
    assert gate.keys.get(new.id).revoked_at is not None
    assert tab.noise == []


def test_by_keyboard(base: str, chromium: Chromium) -> None:
    """A key can be made by the keyboard alone; what is wrong is focused and leads to its field."""
    tab = chromium.tab(base)
    page = tab.open("/keys/new")
    page.locator("#name").press("Enter")
    page.get_by_role("alert").wait_for()
    assert page.evaluate("document.activeElement.getAttribute('role')") == "alert"
    page.get_by_role("link", name="Give the key a name.").press("Enter")
    assert page.evaluate("document.activeElement.id") in {"name", ""}
    page.locator("#name").press_sequentially("typed")
    page.locator("[value='read:articles']").press("Space")
    page.locator("#name").press("Enter")
    assert page.get_by_role("heading", name="Copy your key now").is_visible()
    assert tab.noise == []
