"""One small app in every framework: the same routes, each answering with a marker that tells which
resource was served, behind the gate or bare, at the root or under a prefix.
"""
# Django brings no types.
# mypy: disable-error-code="import-untyped"

from __future__ import annotations

import posixpath
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import parse_qs

import django
import flask
import litestar
import quart
from django.conf import settings as django_settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.test.utils import override_settings
from django.urls import path as django_path
from django.urls import re_path as django_re_path
from django.views.decorators.http import require_http_methods
from fastapi import FastAPI
from litestar.enums import HttpMethod
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from keyrush import Gate, KeyrushMiddleware, wsgi
from tests.conftest import settings

#: The header that says which resource was served; HEAD has it too.
SERVED = "x-served"

#: Where apps stand that have one.
PREFIX = "/api"


# --- what is served ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Resource:
    """A route of every app. `path` is written as in a rule."""

    name: str
    path: str
    methods: tuple[str, ...] = ("GET",)


RESOURCES = (
    Resource("health", "/health"),
    Resource("me", "/v1/me"),
    Resource("audit", "/v1/tools/audit", ("GET", "POST", "OPTIONS")),
    Resource("articles", "/v1/articles/{id}", ("GET", "POST", "PUT")),
    Resource("search", "/v1/search"),
    Resource("insights", "/v1/insights"),
    Resource("generate", "/v1/generate", ("GET", "POST")),
    Resource("files", "/v1/files/{rest:path}"),
    Resource("items", "/v1/items/"),
    Resource("docs", "/v1/docs"),
    Resource("page", "/v1/docs/{rest:path}"),
    Resource("hooks", "/v1/hooks"),
    Resource("hook", "/v1/hooks/{id}", ("GET", "POST")),
    Resource("secret", "/v1/hooks/{id}/secret"),
)

#: What is open, and what the settings say of it.
PUBLIC = {"health": "/health", "page": "/v1/docs/*", "hook": "/v1/hooks/{id}"}

#: What a caller needs for what is marked so: a scope, a module, or credits. The others take any
#: key, where they are not public.
NEEDS = {
    "audit": "run:audit",
    "articles.read": "read:articles",
    "articles.write": "write:articles",
    "search.sentiment": "sentiment",
    "insights": "insights",
    "generate": "credits",
    "files": "read:files",
    "items": "read:items",
}

SCOPES = tuple(need for need in NEEDS.values() if ":" in need)
MODULES = tuple(need for need in NEEDS.values() if need.isalpha() and need != "credits")


def rules(prefix: str = "") -> list[dict[str, Any]]:
    """The rules that say so, for paths that begin with `prefix`."""
    given: list[dict[str, Any]] = [
        {"path": "/v1/tools/audit", "scopes": ["run:audit"]},
        {"path": "/v1/articles/{id}", "methods": ["GET"], "scopes": ["read:articles"]},
        {"path": "/v1/articles/{id}", "methods": ["POST", "PUT"], "scopes": ["write:articles"]},
        {"path": "/v1/search", "modules_from": "include"},
        {"path": "/v1/insights", "modules": ["insights"]},
        {"path": "/v1/generate", "credits": 10},
        {"path": "/v1/files/{rest:path}", "scopes": ["read:files"]},
        {"path": "/v1/items", "scopes": ["read:items"]},
    ]
    return [{**rule, "path": prefix + rule["path"]} for rule in given]


def marker(name: str, method: str, included: Iterable[str] = ()) -> str:
    """What an app says it served. `included` are the values of `?include=`."""
    if name == "articles":
        return "articles.read" if method.upper() in {"GET", "HEAD"} else "articles.write"
    modules = {module.strip() for value in included for module in value.split(",")}
    if name == "search" and "sentiment" in modules:
        return "search.sentiment"
    return name


# --- the apps -----------------------------------------------------------------------------------


def bare_asgi() -> Any:
    """An ASGI app that takes the path as it comes."""
    pattern_of = {"{id}": "[^/]+", "{rest:path}": "(?s:.*)"}
    patterns = [
        (re.compile(re.sub(r"\{.*?\}", lambda m: pattern_of[m[0]], one.path)), one)
        for one in RESOURCES
    ]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        status, headers = 404, []
        for pattern, one in patterns:
            if pattern.fullmatch(scope["path"]):
                included = parse_qs(scope["query_string"].decode("latin-1")).get("include", [])
                said = marker(one.name, scope["method"], included)
                is_known = {"HEAD": "GET"}.get(scope["method"], scope["method"]) in one.methods
                status = 200 if is_known else 405
                headers = [(SERVED.encode(), said.encode())] if is_known else []
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    return app


