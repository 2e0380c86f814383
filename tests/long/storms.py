"""The long forms: `python -m tests.long.chaos [--revocation] [--kills] [--outages]`; all in about
ten minutes, each bounded in time. Prints a table; the exit code is 1 where something did not hold.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import NamedTuple

from keyrush.core.refusal import Refusal
from tests.long.chaos import ACCOUNT, Load, Members, Place, Postgres, count, kill, revoked
from tests.support.calls import decide
from tests.support.faults import until
from tests.support.serving import Process, serve_gunicorn, serve_process
from tests.support.valkey import running as valkey

TRIALS = 1000
MEMBERS = 8

#: Seconds that one of the other parts goes on.
LONG = 60

#: Seconds: when news must have arrived (p99), and when without news (maximum; the last part of
#: it is for the request that asks).
NEWS, CEILING = 0.25, 5.5


Serve = Callable[..., AbstractContextManager[Process]]


class Row(NamedTuple):
    """What came out of one part."""

    part: str
    figures: str
    holds: bool


# --- revocation -----------------------------------------------------------------------------------


def revocation(name: str, place: Place, *options: str, together: float, bound: float) -> Row:
    """A thousand keys, each revoked in one process and refused in eight others."""
    gate = place.gate()
    gate.accounts.create(ACCOUNT, limits="10000000/day")
    with Members(place, MEMBERS, *options) as members:
        delays = sorted(revoked(members, gate, TRIALS, int(together)))
    gate.close()
    p50, p99 = statistics.median(delays), delays[len(delays) * 99 // 100]
    is_cut = bound == CEILING
    figures = f"p50 {p50:.3f} s, p99 {p99:.3f} s, max {delays[-1]:.3f} s of {len(delays):,}"
    return Row(f"revocation, {name}", figures, (delays[-1] if is_cut else p99) <= bound)


# --- kills ----------------------------------------------------------------------------------------


def kills(name: str, serve: Serve, place: Place) -> Row:
    """Workers are killed at random under load, with a limit of a thousand for each of many keys."""
    limit, rounds, lost, stranded, wrong = 1000, 0, 0, 0, 0
    ends = time.monotonic() + LONG
    chance = random.Random(1)  # noqa: S311  # not for secrets
    with serve("--workers", "3", env=place.env) as server:
        until(lambda: server_answers(server.url))
        while time.monotonic() < ends:
            rounds += 1
            account = f"acct_{rounds}"
            key = place.make_key(f"{limit}/day", account)
            with Load(server.url, key, clients=6) as running:
                when = chance.randrange(50, limit // 2)
                until(lambda: len(running.heard) > when)  # noqa: B023  # called in this turn
                victim = chance.choice(sorted(running.pids))
                kill(victim)
                until(lambda: count(running.heard[-30:], 429) == 30)  # the same
            admitted, unanswered = count(running.heard, 200), count(running.heard, 0)
            at_risk = sum(one.pid == victim for one in running.heard)
            until(lambda: place.counted(account)[0] >= admitted - at_risk)  # noqa: B023  # the same
            counted, _ = place.counted(account)
            lost += max(0, admitted - counted)
            stranded = max(stranded, limit - admitted - unanswered)
            wrong += admitted > limit or counted > admitted + unanswered
    figures = f"{rounds} kills; {lost} counts lost, at most {stranded} of {limit} units stranded"
    return Row(f"kills, {name}", figures, not wrong and stranded <= limit // 75)


def server_answers(url: str) -> bool:
    """Whether it accepts connections."""
    with Load(f"{url}/health", "", clients=1) as probe:
        until(lambda: probe.heard)
    return bool(probe.pids)


# --- outages --------------------------------------------------------------------------------------


def outages(mode: str) -> Row:
    """A Valkey that is frozen, killed and started at random, under load of threads, with limits
    of which never more may be admitted: only this process counts in them.
    """
    limit, wrong, admitted, unavailable, rounds = 300, 0, 0, 0, 0
    ends = time.monotonic() + LONG
    chance = random.Random(2)  # noqa: S311  # not for secrets
    with valkey() as server, tempfile.TemporaryDirectory() as folder:
        more = {"limiter_mode": mode}
        place = Place(f"sqlite:///{folder}/keyrush.db", server.url, more)
        gate = place.gate()
        while time.monotonic() < ends:
            rounds += 1
            account = f"acct_{rounds}"
            gate.accounts.create(account, limits=f"{limit}/day")
            key = gate.keys.create(account, "production").text
            statuses: list[int] = []
            stopped = threading.Event()

            def use() -> None:
                while not stopped.is_set():  # noqa: B023  # ended in this turn
                    answer = decide(gate, key)  # noqa: B023  # the same
                    is_refused = isinstance(answer, Refusal)
                    statuses.append(answer.status if is_refused else 200)  # type: ignore[union-attr]  # noqa: B023  # called in this turn
                    time.sleep(0.005)  # as clients do

            threads = [threading.Thread(target=use) for _ in range(4)]
            for thread in threads:
                thread.start()
            for _ in range(2):  # it forgets nothing: what is frozen goes on where it was
                time.sleep(chance.random())  # the load goes on
                server.freeze()
                time.sleep(chance.random() * 2)  # the outage lasts
                server.thaw()
            until(lambda: gate.health().is_well)
            stopped.set()
            for thread in threads:
                thread.join()
            gate.flush()
            passed = statuses.count(200)
            admitted += passed
            unavailable += statuses.count(503)
            wrong += passed > limit or place.counted(account)[0] != passed
        gate.close()
    figures = f"{rounds} keys; {admitted:,} admitted, {unavailable:,} times 503, {wrong} wrong"
    return Row(f"outages, {mode}", figures, not wrong)


# --- all ------------------------------------------------------------------------------------------


@contextmanager
def places() -> Iterator[dict[str, Place]]:
    """A database of each kind, empty."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        base = tempfile.mkdtemp(prefix="keyrush-")  # with a path that another user may enter
        stack.callback(shutil.rmtree, base)
        os.environ["XDG_RUNTIME_DIR"] = base
        postgres = Postgres(base)
        stack.callback(postgres.close)
        server = stack.enter_context(valkey())
        long = {"cache_ttl": "600"}  # so that only news can be why something changes
        yield {
            "SQLite": Place(f"sqlite:///{folder}/a.db", more=long),
            "PostgreSQL": Place(postgres.url, more=long),
            "publish/subscribe": Place(f"sqlite:///{folder}/b.db", server.url, long),
            "no news": Place(f"sqlite:///{folder}/c.db", "memory://"),
            "uvicorn": Place(f"sqlite:///{folder}/d.db"),
            "gunicorn": Place(f"sqlite:///{folder}/e.db"),
        }


