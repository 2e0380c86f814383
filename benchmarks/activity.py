"""`python -m benchmarks.activity [--rows N] [--json]`: what activity costs on SQLite.

First what a flush pays for a row, in microseconds of CPU. Then a month of N rows, of which one
account has nine tenths, with 1,000 keys and 20 rules: how long pages with each filter, counts and
charts of it take, and which indexes find them. It ends with 1 where anything is found without one.
10,000,000 rows need 3 GB in the folder for temporary files, and some minutes.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from keyrush import Gate, Settings
from keyrush.core.activity import BUCKETS, COARSE, FINE, Activity, Group, Where
from keyrush.core.times import DAY
from keyrush.operations.activity import By
from keyrush.store.activity.subjects import KINDS, PART
from keyrush.store.protocol import Batch, Store
from keyrush.store.sql import SqlStore

BIG, KEYS, RULES = "acct_big", 1000, 20

#: Accounts besides, of a key and three rules each.
SMALL = 300

#: Days over which rows are spread.
DAYS = 30

#: A line of a plan that is about a table of activity, by its names in statements.
_TABLE = re.compile(r"(SEARCH|SCAN) (x|y|cell|subject|whole|part|keyrush_\w+)\b")


def row(account_id: str, key: int, rule: int, at: int, number: int) -> Activity:
    """A row as requests leave it."""
    return Activity(
        id=f"act_{number:016x}",
        at=at,
        account_id=account_id,
        credential_id=f"cred_{account_id}_{key:06}",
        subject=None,
        source="api",
        method="GET",
        path=f"/v1/articles/{rule:02}",
        rule=f"/v1/articles/{rule:02}",
        status=200,
        outcome="ok",
        reason=None,
        credits=1,
        duration=1500 + number % 20_000,
        request_id=f"{number:032x}",
        address="203.0.113.0",
        agent="python-httpx/0.28.1",
    )


def flushed(store: Store, now: int, rounds: int = 30) -> Iterator[tuple[str, float]]:
    """Microseconds of CPU for each row of a flush, by how many accounts and keys it is of: the
    middle of `rounds`.
    """
    chance = random.Random(1)  # noqa: S311  # any numbers
    for name, accounts, keys in (("5 accounts, 50 keys", 5, 10), ("2,000 accounts", 2000, 1)):
        taken = []
        for number in range(rounds + 5):
            rows = [
                row(
                    f"acct_{accounts}_{chance.randrange(accounts)}",
                    chance.randrange(keys),
                    chance.randrange(3),
                    now + number * 1000 + place,
                    number * 1000 + place,
                )
                for place in range(1000)
            ]
            before = time.process_time()
            store.add_activity(rows, Batch(name, number + 1))
            taken.append((time.process_time() - before) * 1000)
        yield name, sorted(taken[5:])[rounds // 2]


# --- a month of rows ------------------------------------------------------------------------------


def fill(store: SqlStore, rows: int, now: int) -> None:
    """Rows and their totals, made by the database itself: through the store they would take
    minutes for each million.
    """
    begin = now - DAYS * DAY
    parts = [row(BIG, key, rule, begin, 0) for key in range(KEYS) for rule in range(RULES)]
    small = [row(f"acct_{n}", 0, rule, begin, 0) for n in range(SMALL) for rule in range(3)]
    store.add_activity([one._replace(is_kept=False) for one in (*parts, *small)])
    store.fold_activity()
    kinds = [KINDS["api", "ok"]] * 880 + [KINDS["mcp", "ok"]] * 90 + [KINDS["api", "error"]] * 20
    kinds += [KINDS["api", "limited"]] * 8 + [KINDS["dashboard", "ok"], KINDS["mcp", "refused"]]
    bucket = " ".join(f"WHEN duration <= {most} THEN {n}" for n, most in enumerate(BUCKETS))
    levels = "".join(
        f"""
        INSERT INTO keyrush_activity_totals
        SELECT parts.level_{level}, 60, bin, kind, bucket,
            sum(requests), sum(credits), sum(cell.duration), max(longest)
        FROM parts CROSS JOIN keyrush_activity_totals AS cell
            ON cell.subject = parts.number AND cell.length = 60
        GROUP BY 1, 2, 3, 4, 5 ON CONFLICT DO NOTHING;
        """  # noqa: S608  # of this module alone
        for level in range(PART)
    )
    levels += """
        INSERT INTO keyrush_activity_totals
        SELECT subject, 1440, bin / 24, kind, bucket,
            sum(requests), sum(credits), sum(duration), max(longest)
        FROM keyrush_activity_totals WHERE length = 60
        GROUP BY 1, 2, 3, 4, 5 ON CONFLICT DO NOTHING;
        INSERT INTO keyrush_activity_totals
        SELECT whole, 1, minute, kind, bucket,
            sum(requests), sum(credits), sum(duration), max(longest)
        FROM keyrush_activity_minutes WHERE is_fresh = 0
        GROUP BY 1, 2, 3, 4, 5 ON CONFLICT DO NOTHING;
        INSERT INTO keyrush_activity_totals
        SELECT CASE level.value WHEN 0 THEN level_0 WHEN 1 THEN level_1 ELSE level_2 END,
            30, minute / 30, kind, bucket,
            sum(requests), sum(credits), sum(duration), max(longest)
        FROM json_each('[0, 1, 2]') AS level
        CROSS JOIN keyrush_activity_minutes AS cell
        CROSS JOIN parts ON parts.number = cell.part
        WHERE is_fresh = 0
        GROUP BY 1, 2, 3, 4, 5 ON CONFLICT DO NOTHING;
    """
    with store.database.driver() as connection:
        connection.executescript(f"""
            PRAGMA temp_store = MEMORY;
            PRAGMA cache_size = -262144;
            DROP INDEX ix_keyrush_activity_of_whole;
            DROP INDEX ix_keyrush_activity_of_part;
            CREATE TEMP TABLE parts AS
                SELECT part.number, whole.number AS level_0, of_key.number AS level_1,
                    of_rule.number AS level_2, part.number AS level_3,
                    part.account_id = '{BIG}' AS is_big,
                    row_number() OVER (PARTITION BY part.account_id = '{BIG}') - 1 AS place
                FROM keyrush_activity_subjects AS part
                JOIN keyrush_activity_subjects AS whole
                    ON whole.account_id = part.account_id AND whole.level = 0
                JOIN keyrush_activity_subjects AS of_key
                    ON of_key.account_id = part.account_id AND of_key.level = 1
                    AND of_key.credential_id = part.credential_id
                JOIN keyrush_activity_subjects AS of_rule
                    ON of_rule.account_id = part.account_id AND of_rule.level = 2
                    AND of_rule.rule = part.rule
                WHERE part.level = {PART};
            CREATE INDEX temp.parts_by_place ON parts (is_big, place);
            CREATE UNIQUE INDEX temp.parts_by_number ON parts (number);
            CREATE TEMP TABLE kinds AS SELECT key, value AS kind FROM json_each('{kinds}');
            CREATE INDEX temp.kinds_by_key ON kinds (key);
            WITH RECURSIVE numbers(n) AS (
                SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < {rows}
            ),
            drawn AS (
                SELECT n, {begin} + n * {DAYS * DAY} / {rows} AS at,
                    n % 10 < 9 AS is_big, n * 2654435761 % 4294967296 AS a,
                    n * 2246822519 % 4294967291 AS b
                FROM numbers
            )
            INSERT INTO keyrush_activity (
                day, whole, part, kind, at, id, method, status, credits, duration, request_id,
                address, agent
            )
            SELECT at / {DAY}, parts.level_0, parts.number, kinds.kind, at,
                printf('act_%016x', n), 'GET', 200, 1, 700 + b % 20000, printf('%032x', a),
                '203.0.113.0', 'python-httpx/0.28.1'
            FROM drawn
            CROSS JOIN parts ON parts.is_big = drawn.is_big
                AND parts.place = a / 8 % CASE drawn.is_big
                    WHEN 1 THEN {KEYS * RULES} ELSE {SMALL * 3} END
            CROSS JOIN kinds ON kinds.key = b / 64 % {len(kinds)};
            CREATE INDEX ix_keyrush_activity_of_whole ON keyrush_activity (day, whole, kind, at);
            CREATE INDEX ix_keyrush_activity_of_part ON keyrush_activity (part, kind, at);
            INSERT INTO keyrush_activity_minutes
            SELECT 0, whole, at / {FINE}, part, kind, CASE {bucket} ELSE {len(BUCKETS)} END,
                count(*), sum(credits), sum(duration), max(duration)
            FROM keyrush_activity WHERE at >= {now - 2 * DAY} AND day >= {(now - 2 * DAY) // DAY}
            GROUP BY 1, 2, 3, 4, 5, 6 ON CONFLICT DO NOTHING;
            INSERT INTO keyrush_activity_totals
            SELECT part, 60, at / {COARSE}, kind, CASE {bucket} ELSE {len(BUCKETS)} END,
                count(*), sum(credits), sum(duration), max(duration)
            FROM keyrush_activity GROUP BY 1, 2, 3, 4, 5 ON CONFLICT DO NOTHING;
            {levels}
            INSERT INTO keyrush_activity_totals
            SELECT subject, -length, bin, 0, 0,
                sum(requests), sum(credits), sum(duration), max(longest)
            FROM keyrush_activity_totals
            WHERE length IN (60, 1440) AND subject IN (SELECT level_1 FROM parts)
            GROUP BY 1, 2, 3 ON CONFLICT DO NOTHING;
            DROP TABLE temp.parts;
            PRAGMA cache_size = -2000;
        """)  # noqa: S608  # of this module alone


def asked(gate: Gate, now: int) -> dict[str, Callable[[], Any]]:
    """What is asked of the big account, by name."""
    log = gate.activity
    key, rule = f"cred_{BIG}_{7:06}", f"/v1/articles/{7:02}"
    wheres = {
        "all": Where(),
        "key": Where(credential_id=key),
        "rule": Where(rule=rule),
        "key, rule": Where(credential_id=key, rule=rule),
        "source, a hundredth": Where(source="dashboard"),
        "outcome, a hundredth": Where(outcome="limited"),
        "outcome, a thousandth": Where(outcome="refused"),
        "key, outcome, hardly any": Where(credential_id=key, outcome="refused"),
        "rule, outcome, hardly any": Where(rule=rule, outcome="refused"),
        "a day of three weeks ago": Where(since=now - 22 * DAY, until=now - 21 * DAY),
        "nothing": Where(source="dashboard", outcome="refused"),
    }
    calls: dict[str, Callable[[], Any]] = {}
    for name, where in wheres.items():
        calls[f"page: {name}"] = partial(log.page, BIG, where)
        calls[f"count: {name}"] = partial(log.count, BIG, where)
    month = Where(since=now - DAYS * DAY)
    charts: dict[str, tuple[Where, By | int]] = {
        "hour by minute": (Where(since=now - COARSE), "minute"),
        "day by half an hour": (Where(since=now - DAY), 30 * FINE),
        "month by day": (month, "day"),
        "month by 12 hours": (month, 12 * COARSE),
        "month by hour": (month, "hour"),
        "month by day, of a key": (month._replace(credential_id=key), "day"),
        "month by day, of a rule": (month._replace(rule=rule), "day"),
    }
    for name, since in (("hour", COARSE), ("day", DAY), ("month", DAYS * DAY)):
        where = Where(since=now - since)
        by_rule = partial(log.most, BIG, where, group="rule", at_most=25)
        by_key = partial(log.most, BIG, where, group="key", at_most=25)
        calls |= {f"most: {name}, by rule": by_rule, f"most: {name}, by key": by_key}
    groups: tuple[Group | None, ...] = (None, "outcome", "rule", "key")
    for name, (where, by) in charts.items():
        for group in groups:
            named = f"chart: {name}, by {group}" if group else f"chart: {name}"
            calls[named] = partial(log.summary, BIG, where, by=by, group=group)
    return calls


def plans(store: SqlStore, call: Callable[[], Any]) -> set[str]:
    """How SQLite finds what a call asks of activity: a table, and by which index."""
    texts: list[str] = []
    with store.database.driver() as connection:  # the only one of this thread
        connection.set_trace_callback(texts.append)
    call()
    with store.database.driver() as connection:
        connection.set_trace_callback(None)
        found = {
            line[3]
            for text in texts
            if "keyrush_activity" in text
            for line in connection.execute(f"EXPLAIN QUERY PLAN {text}")
        }
    return {line for line in found if _TABLE.match(line)}


def milliseconds(call: Callable[[], Any], rounds: int = 5) -> float:
    """How long a call takes: the middle of a few, after one that nobody counts."""
    call()
    taken = []
    for _ in range(rounds):
        before = time.perf_counter()
        call()
        taken.append((time.perf_counter() - before) * 1000)
    return sorted(taken)[rounds // 2]


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.activity")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    now = int(time.time() * 1000)
    figures: dict[str, float] = {}
    indexes: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/keyrush.db"
        gate = Gate.open(Settings(store_url=url, pepper="p" * 32))
        store = gate.store
        assert isinstance(store, SqlStore)  # noqa: S101  # by the URL above
        for name, taken in flushed(store, now):
            figures[f"flush, µs a row: {name}"] = taken
        gate.accounts.create(BIG)
        before = time.monotonic()
        fill(store, options.rows, now)
        figures["made in, s"] = time.monotonic() - before
        figures["file, MB"] = Path(f"{folder}/keyrush.db").stat().st_size / 1e6
        for name, call in asked(gate, now).items():
            figures[f"{name}, ms"] = milliseconds(call)
            indexes |= plans(store, call)
        gate.close()
    if options.json:
        print(json.dumps(figures | {"indexes": sorted(indexes)}))  # noqa: T201  # what it is for
    else:
        print(f"{options.rows:,} rows")  # noqa: T201
        for name, figure in figures.items():
            print(f"{name:<60}{figure:>10,.1f}")  # noqa: T201
        print("\n".join(["found by", *sorted(indexes)]))  # noqa: T201
    sys.exit(not indexes or any(line.startswith("SCAN") for line in indexes))


if __name__ == "__main__":
    main()
