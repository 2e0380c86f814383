"""`keyrush doctor`: what is set, whether it works, and what it costs."""

from __future__ import annotations

import logging
from dataclasses import asdict

from keyrush.cli import output
from keyrush.cli.doctor.cost import time_argon2
from keyrush.cli.doctor.issuers import look_at_issuers
from keyrush.cli.doctor.limits import look_at_limiter
from keyrush.cli.doctor.report import SETTINGS, Report
from keyrush.cli.doctor.store import look_at_files, look_at_ledgers, look_at_store, opened
from keyrush.core.policy import named_by_method_alone
from keyrush.errors import ConfigurationError
from keyrush.gate.gate import PASSES_PREFLIGHTS
from keyrush.gate.starting import modules_of_no_plan
from keyrush.settings.effective import effective, shown, source
from keyrush.settings.mistakes import similar, unknown_variables
from keyrush.settings.settings import PREFIX, Settings


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
            report.add("problem", "settings", line, SETTINGS)
        return report
    report.add("ok", "settings", "are valid")
    _look_at_doors(report, settings)
    look_at_issuers(report, settings)
    kept = opened(report, settings)
    if kept is not None:
        try:
            look_at_store(report, settings, kept)
            if report.active_keys is not None:  # it has answered
                look_at_ledgers(report, kept)
            look_at_files(report, settings)
            look_at_limiter(report, settings, kept.database)
        finally:
            kept.store.close()
    elif report.exit_code < SETTINGS and settings.limiter_url != "store":
        look_at_limiter(report, settings, None)
    time_argon2(report, settings)
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
    if not settings.rules:
        return
    for text in modules_of_no_plan(settings):
        report.add("warning", "rules", text)
    for tool, prices in _prices(settings).items():
        text = f"the tool {tool} costs {min(prices):,} or {max(prices):,} credits, depending on the"
        report.add("note", "rules", f"{text} rule; the capabilities show {max(prices):,}")
    if settings.unruled == "any_key":
        for path, methods in named_by_method_alone(settings.catalog().rules).items():
            named = ", ".join(sorted(methods))
            text = f"{path} is named for {named} alone: any valid key may send other methods"
            report.add("note", "rules", f"{text}; KEYRUSH_UNRULED=refuse closes them")
    if not settings.root_path:
        text = "where the app itself strips a prefix, as with FastAPI(root_path=…) or Django's "
        text += "FORCE_SCRIPT_NAME, rules hold for it only once KEYRUSH_ROOT_PATH names it"
        report.add("note", "rules", text)


def _prices(settings: Settings) -> dict[str, set[int]]:
    """Those of each tool that rules name with several."""
    found: dict[str, set[int]] = {}
    for rule in settings.rules:
        if rule.tool is not None:
            found.setdefault(rule.tool, set()).add(rule.credits)
    return {tool: prices for tool, prices in found.items() if len(prices) > 1}
