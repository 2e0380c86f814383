"""A news API behind keyrush. Keys, scopes, plans and limits are in rushed.toml.

export KEYRUSH_CONFIG=examples/rushed.toml
keyrush keys create --account acct_1 --name production
uvicorn --app-dir examples rushed:app
curl -H "X-API-Key: rsh_live_…" http://127.0.0.1:8000/api/articles
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from keyrush import Gate, KeyrushMiddleware, Settings

Item = dict[str, Any]

#: What `?include=` adds to an article.
MODULES: Item = {
    "translations": {"pt": "Banco central mantém os juros"},
    "classification": {"topic": "economy"},
    "meta": {"words": 412},
    "sentiment": {"label": "neutral", "score": 0.04},
    "market_impact": {"level": "high"},
    "entities": ["ent_1"],
    "scoring": {"relevance": 0.91},
}


def data(mark: str) -> dict[str, list[Item]]:
    """The articles and entities; `mark` goes before every id and title."""
    titles = ["Central bank holds rates", "Chip maker opens plant", "BREAKING: storm at sea"]
    articles = [
        {"id": f"{mark}art_{number}", "title": f"{mark}{title}", "breaking": "BREAKING" in title}
        for number, title in enumerate(titles, 1)
    ]
    names = ["Central Bank", "Chip Maker"]
    entities = [
        {"id": f"{mark}ent_{number}", "name": f"{mark}{name}"}
        for number, name in enumerate(names, 1)
    ]
    return {"articles": articles, "entities": entities}


#: Keys of the sandbox see test data.
DATA = {"live": data(""), "test": data("test_")}


async def health(_: Request) -> JSONResponse:
    """Public: needs no key."""
    return JSONResponse({"status": "ok"})


async def articles(request: Request) -> JSONResponse:
    """All articles."""
    return page(request, items(request, "articles"))


async def search(request: Request) -> JSONResponse:
    """Articles with `?q=` in their titles."""
    words = request.query_params.get("q", "").lower()
    return page(
        request, [item for item in items(request, "articles") if words in item["title"].lower()]
    )


async def article(request: Request) -> JSONResponse:
    """One article."""
    return one(request, items(request, "articles"))


async def entities(request: Request) -> JSONResponse:
    """All entities."""
    return page(request, items(request, "entities"))


async def entity(request: Request) -> JSONResponse:
    """One entity."""
    return one(request, items(request, "entities"))


async def breaking(request: Request) -> JSONResponse:
    """Breaking news."""
    return page(request, [item for item in items(request, "articles") if item["breaking"]])


def items(request: Request, kind: str) -> list[Item]:
    """What the caller's environment holds, with the modules that `?include=` asks for.

    Whether the plan has them is no question here: the request would not have come this far.
    """
    values = request.query_params.getlist("include")
    names = [name.strip() for value in values for name in value.split(",")]
    included = {name: MODULES[name] for name in names if name in MODULES}
    return [item | included for item in DATA[request.user.environment][kind]]


def page(request: Request, found: Sequence[Item]) -> JSONResponse:
    """The part of `found` that `?limit=` and `?offset=` ask for."""
    limit = number(request, "limit", default=20, least=1, most=100)
    offset = number(request, "offset", default=0, least=0, most=1_000_000)
    return envelope(list(found[offset : offset + limit]), limit, offset, len(found))


def one(request: Request, found: Sequence[Item]) -> JSONResponse:
    """The item with the id in the path."""
    for item in found:
        if item["id"] == request.path_params["id"]:
            return envelope(item, 1, 0, 1)
    raise HTTPException(404, "Not found.")


def envelope(content: Item | list[Item], limit: int, offset: int, total: int) -> JSONResponse:
    """What every successful answer looks like."""
    more = offset + limit < total
    pagination = {"limit": limit, "offset": offset, "total": total, "hasMore": more}
    return JSONResponse({"success": True, "data": content, "pagination": pagination})


def number(request: Request, name: str, *, default: int, least: int, most: int) -> int:
    """A number in the query, or 400."""
    text = request.query_params.get(name, str(default))
    if not re.fullmatch("[0-9]{1,7}", text) or not least <= int(text) <= most:
        raise HTTPException(400, f"{name} must be from {least} to {most}.")
    return int(text)


async def error(_: Request, problem: Exception) -> JSONResponse:
    """The app's own errors look like the gate's."""
    assert isinstance(problem, HTTPException)  # noqa: S101  # registered for no other
    body = {"success": False, "error": problem.detail, "statusCode": problem.status_code}
    return JSONResponse(body, problem.status_code, problem.headers)


def create_app(settings: Settings | None = None, *, gate: Gate | None = None) -> Starlette:
    """The app behind a gate: one made from settings, or one that you made and share."""
    app = Starlette(
        routes=[
            Route("/health", health),
            Route("/api/articles", articles),
            Route("/api/articles/search", search),
            Route("/api/articles/{id}", article),
            Route("/api/entities", entities),
            Route("/api/entities/{id}", entity),
            Route("/api/breaking", breaking),
        ],
        exception_handlers={HTTPException: error},
    )
    app.add_middleware(KeyrushMiddleware, settings=settings, gate=gate)
    return app


app = create_app(Settings(config=Path(__file__).with_suffix(".toml")))
