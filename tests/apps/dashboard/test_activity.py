"""The page Activity: its figures agree, filters and pages hold to the account, CSV streams."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from html import unescape
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from keyrush import Gate
from keyrush.apps import Dashboard
from keyrush.apps.dashboard.asked import asked
from keyrush.cli.demo import month
from keyrush.core.activity import Activity
from keyrush.core.paging import MAX_LIMIT, Place, cursor_at
from keyrush.core.times import DAY
from keyrush.errors import StoreError
from keyrush.store.opening import activity_of
from tests.apps.dashboard.conftest import app_of
from tests.conftest import Clock, still
from tests.support.calls import Sent, run, scope_of
from tests.support.dashboard import Browser, Page

HOSTILE = "<script>alert(1)</script>\"'&\u202e"


def row(gate: Gate, number: int = 0, **values: Any) -> Activity:
    """A row of `acct_a`, so many seconds ago."""
    found: dict[str, Any] = {
        "id": f"act_{number}",
        "at": gate.clock() - 1000 * number,
        "account_id": "acct_a",
        "credential_id": "cred_x",
        "subject": None,
        "source": "api",
        "method": "GET",
        "path": "/v1/things",
        "rule": "/v1/things",
        "status": 200,
        "outcome": "ok",
        "reason": None,
        "credits": 0,
        "duration": 12_300,
        "request_id": None,
        "address": None,
        "agent": None,
    }
    return Activity(**(found | values))


def add(gate: Gate, *rows: Activity) -> None:
    activity_of(gate.store).add_activity(rows)


def ids(page: Page) -> list[str]:
    """The rows of a page or a fragment, in their order."""
    return re.findall(r'<a class="name"[^>]* id="([^"]+)"', page.text)


def number(text: str) -> int:
    return int(text.replace(",", ""))


def figures(page: Page) -> list[str]:
    """What the cards say."""
    return re.findall(r'<p class="figure">([^<]+)</p>', page.text)


@pytest.mark.parametrize("span", ["1h", "24h", "30d"])
def test_a_first_visit_is_small(filled: Gate, span: str) -> None:
    """O10: the page with the most on it is less than 60 kB with all its files, heads and all."""
    browser = Browser(app_of(Dashboard(filled, account_of=lambda _: month.ACCOUNT)))
    page = browser.get(f"/dashboard/activity?range={span}")
    names = set(re.findall(r'"(/dashboard/static/[^"]+)"', page.text))
    parts = [page, *(browser.get(name, ("accept-encoding", "gzip")) for name in names)]
    heads = sum(len(name) + len(value) + 4 for part in parts for name, value in part.headers)
    assert heads + sum(len(part.body) for part in parts) < 60_000


# --- figures -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def filled() -> Iterator[Gate]:
    """A gate with the made-up month of the demo."""
    gate = still(Gate.open(month.settings(store_url="memory://", limiter_url="memory://")))
    month.fill(gate)
    yield gate
    gate.close()


@pytest.mark.parametrize("span", ["1h", "24h", "7d", "30d", "own"])
@pytest.mark.parametrize(
    "more", [{}, {"outcome": "error"}, {"source": "mcp"}, {"rule": "/v1/search"}]
)
def test_totals_agree(filled: Gate, span: str, more: dict[str, str]) -> None:
    """Cards, legend, the bars' titles, the table beside them and the lists of the most say the
    same, and what the rows come to.
    """
    browser = Browser(app_of(Dashboard(filled, account_of=lambda _: month.ACCOUNT)))
    query = {"range": span} | more
    page = browser.get(f"/dashboard/activity?{urlencode(query)}")
    assert page.status == 200
    of = asked(query, filled.clock())
    rows: Counter[str] = Counter()
    cursor = None
    while True:
        found = filled.activity.page(month.ACCOUNT, of.where, limit=100, cursor=cursor)
        rows.update(one.outcome for one in found)
        cursor = found.cursor
        if cursor is None:
            break
    requests, _, errors, limited, refused = figures(page)
    assert number(requests) == rows.total()
    names = ("ok", "limited", "refused", "error")
    assert [number(one) for one in (errors, limited, refused)] == [
        rows["error"],
        rows["limited"],
        rows["refused"],
    ]
    legend = page.text.partition('<ul class="legend">')[2].partition("</ul>")[0]
    assert [number(text) for text in re.findall(r"<b>([\d,]+)</b>", legend)] == [
        rows[name] for name in names
    ]
    table = re.search(r"<details>.*?</details>", page.text, re.DOTALL)
    assert table is not None
    cells = re.findall(r"<td>([\d,]+)", table[0])
    sums = [sum(number(cell) for cell in cells[place::4]) for place in range(4)]
    assert sums == [rows[name] for name in names]
    titles = re.findall(r'<g class="bin"[^>]*><title>([^<]*)</title>', page.text)
    assert len(titles) == len(of.span.bins) == len(cells) // 4
    words = {"ok": "OK", "limited": "limited", "refused": "refused", "error": "failed"}
    for name, word in words.items():
        counts = re.findall(rf"([\d,]+) {word}", " ".join(titles))
        assert sum(map(number, counts)) == rows[name]
    if rows:
        by_source = page.text.split("By source</h2>")[1].split("</section>")[0]
        assert sum(map(number, re.findall(r"<span>([\d,]+)</span>", by_source))) == rows.total()


def test_changes_are_of_whole_bins(gate: Gate, browser: Browser, clock: Clock) -> None:
    """What is compared is as long as the bins that have ended, and says whether it is well."""
    clock.now += 10 * 60_000  # within a half hour
    add(gate, *(row(gate, n, at=gate.clock() - DAY - 3_600_000) for n in range(10)))
    now = [row(gate, 10 + n, at=gate.clock() - 3_600_000) for n in range(11)]
    add(gate, *now, row(gate, 30, outcome="error", status=500))  # that is in the running bin
    page = browser.get("/dashboard/activity")
    assert figures(page) == ["12", "91.7%", "1", "0", "0"]
    assert "10.0% more than the day before" in page.said
    assert page.said.count("as before") == 4


def test_nothing_yet(browser: Browser) -> None:
    """O10: an account without activity is told what to do next."""
    page = browser.get("/dashboard/activity")
    assert page.status == 200
    assert "Nothing has happened yet" in page.said
    assert "/dashboard/" in page.links


def test_nothing_by_these_filters(gate: Gate, browser: Browser) -> None:
    """Filters that leave nothing say so, and how to get out; the figures are of nothing."""
    add(gate, row(gate))
    page = browser.get("/dashboard/activity?outcome=error")
    assert "Nothing in this time" in page.said
    assert figures(page) == ["0", "–", "0", "0", "0"]  # noqa: RUF001  # a dash
    assert "Clear filters" in page.said


def test_totals_outlive_rows(gate: Gate, browser: Browser) -> None:
    """O20: where rows are gone and totals are kept, the figures stand, and it is said."""
    add(gate, row(gate, is_kept=False))
    page = browser.get("/dashboard/activity")
    assert figures(page)[0] == "1"
    assert "Single requests are kept for a shorter time" in page.said


# --- filters and pages ---------------------------------------------------------------------------


def test_each_filter(gate: Gate, browser: Browser) -> None:
    """Each filter leaves the rows that have what it says, and all of them together."""
    key = gate.keys.create("acct_a", "production").key.id
    add(
        gate,
        row(gate, 1),
        row(gate, 2, credential_id=key),
        row(gate, 3, source="mcp", method="tools/call", rule="audit", path="audit"),
        row(gate, 4, outcome="limited", status=429, reason="rate_limited"),
        row(gate, 5, rule="", path="/elsewhere"),
        row(gate, 6, at=gate.clock() - 40 * DAY),
        row(gate, 7, credential_id=key, outcome="error", status=502, source="dashboard"),
    )

    def found(**query: str) -> list[str]:
        return ids(browser.get(f"/dashboard/activity?{urlencode(query)}"))

    assert found() == ["act_1", "act_2", "act_3", "act_4", "act_5", "act_7"]
    assert found(key=key) == ["act_2", "act_7"]
    assert found(source="mcp") == ["act_3"]
    assert found(outcome="limited") == ["act_4"]
    assert found(rule="audit") == ["act_3"]
    assert found(rule="-") == ["act_5"]
    assert found(key=key, outcome="error", source="dashboard", rule="/v1/things") == ["act_7"]
    assert found(key=key, outcome="ok", source="dashboard") == []
    page = browser.get("/dashboard/activity?rule=audit")
    form = page.form("/dashboard/activity")
    assert dict(form.fields)["rule"] == "audit"
    assert form.method == "get"
    assert "production" in page.said


def test_choices_are_of_the_span_and_by_name(gate: Gate, browser: Browser) -> None:
    """What can be chosen is what there was in the span, also where less of it is shown."""
    key = gate.keys.create("acct_a", "zeta").key.id
    add(gate, row(gate, 1, credential_id=key), row(gate, 2, rule="/other", outcome="error"))
    for path in ("/dashboard/activity", "/dashboard/activity?outcome=error"):
        text = browser.get(path).text
        assert f'<option value="{key}">zeta</option>' in text
        assert '<option value="/other">/other</option>' in text


def test_pages_go_on_where_they_ended(gate: Gate, browser: Browser) -> None:
    """Every row is on one page, newest first, while newer ones come in; the filters stay."""
    add(gate, *(row(gate, n, outcome="error", status=500) for n in range(1, 61)))
    path, seen, pages = "/dashboard/activity?outcome=error", [], 0
    while True:
        page = browser.get(path)
        seen += ids(page)
        add(gate, row(gate, 1000 + pages, at=gate.clock(), outcome="error", status=500))
        pages += 1
        older = [link for link in page.links if "after=" in link and "open=" not in link]
        if not older:
            break
        (path,) = older
        assert "outcome=error" in path
    assert seen == [f"act_{n}" for n in range(1, 61)]
    assert pages == 3
    assert "20 of 63" in browser.get("/dashboard/activity?outcome=error").said


def test_many_rows_are_not_counted(gate: Gate, browser: Browser) -> None:
    """Of more than a thousand rows it is said that there are more."""
    add(gate, *(row(gate, n) for n in range(1001)))
    assert "20 of 1,000+" in browser.get("/dashboard/activity").said


def test_a_row_opens(gate: Gate, browser: Browser) -> None:
    """A row's link opens it on its page, with what came of it and what helps; wherever it is."""
    add(
        gate,
        *(row(gate, n) for n in range(1, 60)),
        row(
            gate, 100, outcome="limited", status=429, reason="rate_limited", duration=0,
            request_id="req-1", address="203.0.113.0/24", agent="curl/8", subject="user-1",
        ),
    )  # fmt: skip
    page = browser.get("/dashboard/activity")
    link = next(link for link in page.links if link.endswith("#act_3"))
    assert "Answered. Nothing was charged." in browser.get(link.partition("#")[0]).said
    place = cursor_at(Place(gate.clock() - 100_000, "act_100"))
    page = browser.get(f"/dashboard/activity?open={place}")
    assert ids(page) == ["act_100"]
    for words in ("The limit of requests was reached.", "Retry-After", "req-1", "203.0.113.0/24"):
        assert words in page.said
    assert "/dashboard/activity" in page.links  # back to the newest


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"credits": 3}, "Answered. 3 credits were charged."),
        ({"outcome": "error", "status": 502}, "The service answered 502."),
        ({"outcome": "error", "status": 404}, "it says what is wrong with the request"),
        ({"outcome": "error", "status": 0}, "The service did not answer."),
        ({"outcome": "refused", "status": 403, "reason": "insufficient_scope"}, "lacks a scope"),
        ({"outcome": "refused", "status": 402, "reason": "insufficient_credits"}, "Top up"),
        ({"outcome": "refused", "status": 418, "reason": "unheard_of"}, "was refused"),
        ({"outcome": "refused", "status": 403, "reason": None}, "was refused"),
    ],
)
def test_what_came_of_it(gate: Gate, browser: Browser, values: dict[str, Any], says: str) -> None:
    """An open row says what came of the request, and what was charged."""
    add(gate, row(gate, 1, **values))
    place = cursor_at(Place(gate.clock() - 1000, "act_1"))
    assert says in browser.get(f"/dashboard/activity?open={place}").said


