"""Cookies, whose values are ours alone: the session of a link, the theme, what was just said."""

from __future__ import annotations

import re
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from keyrush.core.portal import SESSION_AGE
from keyrush.core.times import SECOND

#: What a browser keeps under this name came over https, from this very host, for all of its paths
#: (RFC 6265bis §4.1.3.2): nobody beside it can have put it there.
_HOST = "__Host-"

_SESSION = "keyrush-session"
_AGAIN = "keyrush-again"

#: What proxies add to a request, beside the scheme; the first version of HTTP is one's, too.
_PROXIED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")

_LOOPBACK = re.compile(
    r"(?:localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])(?::[0-9]{1,5})?", re.IGNORECASE
)


def cookie(request: Request, name: str) -> str | None:
    """The value of the cookie of that very name; of several the last.

    Around names, browsers leave out spaces and tabs alone. Where more is left out, as by Starlette,
    a host beside this one can plant what begins with the prefix.
    """
    found = None
    for header in request.headers.getlist("cookie"):
        for pair in header.split(";"):
            key, _, value = pair.partition("=")
            if key.strip(" \t") == name:
                found = value.strip(" \t").strip('"')
    return found


class Cookies(NamedTuple):
    """How cookies are called and kept, where a request has come."""

    request: Request
    is_plain: bool  #: over http, on this very machine

    @classmethod
    def of(cls, request: Request) -> Cookies:
        """Those of a request. Only on loopback may they go without https, and not behind a proxy,
        which may have come by https itself, unless it says that it has not.
        """
        headers = request.headers
        is_plain = (
            request.url.scheme == "http"
            and _LOOPBACK.fullmatch(headers.get("host", "")) is not None
            and headers.get("x-forwarded-proto", _scheme(request)) == "http"
        )
        return cls(request, is_plain)

    @property
    def session(self) -> str | None:
        """The token of a session that a link has become."""
        return cookie(self.request, self._name(_SESSION))

    @property
    def again(self) -> str | None:
        """What a browser has that was shown, signed out, a form to be sent again."""
        return cookie(self.request, self._name(_AGAIN))

    def remember(self, response: Response, token: str) -> None:
        """Have the browser keep the token of a session."""
        self._set(response, _SESSION, token, SESSION_AGE // SECOND)

    def remember_again(self, response: Response, nonce: str) -> None:
        """Have the browser know itself once it is signed in again."""
        self._set(response, _AGAIN, nonce, SESSION_AGE // SECOND)

    def forget(self, response: Response) -> None:
        """Have the browser forget its session."""
        self._set(response, _SESSION, "", 0)

    def _name(self, name: str) -> str:
        return name if self.is_plain else _HOST + name

    def _set(self, response: Response, name: str, value: str, seconds: int) -> None:
        response.set_cookie(
            self._name(name),
            value,
            max_age=seconds,
            path="/",  # which the prefix asks for
            secure=not self.is_plain,
            httponly=True,
            samesite="lax",
        )


def _scheme(request: Request) -> str:
    """What the browser has come by, where no proxy says so; empty where there is one."""
    is_proxied = request.scope.get("http_version") == "1.0" or any(
        name in request.headers for name in _PROXIED
    )
    return "" if is_proxied else "http"
