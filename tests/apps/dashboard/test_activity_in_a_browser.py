"""Activity and Billing in a real browser: every look, without JavaScript, newer rows, print."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from keyrush import Gate
from keyrush.apps import Dashboard
from keyrush.cli.demo import month
from keyrush.core.paging import Place, cursor_at
from tests.apps.dashboard.conftest import app_of
from tests.apps.dashboard.test_activity import add, row
from tests.conftest import Clock, still
from tests.support.browser import WIDTHS, Chromium, Tab, _browser, chromium
from tests.support.serving import serve

__all__ = ["_browser", "chromium"]  # fixtures

pytestmark = pytest.mark.browser


@pytest.fixture
def base(gate: Gate) -> Iterator[str]:
    """Where the dashboard of `acct_a` is served."""
    with serve(app_of(Dashboard(gate, account_of=lambda _: "acct_a"))) as url:
        yield f"{url}/dashboard"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the dashboard of the made-up month is served."""
    file = tmp_path_factory.mktemp("month") / "month.db"
    top_up = "https://pay.example.com/"
    gate = still(
        Gate.open(
            month.settings(
                store_url=f"sqlite:///{file}",
                limiter_url="memory://",
                dashboard_top_up_url=top_up,
                dashboard_plans_url="https://example.com/plans",
                dashboard_name="Fernpost",
                dashboard_links={"Documentation": "https://docs.example.com/"},
                public_url="https://api.fernpost.example",
            )
        )
    )
    month.fill(gate)
    with serve(app_of(Dashboard(gate, account_of=lambda _: month.ACCOUNT))) as url:
        yield f"{url}/dashboard"
    gate.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_every_look(filled: str, chromium: Chromium, width: int) -> None:
    """O10: a month of activity and its bill are accessible in every look, with rows, tables and
    errors open.
    """
    tab = chromium.tab(filled, theme=None, width=width)
    tab.open("/activity")
    tab.check("activity")
    tab.page.locator("details summary").click()
    tab.page.locator("a.name").nth(2).click()
    tab.page.locator("details summary").click()
    tab.check("activity-open")
    tab.open("/activity?range=own&from=2026-02-30", 400)
    tab.check("activity-wrong-days")
    tab.open("/billing")
    tab.page.locator("details summary").click()
    tab.check("billing")


#: What the document has pictures of: path, theme, and size in CSS pixels.
SHOWN = {
    "activity": ("/activity", "light", 1200, 800),
    "keys": ("/keys", "dark", 1200, 560),
    "create": ("/keys/new", "light", 900, 720),
    "billing": ("/billing", "light", 1200, 640),
    "phone": ("/", "dark", 400, 720),
}


@pytest.mark.parametrize("name", SHOWN)
def test_pictures_of_the_document(filled: str, chromium: Chromium, name: str) -> None:
    """`make screenshots` takes the pictures that docs/dashboard.md shows, of what is there now."""
    path, theme, width, height = SHOWN[name]
    size = {"width": width, "height": height}
    tab = chromium.tab(filled, theme=theme, width=width, viewport=size)
    tab.open(path)
    tab.show(name)
    assert tab.noise == []
    document = Path(__file__).parents[3] / "docs" / "dashboard.md"
    shown = re.findall(r"!\[[^\]]+\]\(pictures/([a-z]+)\.png\)", document.read_text("utf-8"))
    assert sorted(shown) == sorted(SHOWN)


def test_empty_looks(gate: Gate, base: str, chromium: Chromium) -> None:
    """O10: nothing yet, and nothing by the filters, are accessible states."""
    tab = chromium.tab(base, theme=None)
    tab.open("/activity")
    tab.check("activity-empty")
    tab.open("/billing")
    tab.check("billing-empty")
    add(gate, row(gate, 1))
    tab.open("/activity?outcome=error")
    tab.check("activity-nothing")


