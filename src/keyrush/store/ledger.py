"""The ledger of a SQL store: entries, and how each account stands after them.

By the driver, below SQLAlchemy, whose part in a charge would cost more than all the rest. What
changes an account's ledger holds the lock of its row from the beginning, so that numbers have no
gap and balances carry on; on SQLite that is the lock of the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, get_args

from keyrush.core import ledger
from keyrush.core.ledger import (
    Audited,
    By,
    Discrepancy,
    Entry,
    EntryPlace,
    EntryWhere,
    Lot,
    Posted,
    Posting,
    Reason,
    Refill,
    Standing,
)
from keyrush.core.times import SECOND
from keyrush.sql.engine import Database
from keyrush.sql.tables import IS_ADDED, IS_REVERSAL
from keyrush.store.protocol import MAX_WRONG

#: What runs a statement, with "?" for each value.
Run = Callable[[str, Sequence[Any]], Any]

_COLUMNS = (
    *("account_id", "number", "at", "amount", "balance", "reason", "reference", "reverses"),
    *("source", "credential_id", "subject", "rule", "request_id", "note", "expires_at", "taken"),
)
_LISTED = ", ".join(_COLUMNS)
_MARKS = ", ".join("?" * len(_COLUMNS))

# Of S608: nothing in these comes from a request; every name is a table's or a column's.
_INSERT = f"INSERT INTO keyrush_ledger ({_LISTED}) VALUES ({_MARKS})"  # noqa: S608
_NAMED = f"SELECT {_LISTED} FROM keyrush_ledger WHERE account_id = ? AND reference = ?"  # noqa: S608

_REVERSED = "SELECT 1 FROM keyrush_ledger WHERE account_id = ? AND reverses = ?"

_STANDING = "SELECT balance, entries, refilled, next_expiry FROM keyrush_accounts WHERE id = ?"

_LOTS = """
    SELECT expires_at, number, remaining FROM keyrush_lots WHERE account_id = ?
    ORDER BY expires_at, number
"""

_STAND = """
    UPDATE keyrush_accounts SET balance = ?, entries = ?, refilled = ?, next_expiry = ?
    WHERE id = ?
"""

_KEEP_LOT = """
    INSERT INTO keyrush_lots (expires_at, number, remaining, account_id) VALUES (?, ?, ?, ?)
    ON CONFLICT (account_id, number) DO UPDATE SET remaining = excluded.remaining
