"""A visit: one request of somebody who is signed in, with all that a page needs."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar
from urllib.parse import quote, urlencode

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from keyrush.apps.dashboard import forms
from keyrush.apps.dashboard.brand import Brand
from keyrush.apps.dashboard.cookies import Cookies, cookie
from keyrush.apps.dashboard.frame import Frame
from keyrush.core.model import Account, Scopes
from keyrush.core.times import iso
from keyrush.errors import KeyrushError, Unavailable
from keyrush.gate.gate import Gate
from keyrush.runtime.workers import Pool

T = TypeVar("T")

#: How somebody has signed in.
Way = Literal["host", "session", "link"]

#: Of a cookie: what a browser is to remember for a year at most, or a minute.
YEAR, MINUTE = 365 * 86_400, 60

#: A path within the dashboard, as it stands in a URL, and characters of one that is gone back to.
_OURS = re.compile(r"/(?!/)[A-Za-z0-9/:@!$&'()*+,;=~._?%-]*")
_LONGEST = 2000

_SAID = "keyrush-said"
_THEME = "keyrush-theme"

#: The themes that can be chosen, with none for the system's.
THEMES = ("", "light", "dark")


@dataclass(frozen=True, slots=True)
class May:
    """Who is signed in, and what they may do on the account."""

    way: Way
    #: Names who is signed in for as long as they are, for tokens of forms alone.
    mark: str = field(repr=False)
    scopes: Scopes = field(default_factory=lambda: Scopes(["*"]))
    #: False of a link that only shows.
    write: bool = True
    #: The link of an issuer's subject, which keys are `created_by`; None of the account's owner.
    by: str | None = None
    subject: str | None = None
    #: The session that a link has become.
    session_id: str | None = None
    issued_at: int | None = None


class Stop(Exception):
    """Answer with this page, and go no further."""

    def __init__(self, name: str, status: int, **values: object) -> None:
        super().__init__(name)
        self.name, self.status, self.values = name, status, values


class Visit:
    """One request of somebody who is signed in. `may` and `account` are None on the pages that
    say that nobody is.
    """

    def __init__(
        self,
        frame: Frame,
        request: Request,
        *,
        may: May | None = None,
        account: Account | None = None,
    ) -> None:
        self.frame = frame
        self.request = request
        self.now = frame.gate.clock()  #: Unix milliseconds, the same for the whole page
        self.locale = frame.gate.settings.dashboard_language
        self.t = frame.texts
        self.formats = frame.formats
        self._may = may
        self._account = account
        self._fields: forms.Fields | None = None
        self._token: forms.Opened | None = None

    @property
    def gate(self) -> Gate:
        """The gate, with its operations."""
        return self.frame.gate

    @property
    def may(self) -> May:
        """What who is signed in may do."""
        assert self._may is not None  # noqa: S101  # no page is reached without
        return self._may

    @property
    def account(self) -> Account:
        """The account, as it was when the request came."""
        assert self._account is not None  # noqa: S101  # no page is reached without
        return self._account

    @property
    def account_id(self) -> str:
        """The account that is looked at, whatever else the request says."""
        return self.account.id

    @property
    def is_signed_in(self) -> bool:
        """Whether somebody is: False on the pages that say so."""
        return self._may is not None

    @property
    def brand(self) -> Brand:
        """Name, logo and links."""
        return self.frame.brand

    # --- where things are ---

    @property
    def back(self) -> str:
        """The path within the dashboard with its query, to come back to; as much of it as has no
        key in it.
        """
        query, keys = self.request.url.query, self.gate.key_format
        if keys.is_in(self.here):
            return "/"
        return self.here_quoted + (f"?{query}" if query and not keys.is_in(query) else "")

    @property
    def here_quoted(self) -> str:
        """`here`, as it stands in a URL."""
        return _quoted(self.here)

    @property
    def here(self) -> str:
        """The path within the dashboard, as in `/keys`."""
        root: str = self.request.scope["root_path"]
        path: str = self.request.scope["path"]
        return path.removeprefix(root) or "/"

    def path(self, to: str = "/", /, **query: object) -> str:
        """A path for links, under the dashboard's mount, of no host; with what is not None of
        `query`.
        """
        root: str = self.request.scope["root_path"]
        given = {name: value for name, value in query.items() if value is not None}
        return f"{_quoted(root)}{to}" + (f"?{urlencode(given)}" if given else "")

    def asset(self, name: str) -> str:
        """The path of a file that is served as it is."""
        return self.path(f"/static/{self.frame.assets.name(name)}")

    # --- what is asked of the store ---

    async def run(self, function: Callable[..., T], *args: Any, pool: Pool = "io") -> T:
        """`function(*args)` in a worker thread. Hashing is for the pool `hash`.

        Raises:
            KeyrushError: Whatever the operation says.
            Unavailable: The store can't answer; the frame says so.
        """
        return await asked(self.gate, function, *args, pool=pool)

    # --- forms ---

    def token(self, form: str | None = None, *, mark: str | None = None) -> Markup:
        """The hidden field of a form that is posted to a path within the dashboard, or here: for
        who is signed in, or for another `mark`, as for everybody the empty one.
        """
        mark = self._mark if mark is None else mark
        token = self.frame.forms.make(mark, form or self.here, self.now)
        return Markup('<input type="hidden" name="{}" value="{}">').format(forms.TOKEN, token)

    async def form(self, *, write: bool = True) -> forms.Fields:
        """The fields that were posted, now that the form is known to be ours, and by one who may
        change something, unless it is none that does (`write`).

        Raises:
            Stop: It is not, or they may not: nothing is to be changed.
        """
        if self._fields is None:
            fields = await self.posted()
            if write and self._may is not None and not self._may.write:
                raise Stop("read_only", 403)
            self._token = self._opened(fields.get(forms.TOKEN, ""))
            if self._token is None:
                raise Stop("form_too_old", 403, fields=kept(self.gate, fields))
            self._fields = fields
        return self._fields

    def _opened(self, token: str) -> forms.Opened | None:
        """The token, if it was made for who is signed in, or for this browser while nobody was."""
        marks = [self._mark]
        if again := Cookies.of(self.request).again:
            marks.append(_again(again))
        found = (self.frame.forms.open(token, mark, self.here, self.now) for mark in marks)
        return next((one for one in found if one is not None), None)

    async def spend(self) -> bool:
        """True the first time that this very form is sent; from then on False, as for a page that
        is loaded again.
        """
        await self.form()
        assert self._token is not None  # noqa: S101  # without it there is no form
        return await self.run(self.gate.portal.spend, *self._token)

    @property
    def _mark(self) -> str:
        return self._may.mark if self._may is not None else ""

    async def posted(self) -> forms.Fields:
        """What was posted, whoever has made the form.

        Raises:
            Stop: It is no form, or more than any has.
        """
        body = b""
        async for part in self.request.stream():
            body += part
            if len(body) > forms.MAX_FORM:
                raise Stop("too_large", 413)
        try:
            return forms.parse(body, self.request.headers.get("content-type", ""))
        except forms.NoForm:
            raise Stop("no_form", 415) from None

    # --- answers ---

    def render(self, template: str, *, status: int = 200, **context: object) -> Response:
        """A page, with all its headers."""
        said = self._said()
        html = self.frame.templates.get_template(template).render(
            visit=self,
            t=self.t,
            formats=self.formats,
            iso=iso,
            path=self.path,
            asset=self.asset,
            said=said,
            **context,
        )
        response = HTMLResponse(html, status)
        if said is not None:
            response.delete_cookie(_SAID, path=self._root)
        return response

    def redirect(self, to: str, *, said: str | None = None, **query: object) -> Response:
        """On to another page of ours (303), which says `said`, once."""
        response = RedirectResponse(self.path(to, **query), 303)
        if said is not None:
            sealed = self.frame.forms.seal(self._mark, said[:500])
            self._set(response, _SAID, sealed, MINUTE)
        return response

    def redirect_back(self, to: str) -> Response:
        """On to where a page of ours says that it was; to the first page, where it can't have."""
        is_ours = len(to) <= _LONGEST and _OURS.fullmatch(to) is not None
        return RedirectResponse(self.path(to if is_ours else "/"), 303)

    def signed_out(self, name: str, fields: forms.Fields | None = None) -> Response:
        """The page that says that nobody is signed in, with what was posted, to be sent again by
        this very browser once somebody is.
        """
        again = Cookies.of(self.request).again or secrets.token_urlsafe(16)
        response = self.render(
            "signed_out.html",
            status=401,
            name=name,
            sign_in=self._sign_in_url(),
            fields=None if fields is None else kept(self.gate, fields),
            again=self.token(mark=_again(again)),
        )
        if fields is not None:
            Cookies.of(self.request).remember_again(response, again)
        return response

    def _sign_in_url(self) -> str | None:
        """Where people sign in, and come back from to where they are."""
        url = self.frame.sign_in_url
        if url is None:
            return None
        here = self.path("/") if self.request.method == "POST" else self.path(self.back)
        return url.replace("{next}", quote(here, safe=""))

    @property
    def theme(self) -> str:
        """The theme that was chosen, empty for the system's."""
        chosen = cookie(self.request, _THEME) or ""
        return chosen if chosen in THEMES else ""

    def set_theme(self, response: Response, theme: str) -> None:
        """Have the browser remember a theme."""
        self._set(response, _THEME, theme if theme in THEMES else "", YEAR)

    def _said(self) -> str | None:
        sealed = cookie(self.request, _SAID)
        if not sealed or self._may is None or self.request.method == "POST":
            return None
        return self.frame.forms.unseal(self._mark, sealed)

    def _set(self, response: Response, name: str, value: str, seconds: int) -> None:
        response.set_cookie(
            name,
            value,
            max_age=seconds,
            path=self._root,
            secure=self.request.url.scheme == "https",
            httponly=True,
            samesite="lax",
        )

    @property
    def _root(self) -> str:
        return _quoted(self.request.scope["root_path"]) or "/"


async def asked(gate: Gate, function: Callable[..., T], *args: Any, pool: Pool = "io") -> T:
    """`function(*args)` in a worker thread of the gate.

    Raises:
        KeyrushError: Whatever the operation says.
        Unavailable: The store can't answer.
    """
    try:
        return await gate.workers.run(pool, function, *args)
    except KeyrushError:
        raise
    except Exception as error:  # a store of a user's own may raise anything
        raise Unavailable(f"the store can't answer: {type(error).__name__}") from error


def _again(nonce: str) -> str:
    return f"again {nonce}"


def kept(gate: Gate, fields: forms.Fields) -> list[tuple[str, str]]:
    """The fields that a page may carry along until they can be sent again: never a token, nor what
    may be a key.
    """
    format_ = gate.key_format
    return [
        (name, value)
        for name, value in fields.pairs
        if name != forms.TOKEN and not format_.is_in(value) and not format_.is_in(name)
    ]


def _quoted(path: str) -> str:
    return quote(path, safe="/:@!$&'()*+,;=~-._")