def main() -> None:
    """Run what is asked for, or everything."""
    parser = argparse.ArgumentParser(prog="python -m tests.long.chaos")
    for part in ("revocation", "kills", "outages"):
        parser.add_argument(f"--{part}", action="store_true")
    logging.getLogger("keyrush").addHandler(logging.NullHandler())  # outages are what is wanted
    asked = {name for name, wanted in vars(parser.parse_args()).items() if wanted}
    rows = []
    with places() as place:
        for kind, run in parts(place):
            if asked and kind not in asked:
                continue
            row = run()
            rows.append(row)
            verdict = "holds" if row.holds else "VIOLATED"
            print(f"{row.part:32} {row.figures:64} {verdict}", flush=True)  # noqa: T201  # the table
    sys.exit(not all(row.holds for row in rows))


def parts(place: dict[str, Place]) -> list[tuple[str, Callable[[], Row]]]:
    """All parts, by what asks for them."""
    uvicorn = partial(serve_process, "tests.support.served:asgi", "--factory")
    gunicorn = partial(serve_gunicorn, "tests.support.served:wsgi()")
    news = {"together": 4, "bound": NEWS}
    silence = {"together": 100, "bound": CEILING}
    quiet = "publish/subscribe"
    return [
        ("revocation", partial(revocation, "SQLite", place["SQLite"], **news)),
        ("revocation", partial(revocation, "PostgreSQL", place["PostgreSQL"], **news)),
        ("revocation", partial(revocation, quiet, place[quiet], "no-news", **news)),
        ("revocation", partial(revocation, "no news", place["no news"], "no-news", **silence)),
        ("kills", partial(kills, "uvicorn", uvicorn, place["uvicorn"])),
        ("kills", partial(kills, "gunicorn", gunicorn, place["gunicorn"])),
        ("outages", partial(outages, "leased")),
        ("outages", partial(outages, "exact")),
    ]
