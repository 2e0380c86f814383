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

_LOOPBACK = re.compile(
    r"(?:localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])(?::[0-9]{1,5})?", re.IGNORECASE
)


class Cookies(NamedTuple):
    """How cookies are called and kept, where a request has come."""

    request: Request
    is_plain: bool  #: over http, on this very machine

    @classmethod
    def of(cls, request: Request) -> Cookies:
        """Those of a request. Only on loopback may they go without https."""
        is_plain = (
            request.url.scheme == "http"
            and request.headers.get("x-forwarded-proto", "http") == "http"
            and _LOOPBACK.fullmatch(request.headers.get("host", "")) is not None
        )
        return cls(request, is_plain)

    @property
    def session(self) -> str | None:
        """The token of a session that a link has become."""
        return self.request.cookies.get(self._name(_SESSION))

    @property
    def again(self) -> str | None:
        """What a browser has that was shown, signed out, a form to be sent again."""
        return self.request.cookies.get(self._name(_AGAIN))

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
