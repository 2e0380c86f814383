"""What is served where, and how what is served nowhere is answered."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from keyrush.apps.account_api import account, credentials
from keyrush.apps.account_api.frame import answering, refused
from keyrush.apps.account_api.openapi import openapi
from keyrush.core.refusal import Refusal
from keyrush.gate.gate import GATE


async def _document(request: Request) -> Response:
    mounted_at: str = request.scope.get("root_path", "")
    if not mounted_at:  # some frameworks tell by the path as it was sent, or not at all
        sent: bytes = request.scope.get("raw_path") or b""
        mounted_at = sent.decode("ascii", "replace").removesuffix("/openapi.json")
    return JSONResponse(openapi(mounted_at))


class _WrongMethod:
    """Answers what none of a path's routes do, with the documented body (R8)."""

    def __init__(self, methods: set[str]) -> None:
        self._allow = (b"allow", ", ".join(sorted(methods)).encode("ascii"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = Refusal("method_not_allowed", headers=(self._allow,))
        await refused(scope[GATE], refusal)(scope, receive, send)


async def _no_route(scope: Scope, receive: Receive, send: Send) -> None:
    answer: ASGIApp = WebSocketClose()
    if scope["type"] == "http":
        answer = refused(scope[GATE], Refusal("not_found"))
    await answer(scope, receive, send)


_KEYS = "/me/api-credentials"
_KEY = f"{_KEYS}/{{credential_id}}"

ROUTES = [
    Route(_KEYS, answering(credentials.create, 201), methods=["POST"]),
    Route(_KEYS, answering(credentials.list_), methods=["GET"]),
    Route(_KEY, answering(credentials.edit), methods=["PATCH"]),
    Route(f"{_KEY}/revoke", answering(credentials.revoke), methods=["POST"]),
    Route(f"{_KEY}/rotate", answering(credentials.rotate, 201), methods=["POST"]),
    Route("/me/credits", answering(account.credits), methods=["GET"]),
    Route("/me/usage", answering(account.usage), methods=["GET"]),
    Route("/capabilities", account.capabilities, methods=["GET", "POST"]),
    Route("/openapi.json", _document, methods=["GET"]),
]


def _methods(path: str) -> set[str]:
    return set[str]().union(*(one.methods or () for one in ROUTES if one.path == path))


_router = Router(
    [
        *ROUTES,
        *(Route(path, _WrongMethod(_methods(path))) for path in {one.path: 0 for one in ROUTES}),
    ],
    default=_no_route,
    redirect_slashes=False,
)


async def account_api(scope: Scope, receive: Receive, send: Send) -> None:
    """The account API, an ASGI app. See the module for what it serves.

    Raises:
        RuntimeError: There is no `KeyrushMiddleware` in front of it.
    """
    if scope["type"] != "lifespan" and GATE not in scope:
        raise RuntimeError(
            "keyrush.apps.account_api must not be reached but through KeyrushMiddleware: "
            "app.add_middleware(KeyrushMiddleware)"
        )
    path = scope.get("path", "")
    if path.endswith("/"):  # which never matters, and which Litestar puts at the end of a mount's
        scope = {**scope, "path": path[:-1]}
    await _router(scope, receive, send)
