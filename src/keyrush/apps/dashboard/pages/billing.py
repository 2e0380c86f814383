"""Billing: what the plan includes and how much of it is used, the balance, and every change of it.
Nothing is paid here: there is a link to where the provider takes money.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import NamedTuple

from markupsafe import Markup
from starlette.responses import Response

from keyrush.apps.dashboard.asked_ledger import LedgerAsked, asked_of_ledger
from keyrush.apps.dashboard.bill import Bill, bill
from keyrush.apps.dashboard.callers import names
from keyrush.apps.dashboard.charts import Month, Named, meter, month
from keyrush.apps.dashboard.endpoints import page
from keyrush.apps.dashboard.pace import FILE, READING
from keyrush.apps.dashboard.ranges import is_day
from keyrush.apps.dashboard.sheets import streamed
from keyrush.apps.dashboard.visit import Stop, Visit
from keyrush.apps.dashboard.wording import limit_in_words
from keyrush.core.ledger import Entry
from keyrush.core.model import Account, Plan
from keyrush.core.paging import MAX_LIMIT, Page
from keyrush.core.policy import Rule
from keyrush.core.times import iso
from keyrush.errors import InvalidArgument
from keyrush.gate.gate import Gate
from keyrush.operations.credits import REASONS, SOURCES

#: Entries of a page.
_ENTRIES = 25


class _Found(NamedTuple):
    """All that the page shows, as the store has it."""

    bill: Bill
    entries: Page[Entry]
    names: dict[str, str]
    has_credits: bool


def _entries(gate: Gate, account: Account, of: LedgerAsked) -> Page[Entry]:
    if of.wrong is not None:
        return Page(())
    read = _reading(gate, account, of)
    try:
        return read(limit=_ENTRIES, cursor=of.after)
    except InvalidArgument:  # no place in the ledger: the newest are shown
        return read(limit=_ENTRIES)


def _reading(gate: Gate, account: Account, of: LedgerAsked) -> Callable[..., Page[Entry]]:
    """What reads a page of the entries that are asked for, by `limit` and `cursor`."""
    where = of.where
    return partial(
        gate.credits.of(account).ledger,
        account.id,
        reasons=where.reasons,
        sources=where.sources,
        since=where.since,
        until=where.until,
    )


async def show(visit: Visit) -> Response:
    """The page."""
    of = asked_of_ledger(visit.request.query_params)
    gate, account = visit.gate, visit.account

    def read() -> _Found:
        entries = _entries(gate, account, of)
        found = bill(gate, account, visit.now)
        has_credits = bool(
            entries
            or found.balance
            or any(rule.credits for rule in gate.catalog.tools.values())
            or (found.plan is not None and found.plan.credits_per_month)
        )
        ids = (entry.by.credential_id for entry in entries)
        return _Found(found, entries, names(gate, account.id, ids), has_credits)

    found = await visit.run(read)
    words = _Words(visit, found.bill)
    kept = of.query
    return visit.render(
        "billing.html",
        status=200 if of.wrong is None else 400,
        asked=of,
        found=found,
        bill=found.bill,
        words=words,
        limit=found.bill.limit and limit_in_words(visit, found.bill.limit),
        chart=words.chart(),
        month_meter=words.month_meter(),
        window_meter=words.window_meter(),
        tools=_tools(gate.catalog.tools),
        reasons=[(one, visit.t(f"reasons.{one}")) for one in REASONS],
        sources=[(one, visit.t(f"sources.{one}")) for one in SOURCES],
        is_day=is_day,
        is_paged=of.after is not None,
        newest=visit.path("/billing", **kept),
        older=(
            None
            if found.entries.cursor is None
            else visit.path("/billing", **kept, after=found.entries.cursor)
        ),
        csv=visit.path("/billing.csv", **kept),
        top_up=gate.settings.dashboard_top_up_url,
        plans=gate.settings.dashboard_plans_url,
    )


def _tools(tools: Mapping[str, Rule]) -> Sequence[tuple[str, Rule]]:
    return sorted(tools.items(), key=lambda one: (-one[1].credits, one[0]))


class _Words:
    """A bill in the page's language."""

    def __init__(self, visit: Visit, bill: Bill) -> None:
        self._visit, self._bill = visit, bill
        self._t, self._number = visit.t, visit.formats.number

    @property
    def over(self) -> int | None:
        """How many requests there will be above what is included, at this pace."""
        found = self._bill.month
        if found is None or found.limit is None or self._bill.projected is None:
            return None
        return max(0, self._bill.projected - found.limit) or None

    @property
    def price(self) -> str | None:
        """What 1,000 requests cost above the quota."""
        price = self._bill.usage.overage_price
        return None if price is None else self._money(price)

    @property
    def cost(self) -> str | None:
        """What the month will cost above the quota, at this pace; as far as it is known."""
        price, over = self._bill.usage.overage_price, self.over
        if price is None or over is None or self._bill.month is None or self._bill.month.id:
            return None
        return self._money(price * over / 1000)

    def _money(self, amount: Decimal) -> str:
        return self._t("formats.money", amount=self._visit.formats.decimal(amount, 2))

    def plan(self, plan: Plan) -> list[str]:
        """What the plan includes, in sentences."""
        t, account = self._t, self._visit.account
        own, override = account.limits_at(self._visit.now), account.override_at(self._visit.now)
        said: list[str] = [
            t(f"billing.limit_{plan.per}", limit=limit_in_words(self._visit, limit))
            for limit in (plan.limits if own is None else own)
        ] or [t("billing.no_limit")]
        if override is not None:
            when = self._visit.formats.moment(override.until)
            said.append(t("billing.limits_until", when=when))
        if plan.max_concurrent is not None:
            n = self._number(plan.max_concurrent)
            said.append(t("billing.max_concurrent", n=n))
        if plan.quota is None:
            said.append(t("billing.no_quota"))
        else:
            amount = self._number(plan.quota.amount)
            said.append(t(f"billing.quota_{plan.quota_per}", n=amount))
            if plan.quota.on_exceed == "block":
                said.append(t("billing.blocked"))
            elif self.price is not None:
                said.append(t("billing.then", price=self.price))
        if plan.credits_per_month is not None:
            monthly = plan.credits_per_month
            said.append(t(f"billing.monthly_{monthly.mode}", n=self._number(monthly.amount)))
        if plan.modules:
            said.append(t("billing.modules", names=", ".join(sorted(plan.modules))))
        said.append(t("billing.max_keys", n=self._number(plan.max_keys)))
        return said

    def chart(self) -> Markup:
        """The month as a line, with what is included where that is the account's."""
        found, formats, t = self._bill, self._visit.formats, self._t
        is_account = found.month is not None and found.month.id is None
        quota = found.month.limit if found.month is not None and is_account else None
        ahead = found.projected if is_account or found.month is None else None
        begins = formats.long_day(self._visit.now - int(found.elapsed * 86_400_000))
        says = t("billing.chart_says", n=self._number(found.usage.counted), day=len(found.line))
        if ahead is not None:
            says += t("billing.chart_ahead", n=self._number(ahead))
        if quota is not None:
            says += t("billing.chart_quota", n=self._number(quota))
        return month(
            Month(found.line, found.days, found.elapsed, quota, ahead),
            Named("month", t("billing.chart", day=begins), says),
            formats.compact,
            "" if quota is None else t("billing.included", n=self._number(quota)),
        )

    def month_meter(self) -> tuple[str, Markup] | None:
        """The month's meter, and what it says."""
        found = self._bill.month
        if found is None or found.limit is None:
            return None
        says = self._t(
            "billing.month_says", used=self._number(found.used), limit=self._number(found.limit)
        )
        if self._bill.projected is not None:
            says += self._t("billing.month_ahead", n=self._number(self._bill.projected))
        return says, meter(found.used, found.limit, ahead=self._bill.projected)

    def window_meter(self) -> tuple[str, Markup] | None:
        """The meter of the last minute, or whatever the limit's length is."""
        found = self._bill.window
        if found is None or found.limit is None:
            return None
        says = self._t(
            "billing.window_says", used=self._number(found.used), limit=self._number(found.limit)
        )
        return says, meter(min(found.used, found.limit), found.limit)