def test_without_javascript(filled: str, chromium: Chromium) -> None:
    """O10: filters, pages and rows are forms and links; nothing is shown that needs the script."""
    tab = chromium.tab(filled, script=False)
    page = tab.open("/activity")
    expect(page.get_by_text("Live", exact=True)).not_to_be_visible()
    page.get_by_label("Source", exact=True).select_option("mcp")
    assert "source=mcp" not in page.url  # filters never submit by themselves
    page.get_by_role("button", name="Apply").click()
    assert "source=mcp" in page.url
    page.get_by_role("link", name="7 d").click()
    assert "range=7d" in page.url
    assert "source=mcp" in page.url
    page.get_by_role("link", name="Older").click()
    page.locator("a.name").first.click()
    expect(page.get_by_text("Answered.")).to_be_visible()
    page.get_by_role("link", name="Newest").click()
    page.get_by_text("Show as a table").click()
    expect(page.get_by_role("group", name="The chart as a table")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    assert download.value.suggested_filename == f"activity-{month.ACCOUNT}.csv"
    assert tab.noise == []


def test_times_are_the_readers(gate: Gate, base: str, chromium: Chromium) -> None:
    """Instants up to a day are in the reader's zone; days stay in UTC, and say so."""
    add(gate, row(gate, 1))
    tab = chromium.tab(base, timezone_id="Asia/Kathmandu")
    page = tab.open("/activity")
    seconds = gate.clock() // 1000 - 1 + (5 * 60 + 45) * 60
    clock = f"{seconds // 3600 % 24:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    expect(page.locator("a.name")).to_have_text(clock)
    marks = page.locator("svg.plot text.x").all_text_contents()
    assert all(re.fullmatch(r"\d\d:[14]5", mark) for mark in marks)
    page.locator("g.bin").last.hover()
    expect(page.locator(".tip")).to_have_text(re.compile(r"\d\d:[14]5: 1 OK \(so far\)$"))
    assert "UTC" not in page.locator(".tip").inner_text()
    page = tab.open("/activity?range=30d")
    expect(page.get_by_text("Days in UTC.")).to_be_visible()
    assert tab.noise == []


def test_nothing_moves(filled: str, chromium: Chromium) -> None:
    """No page shifts its layout while it loads, script and all."""
    tab = chromium.tab(filled)
    for path in ("/activity", "/activity?range=30d", "/billing"):
        page = tab.open(path)
        page.wait_for_load_state("networkidle")
        shifted = page.evaluate(
            """() => new Promise(resolve => {
                let sum = 0;
                new PerformanceObserver(list => {
                    for (const entry of list.getEntries()) sum += entry.value;
                }).observe({type: "layout-shift", buffered: true});
                requestAnimationFrame(() => requestAnimationFrame(() => resolve(sum)));
            })"""
        )
        assert shifted == 0, path


def test_print(filled: str, chromium: Chromium) -> None:
    """O10: Billing prints as a paper: whose and when, no navigation, no buttons."""
    page = chromium.tab(filled, theme="dark").open("/billing")
    page.emulate_media(media="print", color_scheme="dark")
    expect(page.get_by_text(re.compile("account acct_demo, printed"))).to_be_visible()
    for gone in (page.get_by_role("navigation"), page.get_by_role("button")):
        for one in gone.all():
            expect(one).not_to_be_visible()
    expect(page.get_by_role("heading", name="Credits in and out")).to_be_visible()
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "light"
    page.set_viewport_size({"width": 640, "height": 900})  # of A4 or letter, within wide margins
    for table in page.locator("table.cards").all():
        expect(table).to_have_css("display", "table")


# --- newer rows ----------------------------------------------------------------------------------

#: Keeps what the script would do later, for the test to do when it wants.
_LATER = "window.later = []; window.setTimeout = (todo, ms) => later.push([todo, ms]);"

_TURN = "async () => { const [todo] = later.shift(); await todo(); return later[0][1]; }"


class Feed:
    """A page whose rows are asked for when the test says so."""

    def __init__(self, tab: Tab, path: str = "/activity") -> None:
        self.page = tab.page
        self.page.add_init_script(_LATER)
        self.asked = 0
        self.page.on("request", self._heard)
        tab.open(path)

    def _heard(self, request: object) -> None:
        self.asked += "/activity/rows" in getattr(request, "url", "")

    def turn(self) -> int:
        """Do what waits: in how many milliseconds the next turn is."""
        wait: int = self.page.evaluate(_TURN)
        return wait

    @property
    def rows(self) -> list[str]:
        """The ids of the rows, in their order."""
        found: list[str] = self.page.eval_on_selector_all("a.name", "all => all.map(a => a.id)")
        return found


@pytest.fixture
def feed(gate: Gate, base: str, chromium: Chromium) -> Feed:
    """Activity with two rows."""
    add(gate, row(gate, 10), row(gate, 20))
    return Feed(chromium.tab(base))


def test_newer_rows_come(gate: Gate, feed: Feed, clock: Clock) -> None:
    """Rows that are new stand where their time has them, once, also those that were late."""
    clock.now += 6000
    add(gate, row(gate, 1), row(gate, 12, outcome="error", status=500))
    assert feed.turn() == 5000
    assert feed.rows == ["act_1", "act_12", "act_10", "act_20"]
    assert feed.turn() == 5000
    assert feed.rows == ["act_1", "act_12", "act_10", "act_20"]
    assert feed.asked == 2


def test_the_list_does_not_grow_for_ever(gate: Gate, feed: Feed, clock: Clock) -> None:
    """Of all that comes the newest fifty rows stay."""
    for turn in range(4):
        clock.now += 60_000
        add(gate, *(row(gate, 100 * turn + n, at=clock.now - n) for n in range(21, 46)))
        feed.turn()
    assert len(feed.rows) == 50
    assert feed.rows[0] == "act_321"


def test_nothing_comes_under_the_readers_hand(gate: Gate, feed: Feed) -> None:
    """Rows hold under the pointer, with the focus in them, on a hidden tab and on Pause, and come
    when the reader lets go.
    """
    add(gate, row(gate, 1))
    page = feed.page
    page.locator("[data-feed] tr").first.hover()
    assert feed.turn() == 5000
    page.mouse.move(0, 0)
    page.locator("a.name").last.focus()
    feed.turn()
    page.evaluate("document.activeElement.blur()")
    hide = "Object.defineProperty(document, 'hidden', {get: () => %s, configurable: true})"
    page.evaluate(hide % "true")
    feed.turn()
    page.evaluate(hide % "false")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("Paused", exact=True)).to_be_visible()
    feed.turn()
    assert feed.asked == 0
    assert feed.rows == ["act_10", "act_20"]
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    feed.turn()
    assert feed.rows == ["act_1", "act_10", "act_20"]


