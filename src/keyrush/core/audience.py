"""What a token is good for: resources, by canonical URI (RFC 8707 §2)."""

from __future__ import annotations

import re

_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^\x00-\x20]*)")


def canonical(name: str) -> str:
    """A resource in the one form in which it is compared: scheme and host in lower case, and no
    path in place of `/` (S86). What is no URI is as it was.
    """
    found = _URI.fullmatch(name) if name.isascii() else None  # some letters become others
    if found is None:
        return name
    scheme, host, rest = found.groups()
    return f"{scheme.lower()}://{host.lower()}{'' if rest == '/' else rest}"
