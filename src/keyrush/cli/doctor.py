"""`keyrush doctor`: what is set, whether it works, and what it costs."""

from __future__ import annotations

import logging
import os
import shlex
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from argon2.exceptions import HashingError

import keyrush
from keyrush.authentication.keyring import Fingerprints, Hashing
from keyrush.authentication.peppers import (
    FILE_NAME,
    database_file,
    pepper_file,
    peppers_for,
    uncovered,
)
from keyrush.cli import output
from keyrush.core.news import News
from keyrush.core.notation import counted
from keyrush.core.policy import named_by_method_alone
from keyrush.core.sliding import Window
from keyrush.core.times import month_of
from keyrush.errors import ConfigurationError, StoreError, Unreachable
from keyrush.gate.gate import PASSES_PREFLIGHTS
from keyrush.gate.starting import place_of
from keyrush.limiter.ledgers.protocol import Ledger
from keyrush.limiter.opening import open_limiter
from keyrush.limiter.protocol import Outage
from keyrush.runtime.bridge import synchronous
from keyrush.runtime.clock import now_ms
from keyrush.runtime.cpus import cores
from keyrush.runtime.forks import process_name
from keyrush.settings.effective import effective, shown, source
from keyrush.settings.mistakes import similar, unknown_variables
from keyrush.settings.settings import PREFIX, Settings
from keyrush.sql.files import readable_by_others
from keyrush.store.opening import is_made, open_store
from keyrush.store.protocol import Store

#: Exit codes: as documented for all commands; 1 is for a warning.
_WARNING, _SETTINGS, _STORE = 1, 2, 3

#: How often what requests do is tried, of a store by how many at once: drivers do it in another
#: way once they have done it often, and poolers mix up the sessions of several.
_TRIES, _THREADS = 12, 4

#: A window that is nobody's.
_WINDOW = Window("doctor:60", 60_000, 1000, "minute")

#: An account that nobody has, and seconds to wait for the news of it.
_NOBODY, _NEWS = "acct_of_nobody", 2.0