"""

_DROP_LOT = "DELETE FROM keyrush_lots WHERE account_id = ? AND number = ?"


def runner(execute: Callable[[str, Sequence[Any]], Any], dialect: str) -> Run:
    """What runs a statement on the connection of `execute`."""
    if dialect == "sqlite":
        return execute
    return lambda statement, values: execute(statement.replace("?", "%s"), values)


# --- changes, in a transaction -------------------------------------------------------------------


def open_ledger(run: Run, account_id: str, balance: int, at: int) -> None:
    """Enter the balance that a new account has been added with."""
    if balance:
        posting = Posting(balance, "adjustment", at, ledger.OPENING, by=ledger.SYSTEM)
        opened = ledger.post(Standing(account_id), posting)
        assert opened is not None  # noqa: S101  # no balance is negative
        _keep(run, Standing(account_id), opened)


def charge(
    run: Run,
    account_id: str,
    credits: int,
    reference: str,
    *,
    at: int,
    by: By,
    refill: Refill | None,
) -> int | None:
    """`Store.charge`, on SQLite; `keyrush_charge` is the same in one statement."""
    standing = _settled(run, account_id, at, refill, locked="")
    if standing is None or not credits:
        return None if standing is None else standing.balance
    name = account_id, reference
    if run(_REVERSED, name).fetchone():
        return None
    if run(_NAMED, name).fetchone():
        return standing.balance
    charged = ledger.post(standing, Posting(-credits, "charge", at, reference, by=by))
    return None if charged is None else _keep(run, standing, charged).balance


_CHARGE = f"SELECT keyrush_charge({', '.join(['%s'] * 12)})"


def charge_at_once(
    database: Database,
    account_id: str,
    credits: int,
    reference: str,
    *,
    at: int,
    by: By,
    refill: Refill | None,
) -> int | None:
    """`Store.charge`, on PostgreSQL, in one round trip. One whose answer does not come may be made
    later: by its reference it can be reversed before that, too.
    """
    who = by.source, by.credential_id, by.subject, by.rule, by.request_id
    due = (None, None, None) if refill is None else (refill.month, refill.amount, refill.ends_at)
    balance: int | None
    values = account_id, credits, reference, at, *who, *due
    (balance,) = database.call(_CHARGE, values)
    return balance


def reverse(
    run: Run, account_id: str, reference: str, *, at: int, credits: int | None, locked: str
) -> int | None:
    """`Store.reverse`."""
    standing = _settled(run, account_id, at, None, locked)
    name = account_id, reference
    if standing is None or run(_REVERSED, name).fetchone():
        return None
    row = run(_NAMED, name).fetchone()
    if row is None:
        _keep(run, standing, ledger.forbid(standing, reference, at))
        return None
    named = _entry(row)
    if named.reason != "charge":
        return None
    return _keep(run, standing, ledger.give_back(standing, named, at, credits)).balance


def post(
    run: Run, account_id: str, posting: Posting, refill: Refill | None, locked: str
) -> Entry | None:
    """`Store.post`."""
    standing = _settled(run, account_id, posting.at, refill, locked)
    if standing is None:
        return None
    if posting.reference is not None:
        row = run(_NAMED, (account_id, posting.reference)).fetchone()
        if row is not None:
            return _entry(row)
    posted = ledger.post(standing, posting)
    if posted is None:
        return None
    _keep(run, standing, posted)
    return posted.entries[-1]


def settle(run: Run, account_id: str, at: int, refill: Refill | None, locked: str) -> int | None:
    """The balance with what is due, which is entered; None where there is no such account."""
    standing = _settled(run, account_id, at, refill, locked)
    return None if standing is None else standing.balance


def _settled(
    run: Run, account_id: str, at: int, refill: Refill | None, locked: str
) -> Standing | None:
    """How the account stands with what is due; its row is locked from here on."""
    row = run(_STANDING + locked, (account_id,)).fetchone()
    if row is None:
        return None
    balance, entries, refilled, next_expiry = row
    held: tuple[Lot, ...] = ()
    if next_expiry is not None:
        held = tuple(lots(run, account_id))
    standing = Standing(account_id, balance, entries, refilled or "", held)
    if not ledger.is_due(standing, at, refill):
        return standing
    return _keep(run, standing, ledger.settle(standing, at, refill))


def _keep(run: Run, before: Standing, posted: Posted) -> Standing:
    """Write what has come to an account's ledger."""
    after = posted.standing
    for entry in posted.entries:
        run(_INSERT, _row(entry))
    if after.lots != before.lots:
        for gone in {lot.number for lot in before.lots} - {lot.number for lot in after.lots}:
            run(_DROP_LOT, (after.account_id, gone))
        for lot in set(after.lots) - set(before.lots):
            run(_KEEP_LOT, (*lot, after.account_id))
    stands = after.balance, after.last, after.refilled or None, after.next_expiry
    run(_STAND, (*stands, after.account_id))
    return after


def _row(entry: Entry) -> Sequence[Any]:
    by = entry.by
    return (
        entry.account_id,
        entry.number,
        entry.at,
        entry.amount,
        entry.balance,
        entry.reason,
        entry.reference,
        entry.reverses,
        by.source,
        by.credential_id,
        by.subject,
        by.rule,
        by.request_id,
        entry.note,
        entry.expires_at,
        json.dumps(entry.taken) if entry.taken else None,
    )