# --- whose ---------------------------------------------------------------------------------------


def test_nothing_of_others(gate: Gate, browser: Browser) -> None:
    """O6: ids, cursors and places of another account give nothing of it, on page, fragment and
    CSV, and nobody learns whether they are there.
    """
    theirs = gate.keys.create("acct_b", "secret-name").key.id
    add(gate, row(gate, 1))
    others = {"account_id": "acct_b", "credential_id": theirs, "path": "/secret", "rule": "/secret"}
    add(gate, *(row(gate, 10 + n, **others) for n in range(60)))
    place = cursor_at(Place(gate.clock() - 12_000, "act_12"))
    unknown = "cred_" + "0" * 20
    for path in ("/activity", "/activity/rows", "/activity.csv"):
        for query in (f"key={theirs}", f"after={place}", f"open={place}", "rule=/secret"):
            page = browser.get(f"/dashboard{path}?{query}")
            assert page.status == 200
            assert "secret-name" not in page.text
            assert "act_12" not in page.text
            if query != "rule=/secret":
                assert "/secret" not in page.text
        found, missing = (browser.get(f"/dashboard{path}?key={key}") for key in (theirs, unknown))
        tokens = re.compile(r'value="[^"]{20,}"')
        assert tokens.sub("", found.text.replace(theirs, unknown)) == tokens.sub("", missing.text)


