"""The store, its plans and keys, the pepper that they need, and the files of all that."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from keyrush.authentication.keyring import Fingerprints
from keyrush.authentication.peppers import (
    FILE_NAME,
    database_file,
    pepper_file,
    peppers_for,
    uncovered,
)
from keyrush.cli.doctor.report import SETTINGS, STORE, TRIES, WARNING, Report
from keyrush.core.notation import counted
from keyrush.core.times import month_of
from keyrush.errors import ConfigurationError, StoreError, Unreachable
from keyrush.gate.starting import place_of
from keyrush.operations.audit import audit
from keyrush.runtime.clock import now_ms
from keyrush.settings.settings import PREFIX, Settings
from keyrush.sql.files import readable_by_others
from keyrush.store.opening import Opened, is_made, open_store
from keyrush.store.protocol import KeyStore

#: How many look up a key at once, one after the other: some poolers mix up the sessions only of
#: several, and those that give them out by turns only of as many as don't go evenly into theirs.
_AT_ONCE = (1, 4)

#: Seconds after which the rest of a large ledger is left to a command of its own, and accounts
#: that are named where one is wrong.
_LOOKING, _NAMED = 1.0, 3


def opened(report: Report, settings: Settings) -> Opened | None:
    """The store, as the app opens it; None where there is none yet, or none that can be opened."""
    try:
        if not is_made(settings.store_url):
            text = f"there is none yet at {place_of(settings)}; the app makes it, or the first key"
            report.add("note", "store", text)
            return None
        kept = open_store(settings.store_url)
    except ConfigurationError as error:
        code = STORE if isinstance(error, Unreachable) else SETTINGS
        report.add("problem", "store", str(error), code)
    except Exception as error:  # a store of the user's own may raise anything
        report.add("problem", "store", f"can't be opened: {type(error).__name__}", STORE)
    else:
        return kept
    return None


def look_at_store(report: Report, settings: Settings, kept: Opened) -> None:
    """Whether it answers, what is in it, and whether plans and peppers go with that."""
    now, store = now_ms(), kept.store
    try:
        in_use = store.peppers(now)
        plans = store.plans()
        _find_as_the_app_does(store, month_of(now))
    except Exception as error:  # a store of the user's own may raise anything
        why = f"StoreError: {error}" if isinstance(error, StoreError) else type(error).__name__
        report.add("problem", "store", f"can't answer: {why}", STORE)
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
        report.add("problem", "plans", text, SETTINGS)
    _compare_peppers(report, settings, kept, in_use, now)


def _find_as_the_app_does(store: KeyStore, month: str) -> None:
    """Look up a key that there is not, as often as it takes until it might go wrong."""
    for threads in _AT_ONCE:
        with ThreadPoolExecutor(threads) as pool:
            looking = [
                pool.submit(store.find, ["of_nobody"], month) for _ in range(threads * TRIES)
            ]
            for one in looking:
                one.result()


def _compare_peppers(
    report: Report, settings: Settings, kept: Opened, in_use: Mapping[str, int], now: int
) -> None:
    try:
        path = pepper_file(settings.store_url)
        peppers = peppers_for(settings.peppers, path, kept, now=now)
    except (ConfigurationError, OSError) as error:
        report.add("problem", "pepper", str(error), SETTINGS)
        return
    if lost := uncovered(peppers, in_use):
        keys = counted(lost, "active key")
        text = f"another than {_pepper(settings)} is needed by {keys}, refused without it"
        report.add("problem", "pepper", text, SETTINGS)
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
    path = pepper_file(settings.store_url)
    return "one of this process" if path is None else str(path)


def look_at_ledgers(report: Report, kept: Opened) -> None:
    """Whether balances are the sums of their ledgers, as far as one can see within a second."""
    deadline = time.monotonic() + _LOOKING
    try:
        found = audit(kept.store, is_enough=lambda: time.monotonic() > deadline)
    except Exception as error:  # a store of the user's own may raise anything, or have no ledger
        text = f"can't be looked at: {type(error).__name__}"
        report.add("problem", "credits", text, STORE)
        return
    looked = f"{counted(found.accounts, 'account')} and {counted(found.entries, 'entry')}"
    if found.discrepancies:
        where = ", ".join(dict.fromkeys(one.account_id for one in found.discrepancies[:_NAMED]))
        text = f"the ledger does not add up, as of {where}: 'keyrush accounts check' says where"
        report.add("problem", "credits", text, WARNING)
    elif found.is_complete:
        report.add("ok", "credits", f"every balance is the sum of its ledger: {looked}")
    else:
        text = f"no balance is wrong of {looked}; 'keyrush accounts check' looks at the rest, too"
        report.add("ok", "credits", text)


def look_at_files(report: Report, settings: Settings) -> None:
    """Warn of files with secrets that others may open, each by its name."""
    database = database_file(settings.store_url)
    if database is None:
        return
    pepper = [] if settings.pepper else readable_by_others(database.with_name(FILE_NAME))
    for about, found in (("store", readable_by_others(database)), ("pepper", pepper)):
        for path in found:
            text = f"{path} can be read by others: chmod 600 {shlex.quote(str(path))}"
            report.add("warning", about, text)