def _entry(row: Sequence[Any]) -> Entry:
    account_id, number, at, amount, balance, reason, reference, reverses, *who = row[:13]
    note, expires_at, taken = row[13:]
    return Entry(
        account_id,
        number,
        at,
        amount,
        balance,
        reason,
        reference,
        reverses,
        By(*who),
        note,
        expires_at,
        tuple((of, part) for of, part in json.loads(taken or "[]")),
    )


# --- reading -------------------------------------------------------------------------------------


def lots(run: Run, account_id: str) -> list[Lot]:
    """`Store.lots`."""
    return [Lot(*lot) for lot in run(_LOTS, (account_id,)).fetchall()]


def balance_if_settled(
    run: Run, account_id: str, at: int, refill: Refill | None
) -> tuple[int | None, bool]:
    """The balance, and whether nothing is due."""
    row = run(_STANDING, (account_id,)).fetchone()
    if row is None:
        return None, True
    balance, _, refilled, next_expiry = row
    is_expiring = next_expiry is not None and next_expiry <= at
    return balance, not is_expiring and (refill is None or (refilled or "") >= refill.month)


#: How entries of some reasons are found, so that none of it reads all that was charged.
_KINDS = (
    ({"charge"}, "reason = 'charge'"),
    ({"reversal"}, IS_REVERSAL),
    ({*get_args(Reason)} - {"charge", "reversal"}, IS_ADDED),
)

#: Numbers have the order of times but for this: by how much clocks differ, and how long an entry
#: may have waited for its turn. Milliseconds.
_DISORDER = 600 * SECOND

#: Entries next to where a time seems to come that are all looked at, whether they agree: a clock
#: that was wrong for a while has left entries among which the halves may have ended.
_NEAR = 1000

#: How far from there it is seen whether the rest agrees. Each step is a quarter longer, so that
#: what goes unseen is a quarter at most of what a clock has got wrong, and nothing where that is
#: less than `_NEAR`.
_STEPS = tuple(int(_NEAR * 1.25**exponent) for exponent in range(63))  # 10^9 is the last

#: What must be true of entries, with the values of its "?".
_Condition = tuple[str, Sequence[Any]]

#: The numbers between which a time comes, by halves: there is no gap in them, so that no index of
#: times is needed, which each charge would pay for.
_BETWEEN = """
    WITH RECURSIVE halves (low, high) AS (
        SELECT CAST(0 AS bigint), entries + 1 FROM keyrush_accounts WHERE id = ?
        UNION ALL
        SELECT CASE WHEN middle.at < ? THEN middle.number ELSE halves.low END,
            CASE WHEN middle.at < ? THEN halves.high ELSE middle.number END
        FROM halves JOIN keyrush_ledger AS middle
            ON middle.account_id = ? AND middle.number = (halves.low + halves.high) / 2
        WHERE halves.high - halves.low > 1
    ) SELECT max(low), min(high) FROM halves
"""


def entries(
    run: Run, account_id: str, where: EntryWhere, limit: int, before: int | None
) -> Sequence[Entry]:
    """`Store.entries`."""
    always: list[_Condition] = [("account_id = ?", (account_id,)), ("amount <> 0", ())]
    if where.since is not None:
        above = _last_before(run, account_id, where.since)
        always += [("number > ?", (above,)), ("at >= ?", (where.since,))]
    if where.until is not None:
        below = _first_after(run, account_id, where.until)
        before = min((one for one in (before, below) if one is not None), default=None)
        always.append(("at < ?", (where.until,)))
    if before is not None:
        always.append(("number < ?", (before,)))
    parts = [_newest([*always, *part], limit) for part in _parts(where)]
    statement, values = parts[0]
    if len(parts) > 1:  # in one statement, or what comes meanwhile could be in one and not another
        union = " UNION ALL ".join(f"SELECT * FROM ({one}) AS part" for one, _ in parts)  # noqa: S608
        statement = f"SELECT {_LISTED} FROM ({union}) AS found ORDER BY number DESC LIMIT ?"  # noqa: S608
        values = [*chain.from_iterable(given for _, given in parts), limit]
    return [_entry(row) for row in run(statement, values).fetchall()]


