"""Issuers of tokens: whether their keys can be had, and what is weak about them."""

from __future__ import annotations

from keyrush.cli.doctor.report import SETTINGS, STORE, Report
from keyrush.core.issuers import HS256, Issuer
from keyrush.core.notation import counted
from keyrush.settings.settings import Settings


def look_at_issuers(report: Report, settings: Settings) -> None:
    """Look at each issuer that the settings name, and ask it for its keys."""
    for issuer in settings.issuer_values:
        about = f"issuer {issuer.issuer} ({issuer.kind})"
        if HS256 in issuer.algorithms:
            text = (
                "HS256: whoever can verify a token can make one, so that the secret is to be kept "
                "as the issuer keeps it; asymmetric keys need none"
            )
            report.add("warning", about, text)
        if issuer.has_keys:
            _look_at_keys(report, about, issuer)
        if issuer.anonymous:
            text = "anonymous users are let in: whoever asks the issuer for a token has one"
            report.add("note", about, text)


def _look_at_keys(report: Report, about: str, issuer: Issuer) -> None:
    try:
        from keyrush.authentication.tokens.fetching import FetchError, fetch_keys  # noqa: PLC0415
        from keyrush.authentication.tokens.jwks import usable  # noqa: PLC0415
    except ModuleNotFoundError as error:
        text = f"needs the module {error.name!r}: pip install 'keyrush[tokens]'"
        report.add("problem", about, text, SETTINGS)
        return
    try:
        published = fetch_keys(issuer)
    except FetchError as error:
        report.add("problem", about, str(error), STORE)
        return
    keys = usable(published, issuer)
    if not keys:
        wanted = ", ".join(issuer.algorithms)
        text = f"{counted(len(published), 'key')}, none for verifying by {wanted}"
        if not published and issuer.preset == "supabase":
            text += "; a project that still signs by a shared secret publishes none"
        report.add("problem", about, text, SETTINGS)
        return
    algorithms = ", ".join(sorted({key.algorithm for key in keys}))
    text = f"{counted(len(keys), 'key')} for {algorithms}"
    if left := len(published) - len(keys):
        text += f"; {counted(left, 'other')} of no use here"
    report.add("ok", about, text)