def test_names_of_others_are_not_told(gate: Gate, browser: Browser) -> None:
    """A row of one's own that names another account's key does not tell its name."""
    theirs = gate.keys.create("acct_b", "secret-name").key.id
    add(gate, row(gate, 1, credential_id=theirs), row(gate, 2, credential_id="link_gone"))
    page = browser.get("/dashboard/activity")
    assert "secret-name" not in page.text
    assert page.said.count("A key that is gone") == 2


@pytest.mark.parametrize("path", ["/activity", "/activity/rows", "/activity.csv"])
def test_nobody_is_told_anything(gate: Gate, nobody: Browser, path: str) -> None:
    """Who is not signed in gets nothing of it."""
    add(gate, row(gate, 1))
    page = nobody.get(f"/dashboard{path}")
    assert page.status == 401
    assert "act_1" not in page.text


# --- what is sent --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "range=99d",
        "range=",
        "source=carrier-pigeon",
        "outcome=OK",
        "after=zzz",
        "after=MS4gYQ",
        "open=%00",
        "newer=-1",
        "newer=99999999999999999999",
        "newer=\u0662",
        "key=",
        "rule=%00",
        "rule=%ed%a0%80",
        "range=30d&range=1h",
        "x=" + "y" * 9000,
    ],
)
def test_what_cannot_be_meant_stands_for_all(gate: Gate, browser: Browser, query: str) -> None:
    """Values that no page has asked for are as if they were not there, or leave nothing."""
    add(gate, row(gate, 1))
    for path in ("/activity", "/activity/rows", "/activity.csv"):
        page = browser.get(f"/dashboard{path}?{quote(query, safe='=&%')}")
        assert page.status == 200
        assert ("act_1" in page.text) == (not query.startswith("rule="))