def resolving_asgi() -> Any:
    """An ASGI app that resolves dots and merges slashes, as proxies and file servers do."""
    inner = bare_asgi()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        end = "/" if scope["path"].endswith("/") else ""
        path = posixpath.normpath("/" + scope["path"].lstrip("/").replace("\\", "/"))
        await inner({**scope, "path": path.rstrip("/") + end}, receive, send)

    return app


def _starlette_endpoint(name: str) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        included = request.query_params.getlist("include")
        return PlainTextResponse("", headers={SERVED: marker(name, request.method, included)})

    return endpoint


def _starlette_routes() -> list[Route]:
    return [
        Route(one.path, _starlette_endpoint(one.name), methods=list(one.methods))
        for one in RESOURCES
    ]


def starlette(middleware: list[Middleware] | None = None) -> Any:
    """A Starlette app."""
    return Starlette(routes=_starlette_routes(), middleware=middleware)


def fastapi(root_path: str = "") -> FastAPI:
    """A FastAPI app."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that `root_path` is deprecated: people have it
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, root_path=root_path)
    for one in RESOURCES:
        app.add_api_route(one.path, _starlette_endpoint(one.name), methods=list(one.methods))
    return app


def _litestar_handler(resource: Resource) -> Any:
    async def handler(
        request: litestar.Request[Any, Any, Any],
    ) -> litestar.Response[str]:
        included = request.query_params.getall("include", [])
        said = marker(resource.name, request.method, included)
        return litestar.Response("", headers={SERVED: said}, status_code=200)

    path = resource.path.replace("{id}", "{id:str}")
    methods = [HttpMethod(method) for method in resource.methods]
    return litestar.route(path, http_method=methods, status_code=200)(handler)


def litestar_app(path: str = "", **options: Any) -> Any:
    """A Litestar app."""
    handlers = [_litestar_handler(one) for one in RESOURCES]
    nothing: Any = {"openapi_config": None, "logging_config": None}  # it would log for everybody
    return litestar.Litestar(handlers, path=path or None, **nothing, **options)


def quart_app(*, strict: bool = True) -> quart.Quart:
    """A Quart app."""
    app = quart.Quart("tests.support.frameworks")
    app.url_map.strict_slashes = strict

    def view_of(name: str) -> Any:
        async def view(**_: str) -> quart.Response:
            included = quart.request.args.getlist("include")
            said = marker(name, quart.request.method, included)
            return quart.Response("", headers={SERVED: said})

        return view

    for one in RESOURCES:
        app.add_url_rule(_for_werkzeug(one.path), one.name, view_of(one.name), methods=one.methods)
    return app


def flask_app(*, strict: bool = True) -> flask.Flask:
    """A Flask app."""
    app = flask.Flask("tests.support.frameworks")
    app.url_map.strict_slashes = strict

    def view_of(name: str) -> Any:
        def view(**_: str) -> flask.Response:
            included = flask.request.args.getlist("include")
            said = marker(name, flask.request.method, included)
            return flask.Response("", headers={SERVED: said})

        return view

    for one in RESOURCES:
        app.add_url_rule(_for_werkzeug(one.path), one.name, view_of(one.name), methods=one.methods)
    return app


def _for_werkzeug(path: str) -> str:
    return path.replace("{id}", "<id>").replace("{rest:path}", "<path:rest>")


def _django_view(resource: Resource) -> Any:
    def view(request: HttpRequest, **_: str) -> HttpResponse:
        included = request.GET.getlist("include")
        said = marker(resource.name, request.method, included)
        return HttpResponse("", headers={SERVED: said})

    if "OPTIONS" in resource.methods:  # a plain view, which takes every method
        return view
    return require_http_methods([*resource.methods, "HEAD"])(view)


#: `re_path` with `$` for one of them, as many have it.
urlpatterns = [
    django_re_path(rf"^{one.path[1:]}$", _django_view(one))
    if one.name in {"generate", "audit"}
    else django_path(
        one.path[1:].replace("{id}", "<id>").replace("{rest:path}", "<path:rest>"),
        _django_view(one),
    )
    for one in RESOURCES
]


@cache
def _set_up_django() -> None:
    if not django_settings.configured:
        django_settings.configure()
    django.setup()


_DJANGO = {
    "ROOT_URLCONF": __name__,
    "ALLOWED_HOSTS": ["*"],
    "MIDDLEWARE": ["django.middleware.common.CommonMiddleware"],  # which appends slashes
    "LOGGING_CONFIG": None,
}


@contextmanager
def django_set(**values: Any) -> Iterator[None]:
    """Django's settings are those of a process; these hold while the block runs."""
    _set_up_django()
    with override_settings(**_DJANGO | values):
        yield


# --- behind the gate ----------------------------------------------------------------------------


