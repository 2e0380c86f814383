"""The page Billing: the plan, meters, the month's line, balance, ledger and prices."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from keyrush import Gate
from keyrush.apps import Dashboard
from keyrush.core.identity import account_subject, key_subject
from keyrush.core.ledger import By, Source
from keyrush.core.times import DAY, iso, month_bounds, month_of
from tests.apps.dashboard.conftest import app_of
from tests.apps.dashboard.test_activity import HOSTILE, add, row
from tests.conftest import Clock, settings, still
from tests.support.dashboard import Browser, Page

TOOLS = [
    {"path": "/v1/tools/audit", "tool": "audit", "credits": 3},
    {"path": "/v1/tools/export", "tool": "export", "credits": 0},
    {"path": "/mcp", "mcp": "tools/call", "tool": "audit", "credits": 5},
]
MCP = {
    "path": "/mcp",
    "resource": "https://api.example.com/mcp",
    "authorization_servers": ["https://login.example.com"],
}


@pytest.fixture
def opened() -> Iterator[list[Gate]]:
    """Gates to close at the end."""
    gates: list[Gate] = []
    yield gates
    for gate in gates:
        gate.close()


def seen(opened: list[Gate], clock: Clock, plan: dict[str, Any], **more: Any) -> Browser:
    """The browser of `acct_a`, which is on a plan."""
    gate = still(Gate.open(settings(plans={"starter": plan}, **more), clock=clock))
    opened.append(gate)
    gate.accounts.create("acct_a")
    gate.accounts.create("acct_b")
    return Browser(app_of(Dashboard(gate, account_of=lambda _: "acct_a")))


def billed(browser: Browser, query: str = "") -> Page:
    page = browser.get(f"/dashboard/billing{query}")
    assert page.status == 200, page.said
    return page


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        ({"limits": "100/minute"}, "100 requests a minute for each key. As many requests a month"),
        ({"limits": "1/hour", "per": "account"}, "1 request an hour, all keys together."),
        ({"limits": "5/10second"}, "5 requests in 10 seconds for each key."),
        ({}, "No limit of requests."),
        ({"monthly_quota": 5000}, "5,000 requests a month for each key. Up to 50 active keys."),
        ({"monthly_quota": 5000, "per": "account"}, "5,000 requests a month. Up to"),
        (
            {"monthly_quota": 5000, "overage_price": "0.50"},
            "5,000 requests a month for each key. Above that, $0.50 for 1,000.",
        ),
        ({"monthly_quota": 5000, "on_exceed": "block"}, "Above that, requests are refused."),
        ({"modules": ["b", "a"]}, "With a, b."),
        ({"max_keys": 1200}, "Up to 1,200 active keys."),
        ({"credits_per_month": {"amount": 1000}}, "1,000 credits each month, to be used in it."),
        (
            {"credits_per_month": {"amount": 1000, "mode": "add"}},
            "1,000 credits each month, which add up.",
        ),
    ],
)
def test_what_the_plan_includes(
    opened: list[Gate], clock: Clock, plan: dict[str, Any], says: str
) -> None:
    """R6, R13: the plan is said in sentences, whatever it has."""
    assert says in billed(seen(opened, clock, plan)).said


def test_own_limits_are_said(opened: list[Gate], clock: Clock) -> None:
    """O13: an account with limits of its own is told these."""
    browser = seen(opened, clock, {"limits": "100/minute"})
    opened[0].store.set_account_limits("acct_a", opened[0].catalog.plans["starter"].limits * 0)
    assert "No limit of requests." in billed(browser).said


def test_limits_for_a_time_are_said(opened: list[Gate], clock: Clock) -> None:
    """O13: an override is told with its end, in place of all others, for as long as it holds."""
    browser = seen(opened, clock, {"limits": "100/minute", "max_concurrent": 10})
    until = clock.now + 60_000
    opened[0].accounts.set_limits("acct_a", "900/minute", until=until)
    said = billed(browser).said
    assert "900 requests a minute for each key. That holds until 18 Nov 2026, " in said
    assert "10 requests at once for each key." in said
    clock.now = until
    said = billed(browser).said
    assert "100 requests a minute for each key." in said
    assert "holds until" not in said


# --- the month -----------------------------------------------------------------------------------


def at_day(clock: Clock, day: int) -> int:
    """The clock at noon of a day of its month; when that began."""
    begin = month_bounds(clock.now)[0]
    clock.now = begin + (day - 1) * DAY + DAY // 2
    return begin


def counted(gate: Gate, clock: Clock, **counts: int) -> None:
    gate.store.add_usage(
        month_of(clock.now),
        {account_subject("acct_a"): sum(counts.values())}
        | {key_subject(name): count for name, count in counts.items()},
    )


def test_a_quota_of_the_account(opened: list[Gate], clock: Clock) -> None:
    """R13: used, included, where it goes at this pace, and what that costs."""
    plan = {"monthly_quota": 1000, "quota_per": "account", "overage_price": "0.50"}
    browser = seen(opened, clock, plan)
    at_day(clock, 16)
    counted(opened[0], clock, cred_x=900)
    days = (month_bounds(clock.now)[1] - month_bounds(clock.now)[0]) // DAY
    ahead = 900 * days * 2 // 31
    page = billed(browser)
    assert "900 of 1,000 included" in page.said
    assert f"{ahead - 1000:,} over by month’s end" in page.said  # noqa: RUF001  # as it is written
    assert "it is $0.50 for 1,000 requests" in page.said
    assert f"about ${(ahead - 1000) * 0.0005:.2f} this month" in page.said
    meter = re.search(r'role="meter" aria-labelledby="mo"[^>]*', page.text)
    assert meter is not None
    assert 'aria-valuemax="1000" aria-valuenow="900"' in meter[0]
    assert f"900 of 1,000 included; {ahead:,} expected" in meter[0]


def test_a_quota_that_is_used_up(opened: list[Gate], clock: Clock) -> None:
    """R13: what is above the quota is said, and the meter stays one."""
    browser = seen(opened, clock, {"monthly_quota": 100, "quota_per": "account"})
    counted(opened[0], clock, cred_x=250)
    page = billed(browser)
    assert "250 of 100 included" in page.said
    assert "150 above what is included" in page.said
    assert 'aria-valuemax="250" aria-valuenow="250"' in page.text
    assert "Nothing is blocked above what is included." in page.said


def test_a_quota_of_each_key(opened: list[Gate], clock: Clock) -> None:
    """R12: where each key has its own, the account's count is said, and the key that has used the
    most of its own; test keys have used nothing.
    """
    plan = {"monthly_quota": 100}
    browser = seen(opened, clock, plan, unmetered_environments=("test",))
    gate = opened[0]
    busy, quiet = (gate.keys.create("acct_a", name).key.id for name in ("busy", "quiet"))
    test = gate.keys.create("acct_a", "sandbox", environment="test").key.id
    counted(gate, clock, **{busy: 70, quiet: 20})
    add(
        gate,
        *(row(gate, n, credential_id=busy) for n in range(3)),
        row(gate, 5, credential_id=quiet),
    )
    add(gate, *(row(gate, 10 + n, credential_id=test) for n in range(9)))
    page = billed(browser)
    assert re.search(r'<p class="figure">90 ', page.text)
    assert "Busiest key, busy: 70 of 100" in page.said
    assert "included</small>" not in page.text


def test_the_months_line_ends_at_its_count(opened: list[Gate], clock: Clock) -> None:
    """The table of the month climbs to the count, day by day as activity says, without what was
    refused or of test keys.
    """
    browser = seen(opened, clock, {}, unmetered_environments=("test",))
    gate = opened[0]
    begin = at_day(clock, 3)
    test = gate.keys.create("acct_a", "sandbox", environment="test").key.id
    counted(gate, clock, cred_x=100)
    days = [begin + day * DAY + 1000 for day in range(3)]
    for day, requests in enumerate((20, 5, 2)):
        add(gate, *(row(gate, 100 * day + n, at=days[day]) for n in range(requests)))
    add(gate, *(row(gate, 900 + n, at=days[2], credential_id=test) for n in range(7)))
    gate.store.add_usage(month_of(clock.now), {}, used={test: clock.now})
    add(gate, row(gate, 990, at=days[2], outcome="limited", status=429))
    page = billed(browser)
    table = page.text.split("Requests so far")[1].split("</table>")[0]
    assert re.findall(r'<td class="num">(\d+)</td>', table) == ["93", "98", "100"]
    assert "The count reached 100 on day 3." in page.text


def test_the_last_minute(opened: list[Gate], clock: Clock) -> None:
    """R6: the minute is as the gate counts windows, of the key that has used the most."""
    browser = seen(opened, clock, {"limits": "100/minute"})
    gate = opened[0]
    clock.now = clock.now // 60_000 * 60_000 + 45_000
    busy, other = (gate.keys.create("acct_a", name).key.id for name in ("busy", "other"))
    own = gate.keys.create("acct_a", "own", limits="500/minute").key.id
    before = [row(gate, 60 + n, credential_id=busy, at=clock.now - 60_000) for n in range(40)]
    now = [row(gate, 200 + n, credential_id=busy, at=clock.now - 1000) for n in range(7)]
    add(gate, *before, *now)
    add(gate, *(row(gate, 300 + n, credential_id=other, at=clock.now) for n in range(16)))
    add(gate, *(row(gate, 400 + n, credential_id=own, at=clock.now) for n in range(90)))
    add(gate, row(gate, 600, credential_id=busy, at=clock.now, outcome="limited", status=429))
    page = billed(browser)
    assert "This minute 17 of 100" in page.said  # 7, and a quarter of 40
    assert "Busiest key, busy." in page.said
    assert "Above 100 requests a minute, requests get 429" in page.said


def test_the_last_hour_of_an_account(opened: list[Gate], clock: Clock) -> None:
    """O13: where the account has one window, it is that; limits of seconds have no meter."""
    browser = seen(opened, clock, {"limits": "5/second;300/hour", "per": "account"})
    add(opened[0], *(row(opened[0], n) for n in range(3)))
    assert "This hour 3 of 300" in billed(browser).said
    browser = seen(opened, clock, {"limits": "5/second"})
    said = billed(browser).said
    assert "The last" not in said
    assert "This" not in said
    said = billed(seen(opened, clock, {"limits": "5/2minute"})).said
    assert "The last 2 minutes 0 of 5" in said
    assert "Busiest" not in said  # nobody is, where nobody has sent anything


# --- credits -------------------------------------------------------------------------------------


@pytest.fixture
def paying(opened: list[Gate], clock: Clock) -> Browser:
    """The browser of an account with tools to pay for."""
    return seen(opened, clock, {}, rules=TOOLS, resources=[MCP])


def test_no_credits_where_there_are_none(opened: list[Gate], clock: Clock) -> None:
    """Where nothing costs credits and nobody has any, nothing is said of them."""
    page = billed(seen(opened, clock, {}))
    assert "Balance" not in page.said
    assert "Credits in and out" not in page.said
    assert "What tools cost" not in page.said


def test_an_empty_ledger(paying: Browser) -> None:
    """O10: without credits it is said what they are for."""
    page = billed(paying)
    assert "No credits have moved" in page.said
    assert "0 credits" in page.said


def test_prices(paying: Browser) -> None:
    """O7: tools with what they cost at most, as the capabilities say it, the dearest first."""
    table = billed(paying).text.split("What tools cost")[1]
    assert re.findall(r'<code class="name">([^<]+)</code>', table) == ["audit", "export"]
    assert re.findall(r'class="num">([^<]+)</td>', table) == ["5", "Free"]


def entries(page: Page) -> list[str]:
    """The amounts of the ledger's rows."""
    table = page.text.split("Credits in and out")[1].split("What tools cost")[0]
    return re.findall(r'class="num(?: plus)?">([^<]+)</td><td', table)


