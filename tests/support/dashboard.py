"""A dashboard without a socket, and a browser for it that keeps cookies and sends forms as browsers
do, with what they say of where a form was sent from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlencode, urlsplit

from tests.support.calls import Headers, Sent, run, scope_of

#: What the tests' dashboards are reached at.
HTTPS = "https://app.example"


@dataclass
class Form:
    """A form of a page, with what its fields hold."""

    action: str
    method: str
    fields: list[tuple[str, str]] = field(default_factory=list)
    buttons: list[tuple[str, str]] = field(default_factory=list)


class _Reader(HTMLParser):
    """Reads what browsers would send of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.links: list[str] = []
        self.texts: list[str] = []
        self._select: str | None = None
        self._textarea: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append(Form(given.get("action", ""), given.get("method", "get").lower()))
        elif tag == "a":
            self.links.append(given.get("href", ""))
        elif self.forms and "name" in given and "disabled" not in given:
            self._field(tag, given)
        elif tag == "option" and self._select and "selected" in given:
            self.forms[-1].fields.append((self._select, given.get("value", "")))

    def _field(self, tag: str, given: Mapping[str, str]) -> None:
        pair = given["name"], given.get("value", "")
        if tag == "button" or given.get("type") == "submit":
            self.forms[-1].buttons.append(pair)
        elif tag == "select":
            self._select = given["name"]
        elif tag == "input" and (
            given.get("type") not in {"radio", "checkbox"} or "checked" in given
        ):
            self.forms[-1].fields.append(pair)

    def handle_endtag(self, tag: str) -> None:
        if tag == "select":
            self._select = None

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@dataclass
class Page:
    """An answer, as a browser has it."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    path: str

    def __getitem__(self, name: str) -> str:
        values = [value for found, value in self.headers if found == name]
        assert len(values) == 1, f"{name}: {values}"
        return values[0]

    def __contains__(self, name: str) -> bool:
        return any(found == name for found, _ in self.headers)

    @property
    def text(self) -> str:
        """The document."""
        return self.body.decode()

    @property
    def _read(self) -> _Reader:
        reader = _Reader()
        reader.feed(self.text)
        return reader

    @property
    def said(self) -> str:
        """What it says, without markup."""
        return " ".join(" ".join(self._read.texts).split())

    @property
    def links(self) -> list[str]:
        """Where its links lead."""
        return self._read.links

    def form(self, action: str) -> Form:
        """The form that is sent to a path."""
        found = [form for form in self._read.forms if urlsplit(form.action).path == action]
        assert len(found) == 1, f"{action}: {[form.action for form in self._read.forms]}"
        return found[0]


class Browser:
    """Somebody's browser at an ASGI app. `more` goes into the scope, as servers have it."""

    def __init__(self, app: Any, url: str = HTTPS, **more: Any) -> None:
        self.app = app
        self.url = urlsplit(url)
        self.more = more
        self.cookies: dict[str, str] = {}
        #: Sent with every request.
        self.headers: list[tuple[str, str]] = []

    def get(self, path: str, *headers: tuple[str, str], method: str = "GET") -> Page:
        """Open a path."""
        return run(self.send(Sent(path, [*headers], method)))

    def post(
        self,
        path: str,
        fields: Iterable[tuple[str, str]] | Mapping[str, str] = (),
        *headers: tuple[str, str],
    ) -> Page:
        """Send a form that a page of the same origin has."""
        return run(self.posting(path, fields, *headers))

    async def posting(
        self,
        path: str,
        fields: Iterable[tuple[str, str]] | Mapping[str, str] = (),
        *headers: tuple[str, str],
    ) -> Page:
        """`post`, awaited."""
        pairs = list(fields.items() if isinstance(fields, Mapping) else fields)
        given = {name.lower() for name, _ in headers}
        usual = [
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("Origin", f"{self.url.scheme}://{self.url.netloc}"),
            ("Sec-Fetch-Site", "same-origin"),
        ]
        sent: Headers = [*headers, *(pair for pair in usual if pair[0].lower() not in given)]
        return await self.send(Sent(path, sent, "POST"), urlencode(pairs).encode())

    def submit(
        self, page: Page, action: str, fields: Mapping[str, str] | None = None, **more: str
    ) -> Page:
        """Fill in a form of a page, and send it. Boxes and choices that are given replace the
        form's own.
        """
        form = page.form(action)
        given = dict(fields or {}) | more
        pairs = [pair for pair in form.fields if pair[0] not in given]
        return self.post(action, [*pairs, *given.items()])

    def follow(self, page: Page) -> Page:
        """Go where an answer leads, on this host."""
        assert page.status == 303, (page.status, page.said)
        target = page["location"]
        assert target.startswith("/"), target
        assert not target.startswith("//"), target
        return self.get(target)

    async def send(self, sent: Sent, body: bytes = b"") -> Page:
        """Send a request, with the cookies that there are, and keep those that come."""
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        headers: list[tuple[str, str | bytes]] = [
            ("host", self.url.netloc),
            *((name.lower(), value) for name, value in (*self.headers, *sent.headers)),
            *([("cookie", cookies)] if cookies else []),
        ]
        scope = scope_of(Sent(sent.path, headers, sent.method), scheme=self.url.scheme, **self.more)
        messages: list[Any] = []
        unread = [body]

        async def receive() -> Any:
            content = unread.pop() if unread else b""
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message: Any) -> None:
            messages.append(message)

        await self.app(scope, receive, send)
        start, *bodies = messages
        page = Page(
            start["status"],
            [(name.decode(), value.decode("latin-1")) for name, value in start["headers"]],
            b"".join(message.get("body", b"") for message in bodies),
            sent.path,
        )
        self._keep(page)
        return page

    def _keep(self, page: Page) -> None:
        is_safe = self.url.scheme == "https" or self.url.hostname in {"localhost", "127.0.0.1"}
        for name, value in page.headers:
            if name != "set-cookie":
                continue
            for cookie, morsel in SimpleCookie(value).items():
                if morsel["secure"] and not is_safe:
                    continue  # as browsers do
                if cookie.startswith("__Host-"):
                    assert (morsel["path"], morsel["domain"], morsel["secure"]) == ("/", "", True)
                if morsel["max-age"] == "0":
                    self.cookies.pop(cookie, None)
                else:
                    self.cookies[cookie] = morsel.value