def _outside(make: Callable[[], Any]) -> Callable[[Gate | None], Any]:
    """`make`, wrapped."""

    def made(gate: Gate | None) -> Any:
        return make() if gate is None else KeyrushMiddleware(make(), gate=gate)

    return made


def _outside_wsgi(make: Callable[[], Any]) -> Callable[[Gate | None], Any]:
    def made(gate: Gate | None) -> Any:
        return make() if gate is None else wsgi.KeyrushMiddleware(make(), gate=gate)

    return made


def _starlette_added(gate: Gate | None) -> Any:
    app = starlette()
    if gate is not None:
        app.add_middleware(KeyrushMiddleware, gate=gate)
    return app


def _fastapi_added(gate: Gate | None) -> Any:
    app = fastapi(root_path=PREFIX)
    if gate is not None:
        app.add_middleware(KeyrushMiddleware, gate=gate)
    return app


def _starlette_mounting() -> Any:
    return Starlette(routes=[Mount(PREFIX, starlette())])


def _starlette_mounted(gate: Gate | None) -> Any:
    return Starlette(routes=[Mount(PREFIX, _outside(starlette)(gate))])


def _nothing(environ: Any, start_response: Any) -> list[bytes]:
    start_response("404 Not Found", [])
    return []


def _flask_dispatching() -> Any:
    return DispatcherMiddleware(_nothing, {PREFIX: flask_app()})


def _flask_dispatched(gate: Gate | None) -> Any:
    return DispatcherMiddleware(_nothing, {PREFIX: _outside_wsgi(flask_app)(gate)})


@dataclass(frozen=True)
class Framework:
    """A framework, and how the app stands under a prefix, if it does.

    `make` takes the gate, or None for the bare app. `server_root` is the prefix that the server
    names (`root_path`, `SCRIPT_NAME`), `setting_root` what `KEYRUSH_ROOT_PATH` must say, `prefix`
    what stands before the paths of the app either way. `is_outside` is False where something of
    the framework routes before the gate.
    """

    name: str
    make: Callable[[Gate | None], Any]
    is_wsgi: bool = False
    prefix: str = ""
    server_root: str = ""
    setting_root: str = ""
    is_outside: bool = True
    django: tuple[tuple[str, Any], ...] | None = None

    def __str__(self) -> str:
        return self.name

    def around(self) -> AbstractContextManager[None]:
        """What must hold while the app is made and used."""
        return nullcontext() if self.django is None else django_set(**dict(self.django))


def _rooted(name: str, make: Callable[[Gate | None], Any], **more: Any) -> Framework:
    """Under a prefix that the server names."""
    return Framework(name, make, prefix=PREFIX, server_root=PREFIX, **more)


def _set_inside(name: str, make: Callable[[Gate | None], Any], **more: Any) -> Framework:
    """Under a prefix that is set inside the app, and that keyrush must be told."""
    return Framework(name, make, prefix=PREFIX, setting_root=PREFIX, **more)


_DJANGO_ASGI = _outside(get_asgi_application)
_DJANGO_WSGI = _outside_wsgi(get_wsgi_application)
_FORCED = (("FORCE_SCRIPT_NAME", PREFIX),)

PLAIN = (
    Framework("bare ASGI", _outside(bare_asgi)),
    Framework("ASGI that resolves dots", _outside(resolving_asgi)),
    Framework("Starlette", _starlette_added),
    Framework("FastAPI", _outside(fastapi)),
    Framework("Litestar", _outside(litestar_app)),
    Framework("Quart", _outside(quart_app)),
    Framework("Quart not strict", _outside(lambda: quart_app(strict=False))),
    Framework("Flask", _outside_wsgi(flask_app), is_wsgi=True),
    Framework("Flask not strict", _outside_wsgi(lambda: flask_app(strict=False)), is_wsgi=True),
    Framework("Django ASGI", _DJANGO_ASGI, django=()),
    Framework("Django WSGI", _DJANGO_WSGI, is_wsgi=True, django=()),
)

PREFIXED = (
    _rooted("Starlette, root_path", _outside(starlette)),
    _rooted("Litestar, root_path", _outside(litestar_app)),
    _rooted("Quart, root_path", _outside(quart_app)),
    _rooted("FastAPI, root_path", _outside(fastapi)),
    _rooted("Django ASGI, root_path", _DJANGO_ASGI, django=()),
    _rooted("Django WSGI, SCRIPT_NAME", _DJANGO_WSGI, is_wsgi=True, django=()),
    _rooted("Flask, SCRIPT_NAME", _outside_wsgi(flask_app), is_wsgi=True),
    _set_inside("FastAPI(root_path=…)", _outside(lambda: fastapi(PREFIX))),
    _set_inside("Litestar(path=…)", _outside(lambda: litestar_app(PREFIX))),
    _set_inside("Starlette, Mount", _outside(_starlette_mounting)),
    _set_inside("Django ASGI, FORCE_SCRIPT_NAME", _DJANGO_ASGI, django=_FORCED),
    _set_inside("Flask, dispatched", _outside_wsgi(_flask_dispatching), is_wsgi=True),
    Framework("FastAPI(root_path=…), gate added", _fastapi_added, prefix=PREFIX),
    Framework("Starlette, gate within Mount", _starlette_mounted, prefix=PREFIX, is_outside=False),
    Framework(
        "Flask, gate within", _flask_dispatched, is_wsgi=True, prefix=PREFIX, is_outside=False
    ),
)