def _last_before(run: Run, account_id: str, since: int) -> int:
    """The number of an entry that is before a time, with all before it; 0 where none is, or where
    a clock has been wrong, and numbers tell nothing of times.
    """
    last, _ = _between(run, account_id, since - _DISORDER)
    if last <= 1:  # nothing is before that
        return last
    near, far = (max(1, last - _NEAR), last - 1), [last - one for one in _STEPS if one < last]
    return 0 if _has_any(run, account_id, near, far, "at >= ?", since) else last


def _first_after(run: Run, account_id: str, until: int) -> int | None:
    """The same of an entry that is not before a time, with all after it; None where there is no
    telling.
    """
    _, first = _between(run, account_id, until + _DISORDER)
    near, far = (first + 1, first + _NEAR), [first + one for one in _STEPS]
    return None if _has_any(run, account_id, near, far, "at < ?", until) else first


def _has_any(  # noqa: PLR0917  # of this module
    run: Run,
    account_id: str,
    near: tuple[int, int],
    far: Sequence[int],
    condition: str,
    at: int,
) -> bool:
    """Whether that is true of any entry between these two numbers, or with one of those."""
    any_of = f"SELECT 1 FROM keyrush_ledger WHERE account_id = ? AND {condition} AND number"  # noqa: S608  # of this module
    found = run(f"{any_of} BETWEEN ? AND ? LIMIT 1", (account_id, at, *near)).fetchone()
    if found is None and far:
        found = run(f"{any_of} IN ({_marks(far)}) LIMIT 1", (account_id, at, *far)).fetchone()
    return found is not None


def _between(run: Run, account_id: str, at: int) -> tuple[int, int]:
    """The number of the last entry before a time, and of the first that is not, as far as they are
    in its order; 0, and one more than there is, where there are none.
    """
    low, high = run(_BETWEEN, (account_id, at, at, account_id)).fetchone()
    return low or 0, high or 0


def _parts(where: EntryWhere) -> list[list[_Condition]]:
    """Conditions of which any may be true, each of what one index has together."""
    wanted = {*where.reasons}
    kinds = [(sorted(kind & wanted), condition) for kind, condition in _KINDS if kind & wanted]
    found: list[list[_Condition]] = []
    for of, condition in kinds or [([], "")]:
        reasons: list[_Condition] = []
        if condition:
            reasons = [(condition, ()), (f"reason IN ({_marks(of)})", of)]
        if not where.sources:
            found.append(reasons)
        elif not condition or "charge" in of:
            found += [[*reasons, ("source = ?", (one,))] for one in where.sources]
        else:  # these are few, and have an index already
            found.append([*reasons, (f"source || '' IN ({_marks(where.sources)})", where.sources)])
    return found


def _newest(conditions: Sequence[_Condition], limit: int) -> tuple[str, Sequence[Any]]:
    """The statement for the newest entries for which all of that is true, and its values."""
    condition = " AND ".join(text for text, _ in conditions)
    statement = f"SELECT {_LISTED} FROM keyrush_ledger WHERE {condition}"  # noqa: S608
    values = [*chain.from_iterable(given for _, given in conditions), limit]
    return f"{statement} ORDER BY number DESC LIMIT ?", values


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


# --- whether it adds up --------------------------------------------------------------------------

_AFTER = "FROM keyrush_ledger WHERE (account_id, number) > (?, ?)"
_END = f"SELECT account_id, number {_AFTER} ORDER BY account_id, number LIMIT 1 OFFSET ?"
_REST = f"SELECT count(*) {_AFTER}"