def test_the_ledger(paying: Browser, opened: list[Gate], clock: Clock) -> None:
    """O11, O19: every change with its reason, who it is of, and the balance after it."""
    gate = opened[0]
    key = gate.keys.create("acct_a", "production").key.id
    gate.credits.add("acct_a", 1000, reason="top_up", reference="inv_42", note="Invoice 42")
    by = By("api", key, None, "audit")
    gate.store.charge("acct_a", 10, "ref_1", clock.now, by)
    gate.store.reverse("acct_a", "ref_1", clock.now)
    gate.credits.add("acct_a", -90, reason="adjustment")
    gate.credits.add("acct_a", 5, expires_at=clock.now + 30 * DAY)
    page = billed(paying)
    assert entries(page) == ["+5", "\u221290", "+10", "\u221210", "+1,000"]
    for words in (
        "Top-up Invoice 42 inv_42",
        "Charge audit",
        "API key · production",
        "Reversal audit of ref_1",
        "until ",
        "Support",
    ):
        assert words in page.said
    assert re.findall(r'<p class="figure">([\d,]+) <small>credits', page.text) == ["915"]


def test_what_expires_is_said(paying: Browser, opened: list[Gate], clock: Clock) -> None:
    """O19: what is left of credits that expire is told beside the balance by day, the soonest
    three, and not what is used or gone.
    """
    credits, begin = opened[0].credits, clock.now // DAY * DAY
    assert "expire" not in billed(paying).said
    for days, amount in ((1, 7), (2, 90), (2, 11), (3, 1), (40, 1000), (50, 5)):
        credits.add("acct_a", amount, expires_at=begin + days * DAY)
    credits.add("acct_a", 1)
    opened[0].store.charge("acct_a", 17, "ref_1", clock.now)
    said = billed(paying).said
    assert "91 expire on 20 Nov 2026 . 1 expires on 21 Nov 2026 . 1,000 expire on 28 Dec" in said
    clock.now = begin + 3 * DAY
    said = billed(paying).said
    assert "1,000 expire on 28 Dec 2026 . 5 expire on 7 Jan 2027" in said
    assert said.count("expire on") == 2