def test_it_backs_off(feed: Feed) -> None:
    """Where nothing is to be had it is asked for less and less, down to once a minute, and said;
    then as before.
    """
    feed.page.route("**/activity/rows*", lambda route: route.abort())
    assert [feed.turn() for _ in range(5)] == [10_000, 20_000, 40_000, 60_000, 60_000]
    expect(feed.page.get_by_text("Not reached; trying again")).to_be_visible()
    feed.page.unroute("**/activity/rows*")
    assert feed.turn() == 5000
    expect(feed.page.get_by_text("Live", exact=True)).to_be_visible()


def test_it_ends_with_the_session(feed: Feed) -> None:
    """A page that says that nobody is signed in is not put among the rows."""
    feed.page.route(
        "**/activity/rows*", lambda route: route.fulfill(status=401, body="<p>Signed out</p>")
    )
    assert feed.turn() == 10_000
    assert feed.rows == ["act_10", "act_20"]
    expect(feed.page.get_by_text("Signed out")).to_have_count(0)


def test_the_first_row_comes(gate: Gate, base: str, chromium: Chromium) -> None:
    """Where there were none at all, the page comes with the first; where there were none by the
    filters, what said so goes. Another page that takes its time is said to be waited for.
    """
    feed = Feed(chromium.tab(base))
    page = feed.page
    expect(page.get_by_text("Waiting for the first request")).to_be_visible()
    assert feed.turn() == 5000
    add(gate, row(gate, 100))
    page.evaluate("() => { later.shift()[0](); }")
    expect(page.get_by_role("heading", name="Requests by outcome")).to_be_visible()
    said = page.evaluate(
        """() => {
            const link = document.querySelector("nav.seg a"), main = document.querySelector("main");
            link.href += "&outcome=error";
            link.click();
            later.pop()[0]();
            return [main.ariaBusy, document.getElementById("said").textContent];
        }"""
    )
    assert said == ["true", "Loading"]
    expect(page.get_by_text("Nothing in this time")).to_be_visible()
    feed = Feed(chromium.tab(base), "/activity?outcome=error")
    expect(feed.page.get_by_text("Nothing in this time")).to_be_visible()
    add(gate, row(gate, 1, outcome="error", status=500))
    feed.turn()
    assert feed.rows == ["act_1"]
    expect(feed.page.get_by_text("Nothing in this time")).to_have_count(0)


def test_an_open_row_stays_whole(gate: Gate, base: str, chromium: Chromium, clock: Clock) -> None:
    """What comes does not part an open row from its details."""
    add(gate, row(gate, 10), row(gate, 20))
    place = cursor_at(Place(gate.clock() - 10_000, "act_10"))
    feed = Feed(chromium.tab(base), f"/activity?open={place}")
    add(gate, row(gate, 1), row(gate, 11), row(gate, 12))
    feed.turn()
    assert feed.rows == ["act_1", "act_10", "act_11", "act_12", "act_20"]
    details = feed.page.locator("tr:has(#act_10) + tr")
    expect(details).to_have_class("open")