#: What does not carry on from the entry before it, which is looked at, too.
_NOT_CARRIED = """
    SELECT account_id, number FROM (
        SELECT account_id, number, amount, balance,
            coalesce(lag(number) OVER of_account, 0) AS earlier,
            coalesce(lag(balance) OVER of_account, 0) AS carried
        FROM keyrush_ledger WHERE (account_id, number) >= (?, ?) {upto}
        WINDOW of_account AS (PARTITION BY account_id ORDER BY number)
    ) AS found
    WHERE (account_id, number) > (?, ?) AND (number <> earlier + 1 OR balance <> carried + amount)
    ORDER BY account_id, number LIMIT ?
"""

_BEGINNING = EntryPlace("", 0)


def audit_entries(run: Run, after: EntryPlace | None, limit: int) -> Audited[EntryPlace]:
    """`Store.audit_entries`."""
    begin = after or _BEGINNING
    row = run(_END, (*begin, limit - 1)).fetchone()
    if row is None:
        last, seen = None, run(_REST, begin).fetchone()[0]
        upto: tuple[str, Sequence[Any]] = "", ()
    else:
        last, seen = EntryPlace(*row), limit
        upto = "AND (account_id, number) <= (?, ?)", last
    statement = _NOT_CARRIED.format(upto=upto[0])
    rows = run(statement, (*begin, *upto[1], *begin, MAX_WRONG)).fetchall()
    wrong = [Discrepancy(account_id, number, ledger.NOT_CARRIED) for account_id, number in rows]
    return Audited(wrong, seen, last)


_LAST_ACCOUNT = "SELECT id FROM keyrush_accounts WHERE id > ? ORDER BY id LIMIT 1 OFFSET ?"
_OTHER_ACCOUNTS = "SELECT count(*) FROM keyrush_accounts WHERE id > ?"

_NOT_ITS_SUM = """
    SELECT id, has_other_sum, has_more_lots, has_wrong_expiry FROM (
        SELECT held.id,
            held.balance <> coalesce(newest.balance, 0)
            OR held.entries <> coalesce(newest.number, 0)
            OR EXISTS (
                SELECT 1 FROM keyrush_ledger AS later
                WHERE later.account_id = held.id AND later.number > held.entries
            ) AS has_other_sum,
            held.balance < coalesce(
                (SELECT sum(remaining) FROM keyrush_lots WHERE account_id = held.id), 0
            ) AS has_more_lots,
            coalesce(held.next_expiry, -1) <> coalesce(
                (SELECT min(expires_at) FROM keyrush_lots WHERE account_id = held.id), -1
            ) AS has_wrong_expiry
        FROM keyrush_accounts AS held
        LEFT JOIN keyrush_ledger AS newest
            ON newest.account_id = held.id AND newest.number = held.entries
        WHERE held.id > ? {upto}
    ) AS found
    WHERE has_other_sum OR has_more_lots OR has_wrong_expiry ORDER BY id LIMIT ?
"""


def audit_balances(run: Run, after: str | None, limit: int) -> Audited[str]:
    """`Store.audit_balances`."""
    begin = after or ""
    row = run(_LAST_ACCOUNT, (begin, limit - 1)).fetchone()
    if row is None:
        last, seen = None, run(_OTHER_ACCOUNTS, (begin,)).fetchone()[0]
        upto: tuple[str, Sequence[str]] = "", ()
    else:
        (last,), seen = row, limit
        upto = "AND held.id <= ?", row
    rows = run(_NOT_ITS_SUM.format(upto=upto[0]), (begin, *upto[1], MAX_WRONG)).fetchall()
    wrong = [
        Discrepancy(account_id, None, what)
        for account_id, *found in rows
        for is_wrong, what in zip(found, ledger.OF_ACCOUNTS, strict=True)
        if is_wrong
    ]
    return Audited(wrong, seen, last)