@pytest.mark.parametrize(
    "days", ["from=x&to=y", "from=2026-13-01", "from=2026-01-02&to=2026-01-01"]
)
def test_days_that_are_none(gate: Gate, browser: Browser, days: str) -> None:
    """A span that is none is said beside its field, with status 400; what was chosen is kept."""
    add(gate, row(gate, 1))
    page = browser.get(f"/dashboard/activity?range=own&{days}&outcome=ok")
    assert page.status == 400
    assert page.text.index("<title>Error: ")
    assert 'role="alert"' in page.text
    assert 'aria-invalid="true" aria-describedby="wrong"' in page.text
    fields = dict(page.form("/dashboard/activity").fields)
    assert fields["outcome"] == "ok"
    assert browser.get(f"/dashboard/activity.csv?range=own&{days}").status == 400


@pytest.mark.parametrize("path", ["/activity", "/activity/rows", "/activity.csv"])
def test_a_key_in_the_address_is_not_shown(gate: Gate, browser: Browser, path: str) -> None:
    """A whole key where an id is meant is refused, and nothing of it is on the page."""
    text = gate.keys.create("acct_a", "production").text
    page = browser.get(f"/dashboard{path}?key={text}")
    assert page.status == 400
    assert text not in page.text


markup = st.text(st.sampled_from("<>\"'&/=a \x00\u202e\U0001f680%"), min_size=1, max_size=30)


