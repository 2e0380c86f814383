"""What is served where, and what every answer has."""

from __future__ import annotations

import re
from urllib.parse import unquote

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from keyrush.apps.dashboard.endpoints import state
from keyrush.apps.dashboard.frame import FRAME, AccountOf, Frame
from keyrush.apps.dashboard.pages import ROUTES as PAGES
from keyrush.apps.dashboard.portal import ROUTES as SIGNING_IN
from keyrush.apps.dashboard.visit import Visit
from keyrush.gate.gate import GATE, Gate

#: In Accept-Encoding, but with a weight of 0 (RFC 9110 §12.4.2).
_GZIP = re.compile(r"gzip(?:;q=(?!0(?:\.0*)?$)[0-9.]+)?")

#: A year: files are named by what is in them.
_FOR_GOOD = "public, max-age=31536000, immutable"


async def _asset(request: Request) -> Response:
    """A file, compressed where the browser takes that."""
    frame: Frame = request.scope[FRAME]
    asset = frame.assets.get(request.path_params["name"])
    if asset is None:
        return state(Visit(frame, request), "not_found", 404)
    headers = {"Cache-Control": _FOR_GOOD, "ETag": asset.etag, "Vary": "Accept-Encoding"}
    if asset.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    content = asset.content
    if asset.packed is not None and _takes_gzip(request):
        headers["Content-Encoding"] = "gzip"
        content = asset.packed
    return Response(content, headers=headers, media_type=asset.kind)


def _takes_gzip(request: Request) -> bool:
    """Whether the browser takes it compressed: it names gzip, and not with a weight of 0."""
    accepted = request.headers.get("accept-encoding", "").replace(" ", "").lower().split(",")
    return any(_GZIP.fullmatch(one) for one in accepted)


class _Otherwise:
    """Answers what none of the routes does."""

    def __init__(self, name: str, status: int, allow: str | None = None) -> None:
        self._name, self._status, self._allow = name, status, allow

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await WebSocketClose()(scope, receive, send)
            return
        request = Request(scope, receive)
        response = state(Visit(scope[FRAME], request), self._name, self._status)
        if self._allow is not None:
            response.headers["Allow"] = self._allow
        await response(scope, receive, send)


def _wrong_methods(routes: list[Route]) -> list[Route]:
    """Routes behind the others, for what none of a path's has the method of."""
    allowed: dict[str, set[str]] = {}
    for route in routes:
        allowed.setdefault(route.path, set()).update(route.methods or ())
    return [
        Route(path, _Otherwise("wrong_method", 405, ", ".join(sorted(methods))))
        for path, methods in allowed.items()
    ]


ROUTES = [*SIGNING_IN, *PAGES, Route("/static/{name}", _asset, methods=["GET"])]

_ROUTER = Router(
    [*ROUTES, *_wrong_methods(ROUTES)],
    default=_Otherwise("not_found", 404),
    redirect_slashes=False,
)


class Dashboard:
    """The dashboard, an ASGI app: behind `KeyrushMiddleware`, or by itself with a `gate`.

    `account_of` says, of a request, which account the app around has signed somebody in to, or
    None; a function or a coroutine function. `sign_in_url` is where they sign in: `{next}` in it
    is the page that they came from. It stands before the setting `KEYRUSH_DASHBOARD_SIGN_IN_URL`.
    With `only`, the id of an account, nobody else sees anything, however they are signed in.
    """

    def __init__(
        self,
        gate: Gate | None = None,
        *,
        account_of: AccountOf | None = None,
        sign_in_url: str | None = None,
        only: str | None = None,
    ) -> None:
        self._gate = gate
        self._account_of = account_of
        self._only = only
        self._sign_in_url = sign_in_url
        self._frame: Frame | None = None if gate is None else self._framed(gate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request.

        Raises:
            RuntimeError: It has no gate, and no `KeyrushMiddleware` in front of it.
        """
        if scope["type"] == "lifespan":
            await _ROUTER(scope, receive, send)
            return
        gate = self._gate or scope.get(GATE)
        if gate is None:
            raise RuntimeError(
                "keyrush.apps.dashboard needs KeyrushMiddleware in front of it, as by "
                "app.add_middleware(KeyrushMiddleware), or a gate: Dashboard(gate=…)"
            )
        frame = self._frame
        if frame is None or frame.gate is not gate:
            frame = self._frame = self._framed(gate)
        app: ASGIApp = _ROUTER
        await app({**_within(scope), FRAME: frame}, receive, _with_headers(frame, send))

    def _framed(self, gate: Gate) -> Frame:
        return Frame(gate, self._account_of, self._sign_in_url, self._only)


#: The dashboard as settings have it, behind `KeyrushMiddleware`.
dashboard = Dashboard()


def _within(scope: Scope) -> Scope:
    """The scope with the place of the dashboard as its `root_path`, as ASGI has it: `path` begins
    with it. Servers and frameworks differ in what they leave in either.
    """
    root, path = scope.get("root_path", ""), scope.get("path", "")
    inside = _inside(root, path)
    if not root:  # some frameworks tell by the path as it was sent, or not at all
        sent = unquote((scope.get("raw_path") or b"").decode("ascii", "replace"))
        if sent.endswith(inside):
            root = sent[: len(sent) - len(inside)]
    root = root.rstrip("/")
    if root.startswith("//"):  # which would be a host in links
        root = "/" + root.lstrip("/")
    if len(inside) > 1:  # a slash at the end never matters
        inside = inside.rstrip("/") or "/"
    return {**scope, "root_path": root, "path": root + inside}


def _inside(root: str, path: str) -> str:
    """The path within what is mounted at `root`, of which a proxy may have stripped a part."""
    while root:
        if path == root or path.startswith(f"{root}/"):
            return path[len(root) :] or "/"
        root = root[1:]
        cut = root.find("/")
        root = root[cut:] if cut >= 0 else ""
    return path or "/"


def _with_headers(frame: Frame, send: Send) -> Send:
    """A `send` whose answers have what all of them must: no other page shows, reads, guesses at or
    keeps them, and no script, style or form of others is in them.
    """

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["Content-Security-Policy"] = frame.policy
            headers["Referrer-Policy"] = "no-referrer"
            headers["X-Content-Type-Options"] = "nosniff"
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return sending
