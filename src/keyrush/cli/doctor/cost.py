"""What proving keys costs on this machine."""

from __future__ import annotations

import time

from argon2.exceptions import HashingError

from keyrush.authentication.keyring import Hashing
from keyrush.cli.doctor.report import SETTINGS, Report
from keyrush.core.notation import counted
from keyrush.settings.settings import Settings


def time_argon2(report: Report, settings: Settings) -> None:
    """How long one proof takes, and at most all that a start asks for."""
    hashing = Hashing(
        settings.argon2_time_cost, settings.argon2_memory_cost, settings.argon2_parallelism
    )
    start = time.perf_counter()
    try:
        hashing.hash(b"keyrush doctor")
    except HashingError as error:
        report.add("problem", "argon2", f"can't hash with these costs: {error}", SETTINGS)
        return
    report.argon2_ms = round((time.perf_counter() - start) * 1000, 2)
    report.add("ok", "argon2", f"one hash takes {report.argon2_ms:g} ms on one of {_cores(report)}")
    if report.active_keys is None:
        return
    number = report.active_keys
    seconds = number * report.argon2_ms / 1000 / report.cores
    keys = counted(number, "active key")
    cost = f"{keys}, each used once: {seconds:,.2f} s of hashing, less those with a proof kept"
    if settings.verify == "fingerprint":
        text = f"KEYRUSH_VERIFY=fingerprint saves this: {cost}"
    else:
        text = f"{cost}; KEYRUSH_VERIFY=fingerprint would save it: the pepper's HMAC is the proof"
    report.add("note", "cold start", text)


def _cores(report: Report) -> str:
    return "1 core" if report.cores == 1 else f"{report.cores} cores"