_COLUMNS = (
    "number", "time", "reason", "credits", "balance", "source", "key_id", "key", "subject",
    "rule", "reference", "reverses", "note", "expires_at",
)  # fmt: skip


async def download(visit: Visit) -> Response:
    """The ledger, as far as the filters go, as CSV."""
    gate, account_id = visit.gate, visit.account_id
    of = asked_of_ledger(visit.request.query_params)
    if of.wrong is not None:
        raise Stop("bad_query", 400)
    entries = _reading(gate, visit.account, of)
    known: dict[str, str] = {}

    def read(cursor: str | None) -> Page[Entry]:
        found = entries(limit=MAX_LIMIT, cursor=cursor)
        if len(known) > MAX_LIMIT:  # of an account with very many keys, not all are kept in mind
            known.clear()
        ids = {entry.by.credential_id for entry in found} - known.keys()
        known.update(names(gate, account_id, ids))
        return found

    def written(entry: Entry) -> Sequence[object]:
        by = entry.by
        return (
            entry.number, iso(entry.at), entry.reason, entry.amount, entry.balance, by.source,
            by.credential_id, known.get(by.credential_id or ""), by.subject, by.rule,
            entry.reference, entry.reverses, entry.note, iso(entry.expires_at),
        )  # fmt: skip

    try:
        return await streamed(
            visit,
            f"credits-{account_id}",
            _COLUMNS,
            lambda cursor: visit.run(read, cursor),
            written,
        )
    except InvalidArgument:
        raise Stop("bad_query", 400) from None


ROUTES = [
    page("/billing", show, cost=READING),
    page("/billing.csv", download, cost=FILE),
]