@hypothesis_settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(st.dictionaries(
    st.sampled_from(["range", "from", "to", "key", "source", "outcome", "rule", "after", "open"]),
    markup,
))  # fmt: skip
def test_nothing_of_a_query_is_markup(gate: Gate, browser: Browser, query: dict[str, str]) -> None:
    """Whatever the query says, the page has the same elements."""
    page = browser.get(f"/dashboard/activity?{urlencode(query)}")
    assert page.status in {200, 400}
    assert "<a>" not in page.text
    assert not re.search(r"<[\"'&=%a/]+[ >\x00]", page.text.replace("</a>", "").replace("<a ", ""))


def test_nothing_of_a_row_is_markup(gate: Gate, browser: Browser) -> None:
    """What clients have sent is text, wherever it is shown."""
    link = gate.keys.create("acct_a", "\U0001f680 " + "W" * 100).key.id
    texts = dict.fromkeys(("path", "rule", "agent", "request_id", "subject", "method"), HOSTILE)
    add(gate, row(gate, 1, credential_id=link, outcome="error", **texts))
    place = cursor_at(Place(gate.clock() - 1000, "act_1"))
    page = browser.get(f"/dashboard/activity?open={place}")
    assert "<script>alert" not in page.text
    assert page.text.count("&lt;script&gt;alert(1)") >= 5
    assert "W" * 100 in page.text


# --- newer rows ----------------------------------------------------------------------------------


def feed_of(page: Page) -> str | None:
    found = re.search(r'data-feed="([^"]+)"', page.text)
    return None if found is None else unescape(found[1])


def test_newer_rows(gate: Gate, browser: Browser, clock: Clock) -> None:
    """The fragment has the rows that may be newer, by the same filters, also such as came late."""
    add(gate, row(gate, 1, outcome="error"), row(gate, 30), row(gate, 31, outcome="error"))
    page = browser.get("/dashboard/activity?outcome=error")
    feed = feed_of(page)
    assert feed is not None
    begun = int(re.findall(r'data-from="(\d+)"', page.text)[0])
    assert begun == clock.now
    clock.now += 20_000
    add(gate, row(gate, 2, outcome="error"), row(gate, 22, outcome="error"), row(gate, 3))
    page = browser.get(f"{feed}&newer={begun}")
    assert page.status == 200
    assert ids(page) == ["act_2", "act_1", "act_22"]  # those that were there the script leaves out
    assert page.text.strip().startswith("<tr")
    assert "<html" not in page.text


@pytest.mark.parametrize(
    ("query", "is_live"),
    [
        ("", True),
        ("range=30d", True),
        ("range=own", True),
        ("range=own&from=2026-01-01&to=2026-01-02", False),
        ("after={place}", False),
    ],
)
def test_what_is_live(gate: Gate, browser: Browser, query: str, is_live: bool) -> None:
    """Newer rows come where they belong on top: not to a later page, nor to what has passed."""
    add(gate, *(row(gate, n) for n in range(1, 9)))
    place = cursor_at(Place(gate.clock() - 3000, "act_3"))
    page = browser.get(f"/dashboard/activity?{query.format(place=place)}")
    assert (feed_of(page) is not None) == is_live


# --- CSV -----------------------------------------------------------------------------------------