FRAMEWORKS = PLAIN + PREFIXED


# --- the gate and its keys ------------------------------------------------------------------------


class Keys:
    """Keys over a gate: one that may do everything, one that may do nothing but be valid, one that
    lacks just one thing for each thing there is, and one that has just that.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        for plan in ("full", "bare"):
            for balance in (0, 10**9):
                id = f"{plan}-{balance}"
                gate.accounts.create(id, plan=plan)
                if balance:
                    gate.credits.grant(id, balance)
        for module in MODULES:
            gate.accounts.create(f"just-{module}", plan=module)
            gate.accounts.create(f"lacks-{module}", plan=f"no-{module}")
            gate.credits.grant(f"lacks-{module}", 10**9)
        self.everything = self._key(f"full-{10**9}", SCOPES)
        self.nothing = self._key("bare-0", ("see:nothing",))
        self._lacking: dict[str, str] = {}
        self._just: dict[str, str] = {}
        for need in NEEDS.values():
            if ":" in need:
                others = [scope for scope in SCOPES if scope != need]
                self._lacking[need] = self._key(f"full-{10**9}", others)
                self._just[need] = self._key("bare-0", [need])
            elif need == "credits":
                self._lacking[need] = self._key("full-0", SCOPES)
                self._just[need] = self._key(f"bare-{10**9}", ("see:nothing",))
            else:
                self._lacking[need] = self._key(f"lacks-{need}", SCOPES)
                self._just[need] = self._key(f"just-{need}", ("see:nothing",))

    def _key(self, account: str, scopes: Sequence[str]) -> str:
        return self._gate.keys.create(account, "key", scopes=scopes).text

    def lacking(self, marked: str) -> str:
        """A key with everything but what is needed for what is marked so."""
        return self._lacking[NEEDS[marked]] if marked in NEEDS else self.nothing

    def just(self, marked: str) -> str:
        """A key with nothing but what is needed for what is marked so."""
        return self._just[NEEDS[marked]] if marked in NEEDS else self.nothing


def plans() -> dict[str, Any]:
    """Plans without limits, with all modules, with none, with just one, and without just one."""
    just = {module: {"modules": [module]} for module in MODULES}
    lacks = {f"no-{one}": {"modules": [m for m in MODULES if m != one]} for one in MODULES}
    return {"full": {"modules": list(MODULES)}, "bare": {}} | just | lacks


def gate_for(framework: Framework, prefix: str, **values: Any) -> Gate:
    """A gate in memory with the rules for paths that begin with `prefix`."""
    if framework.setting_root:
        values["root_path"] = framework.setting_root
    given = {"plans": plans(), "rules": rules(prefix), "scopes": ["see:nothing"]}
    given |= {"public_paths": list(PUBLIC.values()), **values}
    return Gate.open(settings(cache_ttl=3600, **given))


# --- several behind one server --------------------------------------------------------------------


def hub(apps: dict[str, Any], seen: list[dict[str, Any]]) -> Any:
    """An ASGI app that hands on to the one that the header `X-Framework` names, and keeps what the
    server made of each target.
    """

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            named = dict(scope["headers"])[b"x-framework"].decode()
            names = ("path", "raw_path", "query_string", "root_path")
            seen.append({name: scope[name] for name in names})
            await apps[named](scope, receive, send)
        elif scope["type"] == "lifespan":
            while True:
                kind = (await receive())["type"]
                await send({"type": f"{kind}.complete"})
                if kind == "lifespan.shutdown":
                    return

    return app


def hub_wsgi(apps: dict[str, Any]) -> Any:
    """The same for WSGI."""

    def app(environ: Any, start_response: Any) -> Any:
        return apps[environ["HTTP_X_FRAMEWORK"]](environ, start_response)

    return app


def wsgi_hub() -> Any:
    """All WSGI apps at the root, for a server in a process of its own, set by its environment."""
    _set_up_django()
    override_settings(**_DJANGO).enable()
    gate = Gate.open()
    return hub_wsgi({one.name: one.make(gate) for one in PLAIN if one.is_wsgi})
