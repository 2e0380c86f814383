"""Where windows are counted, whether that works, and whether changes are heard of."""

from __future__ import annotations

import os
import time

from keyrush.cli.doctor.report import SETTINGS, STORE, TRIES, Report
from keyrush.core.changes import Changes
from keyrush.core.sliding import Window
from keyrush.errors import ConfigurationError
from keyrush.limiter.ledgers.protocol import Ledger
from keyrush.limiter.opening import open_limiter, windows_file
from keyrush.limiter.protocol import Limiter, Outage
from keyrush.runtime.clock import now_ms
from keyrush.runtime.forks import process_name
from keyrush.settings.settings import Settings
from keyrush.sql.engine import Database

#: A window that is nobody's.
_WINDOW = Window("doctor:60", 60_000, 1000, "minute")

#: An account that nobody has, and seconds to wait for the news of it.
_NOBODY, _NEWS = "acct_of_nobody", 2.0

_MEANWHILE: dict[Outage, str] = {
    "local": "each process goes on with its share of the limits",
    "open": "requests pass without limits",
    "closed": "requests are refused with 503",
}


def look_at_limiter(report: Report, settings: Settings, database: Database | None) -> None:
    """Whether windows can be counted, by whom, and how fast."""
    try:
        path = windows_file(settings.limiter_url, database)
        if path is not None and not os.path.lexists(path) and os.access(path.parent, os.W_OK):
            text = f"counted together in the file {path}, which the app makes: it is not there yet"
            report.add("note", "limits", text)
            return
        found = open_limiter(
            settings.limiter_url,
            database,
            mode=settings.limiter_mode,
            outage=settings.limiter_outage,
        )
    except ConfigurationError as error:
        report.add("problem", "limits", str(error), SETTINGS)
        return
    if found.ledger is not None:
        _look_at_ledger(report, settings, found.ledger, found.changes)
    elif not found.is_shared:
        _warn_of_processes(report)
    else:
        _ask_for_each(report, settings, found.limiter)
    found.limiter.close()


def _ask_for_each(report: Report, settings: Settings, limiter: Limiter) -> None:
    start, fault = time.perf_counter(), ""
    try:
        for _ in range(TRIES):
            limiter.take([_WINDOW], 1, now_ms())
            limiter.give_back([_WINDOW], 1, now_ms())
    except Exception as error:  # whatever stands between here and the counts
        fault = f": {type(error).__name__}: {error}"
    state = limiter.state()
    if fault or state.is_away:  # which nothing else tells where the policy lets all pass
        meanwhile = _MEANWHILE[state.meanwhile or settings.limiter_outage]
        text = f"some can't be counted by {limiter!r}{fault}; meanwhile {meanwhile}"
        report.add("problem", "limits", text, STORE)
        return
    milliseconds = (time.perf_counter() - start) * 1000 / TRIES
    text = f"counted by {limiter!r}, which is asked for every request: {milliseconds:.2f} ms"
    report.add("ok", "limits", text)


def _look_at_ledger(
    report: Report, settings: Settings, ledger: Ledger, changes: Changes | None
) -> None:
    if advice := ledger.advice():
        report.add("problem", "limits", advice, SETTINGS)
        return
    name = process_name()
    start = time.perf_counter()
    try:
        place = ledger.enlist(name)
        milliseconds = (time.perf_counter() - start) * 1000
        for _ in range(TRIES):
            taken = ledger.take([_WINDOW], 1, 0)
            ledger.give_back([_WINDOW], taken.granted, taken.now)
        ledger.leave(name)
    except Exception as error:  # whatever stands between here and the server
        text = f"can't be counted: {type(error).__name__}: {error}; meanwhile "
        report.add("problem", "limits", text + _MEANWHILE[settings.limiter_outage], STORE)
        return
    where = "with the keys" if settings.limiter_url == "store" else "on their own server"
    text = (
        f"counted together {where}, {settings.limiter_mode}; processes at work: "
        f"{place.workers - 1:,}; an answer takes {milliseconds:.1f} ms"
    )
    report.add("ok", "limits", text)
    if changes is not None:
        _look_at_changes(report, settings, changes)


def _look_at_changes(report: Report, settings: Settings, changes: Changes) -> None:
    """Whether changes are heard of at once, in the way in which the app hears of them."""
    try:
        is_heard, why = _is_heard(changes), "nothing that is published arrives"
    except Exception as error:  # whatever stands between here and the server
        is_heard, why = False, str(error)
    if is_heard:
        report.add("ok", "changes", "made by other processes are heard of at once")
    else:
        late = f"hold within KEYRUSH_CACHE_TTL, not at once ({settings.cache_ttl:g} s)"
        report.add("warning", "changes", f"made by other processes {late}: {why}")


def _is_heard(changes: Changes) -> bool:
    try:
        changes.poll()  # begins to listen
        changes.publish(_NOBODY)
        deadline = time.monotonic() + _NEWS
        while _NOBODY not in (changes.poll() or ()):
            if time.monotonic() > deadline:
                return False
            time.sleep(_NEWS / 100)  # the news are on their way
        return True
    finally:
        changes.close()


def _warn_of_processes(report: Report) -> None:
    text = "counted in each process by itself: with several workers, each admits the whole limit"
    workers = os.environ.get("WEB_CONCURRENCY", "")
    if workers.isdecimal() and int(workers) > 1:
        text += f"; WEB_CONCURRENCY={workers} makes it {workers} times the limit"
    report.add("note", "limits", text)