Level = Literal["ok", "note", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. Warnings and problems are what is wrong."""

    level: Level
    about: str
    text: str


@dataclass(slots=True)
class Report:
    """What the doctor found. No secret is in it."""

    version: str = keyrush.__version__
    settings: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    active_keys: int | None = None
    argon2_ms: float | None = None
    cores: int = field(default_factory=cores)
    exit_code: int = 0

    def add(self, level: Level, about: str, text: str, exit_code: int = 0) -> None:
        """Add a finding. The gravest exit code stands."""
        self.findings.append(Finding(level, about, text))
        self.exit_code = max(self.exit_code, exit_code, _WARNING if level == "warning" else 0)


def run(*, as_json: bool) -> int:
    """Examine, print what was found, and return the exit code."""
    logging.getLogger("keyrush").addHandler(logging.NullHandler())  # it is all in the report
    report = examine()
    if as_json:
        output.dump(asdict(report))
        return report.exit_code
    output.say(f"keyrush {report.version}")
    if report.settings:
        output.say()
        output.table(
            ["SETTING", "FROM", "VALUE"],
            [
                [PREFIX + name.upper(), report.sources[name], shown(value)]
                for name, value in report.settings.items()
            ],
        )
    output.say()
    for finding in report.findings:
        output.say(f"{finding.level:8} {finding.about}: {' '.join(finding.text.split())}")
    output.say()
    output.say("Something is wrong." if report.exit_code else "Nothing is wrong.")
    return report.exit_code


def examine() -> Report:
    """Look at everything that can still be looked at once something is wrong."""
    report = Report()
    _look_for_unknown_variables(report)
    try:
        settings = Settings()
    except ConfigurationError as error:
        for line in str(error).splitlines():
            report.add("problem", "settings", line, _SETTINGS)
        return report
    report.add("ok", "settings", "are valid")
    _look_at_doors(report, settings)
    store = _opened(report, settings)
    if store is not None:
        try:
            _look_at_store(report, settings, synchronous(store))
            _look_at_files(report, settings)
            _look_at_limiter(report, settings, store)
        finally:
            synchronous(store).close()
    elif report.exit_code < _SETTINGS and settings.limiter_url != "store":
        _look_at_limiter(report, settings, open_store("memory://"))
    _time_argon2(report, settings)
    report.settings = effective(settings)  # now that is known which classes there are
    report.sources = {name: source(settings, name) for name in report.settings}
    return report


def _look_for_unknown_variables(report: Report) -> None:
    for variable in sorted(unknown_variables(Settings.model_fields)):
        if similar(variable.removeprefix(PREFIX), Settings.model_fields):
            continue  # which stops the start, and is said with what was meant
        report.add("warning", "settings", f"{variable} is no setting and has no effect")


# --- what may be got round ---


def _look_at_doors(report: Report, settings: Settings) -> None:
    """What the settings leave open, on purpose or not."""
    if settings.preflight == "pass":
        report.add("warning", "preflights", PASSES_PREFLIGHTS)
    if not settings.rule_values:
        return
    if settings.unruled == "any_key":
        for path, methods in named_by_method_alone(settings.rule_values).items():
            named = ", ".join(sorted(methods))
            text = f"{path} is named for {named} alone: any valid key may send other methods"
            report.add("note", "rules", f"{text}; KEYRUSH_UNRULED=refuse closes them")
    if not settings.root_path:
        text = "where the app itself strips a prefix, as with FastAPI(root_path=…) or Django's "
        text += "FORCE_SCRIPT_NAME, rules hold for it only once KEYRUSH_ROOT_PATH names it"
        report.add("note", "rules", text)


# --- the store and its keys ---


def _opened(report: Report, settings: Settings) -> Store | None:
    try:
        if not is_made(settings.store_url):
            text = f"there is none yet at {place_of(settings)}; the app makes it, or the first key"
            report.add("note", "store", text)
            return None
        store = open_store(settings.store_url)
    except ConfigurationError as error:
        code = _STORE if isinstance(error, Unreachable) else _SETTINGS
        report.add("problem", "store", str(error), code)
    except Exception as error:  # a store of the user's own may raise anything
        report.add("problem", "store", f"can't be opened: {type(error).__name__}", _STORE)
    else:
        return store
    return None


def _look_at_store(report: Report, settings: Settings, store: Store) -> None:
    now = now_ms()
    try:
        in_use = store.peppers(now)
        plans = store.plans()
        _find_as_the_app_does(store, month_of(now))
    except Exception as error:  # a store of the user's own may raise anything
        why = f"StoreError: {error}" if isinstance(error, StoreError) else type(error).__name__
        report.add("problem", "store", f"can't answer: {why}", _STORE)
        return
    report.active_keys = sum(in_use.values())
    accounts = counted(sum(plans.values()), "account")
    text = f"{place_of(settings)}: {accounts}, {counted(report.active_keys, 'active key')}"
    report.add("ok", "store", text)
    if settings.is_store_in_memory:
        report.add("note", "store", "in memory: gone with the process, out of reach of commands")
    for plan in sorted(plans.keys() - settings.plans.keys()):
        number = counted(plans[plan], "account")
        text = f"{plan!r} is not in the table; the keys of {number} on it are refused with 503"
        report.add("problem", "plans", text, _SETTINGS)
    _compare_peppers(report, settings, store, in_use, now)


def _find_as_the_app_does(store: Store, month: str) -> None:
    """Look up a key that there is not, as often as it takes until it might go wrong."""
    with ThreadPoolExecutor(_THREADS) as pool:
        looking = [pool.submit(store.find, [_NOBODY], month) for _ in range(_THREADS * _TRIES)]
        for one in looking:
            one.result()


def _compare_peppers(
    report: Report, settings: Settings, store: Store, in_use: Mapping[str, int], now: int
) -> None:
    try:
        peppers = peppers_for(settings, store, now=now)
    except (ConfigurationError, OSError) as error:
        report.add("problem", "pepper", str(error), _SETTINGS)
        return
    if lost := uncovered(peppers, in_use):
        keys = counted(lost, "active key")
        text = f"another than {_pepper(settings)} is needed by {keys}, refused without it"
        report.add("problem", "pepper", text, _SETTINGS)
    else:
        report.add("ok", "pepper", f"{_pepper(settings)} fits every active key")
    older = sum(in_use.get(pepper_id, 0) for pepper_id in Fingerprints(peppers).pepper_ids[1:])
    if older:
        keys = counted(older, "active key")
        text = f"an older one is still needed by {keys}; each moves with its next use"
        report.add("note", "pepper", text)


def _pepper(settings: Settings) -> str:
    """Where the pepper comes from."""
    if settings.pepper:
        return f"{PREFIX}PEPPER"
    path = pepper_file(settings)
    return "one of this process" if path is None else str(path)


def _look_at_files(report: Report, settings: Settings) -> None:
    """Warn of files with secrets that others may open, each by its name."""
    database = database_file(settings)
    if database is None:
        return
    pepper = [] if settings.pepper else readable_by_others(database.with_name(FILE_NAME))
    for about, found in (("store", readable_by_others(database)), ("pepper", pepper)):
        for path in found:
            text = f"{path} can be read by others: chmod 600 {shlex.quote(str(path))}"
            report.add("warning", about, text)


# --- what it costs ---


def _time_argon2(report: Report, settings: Settings) -> None:
    hashing = Hashing(
        settings.argon2_time_cost, settings.argon2_memory_cost, settings.argon2_parallelism
    )
    start = time.perf_counter()
    try:
        hashing.hash(b"keyrush doctor")
    except HashingError as error:
        report.add("problem", "argon2", f"can't hash with these costs: {error}", _SETTINGS)
        return
    report.argon2_ms = round((time.perf_counter() - start) * 1000, 2)
    report.add("ok", "argon2", f"one hash takes {report.argon2_ms:g} ms on one of {_cores(report)}")
    if report.active_keys is None:
        return
    number = report.active_keys
    seconds = number * report.argon2_ms / 1000 / report.cores
    keys = counted(number, "active key")
    cost = f"{keys}, each used once: {seconds:,.2f} s of hashing in each process"
    if settings.verify == "fingerprint":
        text = f"KEYRUSH_VERIFY=fingerprint saves this: {cost}"
    else:
        text = f"{cost}; KEYRUSH_VERIFY=fingerprint would save it: the pepper's HMAC is the proof"
    report.add("note", "cold start", text)


def _cores(report: Report) -> str:
    return "1 core" if report.cores == 1 else f"{report.cores} cores"


# --- limits ---

_MEANWHILE: dict[Outage, str] = {
    "local": "each process goes on with its share of the limits",
    "open": "requests pass without limits",
    "closed": "requests are refused with 503",
}


def _look_at_limiter(report: Report, settings: Settings, store: Store) -> None:
    try:
        found = open_limiter(
            settings.limiter_url,
            store,
            mode=settings.limiter_mode,
            outage=settings.limiter_outage,
        )
    except ConfigurationError as error:
        report.add("problem", "limits", str(error), _SETTINGS)
        return
    if found.ledger is not None:
        _look_at_ledger(report, settings, found.ledger, found.news)
    elif not found.is_shared:
        _warn_of_processes(report)
    else:
        text = f"counted by {found.limiter!r}, which is asked for every request"
        report.add("ok", "limits", text)
    found.limiter.close()


def _look_at_ledger(report: Report, settings: Settings, ledger: Ledger, news: News | None) -> None:
    if news is not None and (advice := news.advice()):
        report.add("problem", "limits", advice, _SETTINGS)
        return
    name = process_name()
    start = time.perf_counter()
    try:
        place = ledger.enlist(name)
        milliseconds = (time.perf_counter() - start) * 1000
        for _ in range(_TRIES):
            taken = ledger.take([_WINDOW], 1, 0)
            ledger.give_back([_WINDOW], taken.granted, taken.now)
        ledger.leave(name)
    except Exception as error:  # whatever stands between here and the server
        text = f"can't be counted: {type(error).__name__}: {error}; meanwhile "
        report.add("problem", "limits", text + _MEANWHILE[settings.limiter_outage], _STORE)
        return
    where = "with the keys" if settings.limiter_url == "store" else "on their own server"
    text = (
        f"counted together {where}, {settings.limiter_mode}; processes at work: "
        f"{place.workers - 1:,}; an answer takes {milliseconds:.1f} ms"
    )
    report.add("ok", "limits", text)
    if news is not None:
        _look_at_news(report, settings, news)


def _look_at_news(report: Report, settings: Settings, news: News) -> None:
    """Whether changes are heard of at once, in the way in which the app hears of them."""
    try:
        is_heard, why = _is_heard(news), "nothing that is published arrives"
    except Exception as error:  # whatever stands between here and the server
        is_heard, why = False, str(error)
    if is_heard:
        report.add("ok", "changes", "made by other processes are heard of at once")
    else:
        late = f"hold within KEYRUSH_CACHE_TTL, not at once ({settings.cache_ttl:g} s)"
        report.add("warning", "changes", f"made by other processes {late}: {why}")


def _is_heard(news: News) -> bool:
    feed = news.feed()
    try:
        feed.poll()  # begins to listen
        news.publish(_NOBODY)
        deadline = time.monotonic() + _NEWS
        while _NOBODY not in (feed.poll() or ()):
            if time.monotonic() > deadline:
                return False
            time.sleep(_NEWS / 100)  # the news are on their way
        return True
    finally:
        feed.close()


def _warn_of_processes(report: Report) -> None:
    text = "counted in each process by itself: with several workers, each admits the whole limit"
    workers = os.environ.get("WEB_CONCURRENCY", "")
    if workers.isdecimal() and int(workers) > 1:
        text += f"; WEB_CONCURRENCY={workers} makes it {workers} times the limit"
    report.add("note", "limits", text)
