"""The challenge of a refusal: `WWW-Authenticate` (RFC 6750 §3)."""

from __future__ import annotations

import re

from keyrush.core.refusal import MEANINGS, Refusal

#: A scope-token (RFC 6749 §3.3). Other names were never granted to anybody.
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")


def challenge(refusal: Refusal, realm: str) -> str | None:
    """The field's value, exactly as tabled in the standards list (S4, S13–S18); None where a
    refusal has none, because no other credential would help.
    """
    meaning = MEANINGS[refusal.reason]
    if meaning.error is None:
        return None
    value = f'Bearer realm="{realm}"'
    if meaning.error:
        value += f', error="{meaning.error}"'
    if meaning.description:
        value += f', error_description="{meaning.description}"'
    names = refusal.names if refusal.reason == "insufficient_scope" else ()
    if names and all(_SCOPE.fullmatch(name) for name in names):
        value += f', scope="{" ".join(names)}"'
    return value