def read_csv(page: Page) -> list[dict[str, str]]:
    text = page.body.decode("utf-8-sig")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_csv_has_what_the_page_is_of(gate: Gate, browser: Browser) -> None:
    """The CSV has all rows by the page's filters, over all pages, newest first, as plain cells."""
    key = gate.keys.create("acct_a", "=1+1").key.id
    add(gate, *(row(gate, n, outcome="error", status=500) for n in range(250)))
    add(gate, row(gate, 300), row(gate, 400, outcome="error", credential_id=key, agent="@SUM(1)"))
    page = browser.get("/dashboard/activity?outcome=error")
    link = next(link for link in page.links if ".csv" in link)
    page = browser.get(link)
    assert page["content-type"] == "text/csv; charset=utf-8"
    assert page["content-disposition"] == 'attachment; filename="activity-acct_a.csv"'
    assert page["cache-control"] == "no-store"
    found = read_csv(page)
    assert [one["id"] for one in found] == [*(f"act_{n}" for n in range(250)), "act_400"]
    assert (found[-1]["key"], found[-1]["user_agent"]) == ("'=1+1", "'@SUM(1)")
    assert (found[0]["duration_ms"], found[0]["status"]) == ("12.300", "500")


def test_csv_head(gate: Gate, browser: Browser) -> None:
    """HEAD says what GET would, and reads no more than a page."""
    add(gate, row(gate, 1))
    page = browser.get("/dashboard/activity.csv", method="HEAD")
    assert (page.status, page.body) == (200, b"")
    assert page["content-type"] == "text/csv; charset=utf-8"


def csv_app(gate: Gate) -> Any:
    return app_of(Dashboard(gate, account_of=lambda _: "acct_a"))


def test_csv_waits_for_its_reader(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of rows is read when the one before it has been taken: memory is bounded, whatever
    the reader's pace.
    """
    add(gate, *(row(gate, n) for n in range(5 * MAX_LIMIT)))
    reads: list[int] = []
    taken: list[Any] = []
    page = gate.activity.page

    def counted(*args: Any, **options: Any) -> Any:
        reads.append(len(taken))
        return page(*args, **options)

    monkeypatch.setattr(gate.activity, "page", counted)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message.get("body"):
            taken.append(message)

    run(csv_app(gate)(scope_of(Sent("/dashboard/activity.csv")), receive, send))
    assert reads == [0, 2, 3, 4, 5]  # the first before the header and itself are sent


def test_csv_that_breaks_off_is_not_whole(
    gate: Gate, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can't be read to its end breaks the answer off; what can't be begun is a page."""
    add(gate, *(row(gate, n) for n in range(2 * MAX_LIMIT)))
    page = gate.activity.page

    def broken(*args: Any, cursor: str | None = None, **options: Any) -> Any:
        if cursor is not None:
            raise StoreError("the store can't answer")
        return page(*args, cursor=cursor, **options)

    monkeypatch.setattr(gate.activity, "page", broken)
    with pytest.raises(BaseException) as raised:  # noqa: PT011  # a group of it, by starlette
        browser.get("/dashboard/activity.csv")
    found = raised.value
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, StoreError)


def test_the_store_is_away(gate: Gate, browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can't be read is said, with a reference, and status 503."""

    def broken(*args: Any, **options: Any) -> Any:
        raise OSError("no route")

    monkeypatch.setattr(activity_of(gate.store), "activity_totals", broken)
    page = browser.get("/dashboard/activity")
    assert page.status == 503
    assert "This can’t be read just now" in page.said  # noqa: RUF001  # as it is written


def test_links_are_under_the_mount(gate: Gate, browser: Browser) -> None:
    """All links are paths under the mount, and keep span and filters."""
    add(gate, *(row(gate, n, source="mcp") for n in range(1, 40)))
    page = browser.get("/dashboard/activity?range=7d&source=mcp")
    for link in page.links:
        assert link.startswith(("/dashboard/", "#"))
    assert {*page.links} >= {"/dashboard/activity?range=30d&source=mcp"}
    kept = [parse_qs(urlsplit(link).query) for link in page.links if "open=" in link]
    assert len(kept) == 20
    assert all((one["range"], one["source"]) == (["7d"], ["mcp"]) for one in kept)
