"""The challenge of a refusal: `WWW-Authenticate` (RFC 6750 §3, RFC 9728 §5.1)."""

from __future__ import annotations

import re

from keyrush.core.refusal import MEANINGS, Refusal
from keyrush.core.resources import Resource

#: A scope-token (RFC 6749 §3.3). Other names were never granted to anybody.
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")

#: The realm of all resources.
MCP_REALM = "mcp"

UNAUTHORIZED = 401


def challenge(refusal: Refusal, realm: str, resource: Resource | None = None) -> str | None:
    """The field's value, exactly as tabled in the standards list (S4, S13–S18); None where a
    refusal has none, because no other credential would help.

    Of a resource it names the metadata, and what scopes to ask for: all of the operation where
    these are what is missing, else all that there are (S62, S63, S87).
    """
    meaning = MEANINGS[refusal.reason]
    if meaning.error is None:
        return None
    value = f'Bearer realm="{realm if resource is None else MCP_REALM}"'
    if meaning.error:
        value += f', error="{meaning.error}"'
    if meaning.description:
        value += f', error_description="{meaning.description}"'
    names = refusal.names if refusal.reason == "insufficient_scope" else ()
    value += _scope(names)
    if resource is not None:
        value += f', resource_metadata="{resource.metadata_url}"'
        if refusal.status == UNAUTHORIZED:
            value += _scope(resource.scopes_supported)
    return value


def _scope(names: tuple[str, ...]) -> str:
    if names and all(_SCOPE.fullmatch(name) for name in names):
        return f', scope="{" ".join(names)}"'
    return ""
