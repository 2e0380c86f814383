"""What may be shown of a URL: nothing that may belong to a password.

Where a password holds a raw `@`, `/`, `?` or `#`, programs disagree on where it ends, and its
tail is taken for a host, a path or an option, which all of them show.
"""

from __future__ import annotations

import re
import sys
from urllib.parse import unquote

from keyrush.errors import ConfigurationError

_PLACE = r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"

#: A URL of which every reader says the same: one `@` at most, and only at the end of a login.
_PLAIN = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+._-]*)://"
    r"(?P<login>[^@/?#\\\[\]]*@)?"
    rf"(?P<rest>(?:{_PLACE}(?:,{_PLACE})*)?(?:/[^@?]*)?)"
    r"(?P<options>\?[^@]*)?"
)

#: `package.module:Name`
OWN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")

#: Options whose values are no secrets, so that a driver's own words about them may be shown.
_HARMLESS = {
    *("application_name", "client_encoding", "connect_timeout", "dbname", "gssencmode", "host"),
    *("hostaddr", "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval"),
    *("options", "port", "sslcert", "sslmode", "sslrootcert", "target_session_attrs"),
    *("tcp_user_timeout", "user"),  # of PostgreSQL; then those of SQLite
    *("cache", "immutable", "mode", "nolock", "psow", "timeout", "uri", "vfs"),
}


def readable(url: str) -> str:
    """What may be shown of the URL, or of `package.module:Name`, in a setting.

    Hosts, ports and the path, but neither user nor password nor options; where there is doubt,
    the scheme alone.
    """
    scheme, separator, _ = url.partition("://")
    if not separator:
        return _own(url)
    if found := _plain(url):
        login = "***@" if found["login"] else ""
        options = "?…" if found["options"] else ""
        return f"{found['scheme']}://{login}{found['rest']}{options}"
    return f"{scheme}://…" if re.fullmatch(r"[A-Za-z][A-Za-z0-9+]*", scheme) else "…"


def _own(name: str) -> str:
    if name == "store" or not name:
        return name
    if not OWN.fullmatch(name):
        return "…"
    module, _, attribute = name.partition(":")
    # What has been imported is a name, and no password after a scheme.
    return name if hasattr(sys.modules.get(module), attribute) else f"{module}:…"


#: What is asked for over HTTP: a host, perhaps a port, a path and a query, and nothing else.
_WEB = re.compile(
    r"(https?)://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
    r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)?(?:\?[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*)?"
)

_LOOPBACK = re.compile(r"localhost|127(?:\.[0-9]{1,3}){3}|\[::1\]", re.IGNORECASE)


def is_safe(url: str) -> bool:
    """True where what is fetched from the URL comes from its host: over https, or from this
    machine (`localhost`, 127.0.0.0/8, `[::1]`). It has no login and no fragment.
    """
    found = _WEB.fullmatch(url)
    return found is not None and (found[1] == "https" or _LOOPBACK.fullmatch(found[2]) is not None)


def is_plain(url: str) -> bool:
    """True when it is beyond doubt which part of the URL is what."""
    return _plain(url) is not None


def _plain(url: str) -> re.Match[str] | None:
    return _PLAIN.fullmatch(url) if url.isprintable() else None


def is_quotable(url: str) -> bool:
    """True when what a driver says of the URL, in whatever words, can hold no secret of it."""
    found = _plain(url)
    if not found:
        return False
    options = (found["options"] or "?")[1:].split("&")
    return {unquote(option.partition("=")[0]) for option in options if option} <= _HARMLESS


def doubtful(setting: str) -> ConfigurationError:
    """The error for a URL that is not plain, without a word of it."""
    return ConfigurationError(
        f"{setting}: it is in doubt which part of the URL is the password; percent-escape "
        "whatever is no letter or digit in user, password and options, as %40 for @"
    )