def test_the_ledger_by_reason(paying: Browser, opened: list[Gate], clock: Clock) -> None:
    """A reason leaves the entries for it; one that is none leaves all."""
    gate = opened[0]
    gate.credits.add("acct_a", 100)
    gate.store.charge("acct_a", 7, "ref_1", clock.now)
    assert entries(billed(paying, "?reason=charge")) == ["\u22127"]
    assert entries(billed(paying, "?reason=bribe")) == ["\u22127", "+100"]
    page = billed(paying, "?reason=expiry")
    assert "Nothing by these filters" in page.said
    assert ("reason", "expiry") in page.form("/dashboard/billing").fields


def test_the_ledger_by_door_and_day(paying: Browser, opened: list[Gate], clock: Clock) -> None:
    """O20: the door, the days and the reason hold together, days in UTC and both in it, also in
    the links to older entries and in the CSV; a day that is none is said, and nothing is listed.
    """
    gate = opened[0]
    gate.credits.add("acct_a", 9000)
    begin = clock.now
    both: list[Source] = ["api", "mcp"]
    doors: list[Source] = [*both * 30, "dashboard"]
    for number, source in enumerate(doors):
        clock.now = begin + number * DAY // 10
        gate.store.charge("acct_a", number + 1, f"c{number}", clock.now, By(source))
    day = [f"{datetime.fromtimestamp(begin / 1000 + n * 86_400, UTC):%Y-%m-%d}" for n in range(4)]
    assert entries(billed(paying, "?source=dashboard")) == ["\u221261"]
    assert entries(billed(paying, "?source=operator")) == ["+9,000"]
    assert len(entries(billed(paying, "?source=elsewhere"))) == 25
    query = f"?reason=charge&source=mcp&from={day[1]}&to={day[2]}"
    page = billed(paying, query)
    wanted = [
        f"\u2212{n + 1}"
        for n in reversed(range(60))
        if n % 2 and (iso(begin + n * DAY // 10) or "")[:10] in day[1:3]
    ]
    assert entries(page) == wanted
    assert {("source", "mcp"), ("from", day[1]), ("to", day[2])} <= {
        *page.form("/dashboard/billing").fields
    }
    (csv,) = (link for link in page.links if "billing.csv" in link)
    assert paying.get(csv).text.count(",charge,") == len(wanted)
    (older,) = (link for link in billed(paying, f"?to={day[3]}").links if "after=" in link)
    assert f"to={day[3]}" in older
    for wrong in ("?from=2026-02-30", "?to=soon", f"?from={day[2]}&to={day[1]}"):
        page = paying.get(f"/dashboard/billing{wrong}")
        assert page.status == 400
        assert "No entries are shown" in page.said
        assert entries(page) == []
        assert paying.get(f"/dashboard/billing.csv{wrong}").status == 400


def test_the_ledgers_pages(paying: Browser, opened: list[Gate], clock: Clock) -> None:
    """Every entry is on one page, newest first, while others are made; the reason stays."""
    gate = opened[0]
    gate.credits.add("acct_a", 10_000)
    for number in range(60):
        gate.store.charge("acct_a", number + 1, f"ref_{number}", clock.now)
    path, found = "/dashboard/billing?reason=charge", []
    while True:
        page = paying.get(path)
        found += entries(page)
        gate.store.charge("acct_a", 99, f"late_{len(found)}", clock.now)
        older = [link for link in page.links if "after=" in link]
        if not older:
            break
        (path,) = older
        assert "reason=charge" in path
    assert found == [f"\u2212{number + 1}" for number in reversed(range(60))]
    assert billed(paying, "?after=x").status == 200
    assert entries(billed(paying, "?after=0"))[0] == "\u221299"


def test_ledgers_of_others(paying: Browser, opened: list[Gate]) -> None:
    """O6: no cursor brings an entry of another account."""
    gate = opened[0]
    for number in range(9):
        gate.credits.add("acct_b", 7777, reference=f"theirs_{number}")
    gate.credits.add("acct_a", 1)
    for query in ("", "?after=9", "?after=5", "?reason=grant&after=7"):
        assert "theirs" not in billed(paying, query).text
        assert "theirs" not in paying.get(f"/dashboard/billing.csv{query}").text


def test_how_long_it_lasts(paying: Browser, opened: list[Gate], clock: Clock) -> None:
    """The balance is said to last as long as the last seven days would have it."""
    gate = opened[0]
    clock.now = clock.now // DAY * DAY + DAY - 1000
    gate.credits.add("acct_a", 610)
    assert "None were spent in the last 7 days." in billed(paying).said
    add(gate, row(gate, 1, credits=60, at=clock.now - 3 * DAY))
    add(gate, row(gate, 2, credits=40, at=clock.now))
    add(gate, row(gate, 3, credits=5000, at=clock.now - 9 * DAY))
    assert "enough for about 6 weeks" in billed(paying).said


def test_the_ledger_as_csv(paying: Browser, opened: list[Gate], clock: Clock) -> None:
    """The CSV has every entry by the reason, over all pages, numbers as numbers."""
    gate = opened[0]
    gate.credits.add("acct_a", 10_000, note="=1+1")
    for number in range(150):
        gate.store.charge("acct_a", 1, f"ref_{number}", clock.now)
    page = billed(paying)
    link = next(link for link in page.links if ".csv" in link)
    page = paying.get(link)
    assert page["content-disposition"] == 'attachment; filename="credits-acct_a.csv"'
    text = page.body.decode("utf-8-sig")
    found = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [one["number"] for one in found] == [str(number) for number in range(151, 0, -1)]
    assert sum(int(one["credits"]) for one in found) == int(found[0]["balance"]) == 9850
    assert found[-1]["note"] == "'=1+1"
    page = paying.get("/dashboard/billing.csv?reason=grant")
    assert page.text.count("\r\n") == 2


def test_nothing_of_an_entry_is_markup(paying: Browser, opened: list[Gate], clock: Clock) -> None:
    """What clients or others have named is text."""
    gate = opened[0]
    gate.credits.add("acct_a", 10)
    gate.store.charge(
        "acct_a", 1, f"ref{HOSTILE}", clock.now, By("api", "cred_x", HOSTILE, HOSTILE)
    )
    page = billed(paying)
    assert "<script>alert" not in page.text
    assert "&lt;script&gt;alert(1)" in page.text


def test_top_up(opened: list[Gate], clock: Clock) -> None:
    """There is a link to where the provider takes money, where there is one."""
    url = "https://pay.example.com/topup"
    plans = url.replace("pay", "plans")
    page = billed(seen(opened, clock, {}, dashboard_top_up_url=url, dashboard_plans_url=plans))
    assert {url, plans} <= {*page.links}
    said = billed(seen(opened, clock, {})).said
    assert "Top up" not in said
    assert "Compare plans" not in said


def test_nobody_is_told_anything(nobody: Browser) -> None:
    """Who is not signed in gets nothing of it."""
    for path in ("/billing", "/billing.csv"):
        assert nobody.get(f"/dashboard{path}").status == 401
