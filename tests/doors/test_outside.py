"""Exporters and tracers that stand outside of the gate see what those inside see (S66)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import prometheus_client
import pytest
import sentry_sdk
import starlette_exporter
from fastapi import FastAPI
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from sentry_sdk.integrations.asgi import SentryAsgiMiddleware
from sentry_sdk.transport import Transport
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from keyrush import Gate, KeyrushMiddleware, Refused

SIDES = pytest.mark.parametrize("is_outside", [True, False], ids=["outside", "inside"])


@pytest.fixture
def key(gate: Gate) -> str:
    """A key of acct_a that may read articles."""
    gate.accounts.create("acct_a")
    return gate.keys.create("acct_a", "first", scopes=["read:articles"]).text


def article(request: Request) -> PlainTextResponse:
    """Serves whoever may read, or write where that is asked for."""
    request.state.seen = request.user.name
    if "write" in request.query_params:
        request.user.require_scope("write:articles")
    return PlainTextResponse("ok")


def fails(_: Request) -> PlainTextResponse:
    """Fails."""
    raise ZeroDivisionError


ROUTES = [Route("/articles/{id}", article), Route("/fails", fails)]


def add(app: Any, gate: Gate, other: Any, *, is_outside: bool, **options: Any) -> None:
    """Add keyrush and another middleware; the one that is added last is outside."""
    if is_outside:
        app.add_middleware(KeyrushMiddleware, gate=gate)
        app.add_middleware(other, **options)
    else:
        app.add_middleware(other, **options)
        app.add_middleware(KeyrushMiddleware, gate=gate)


@SIDES
@pytest.mark.parametrize("is_mounted", [True, False], ids=["mounted", "plain"])
def test_starlette_exporter(gate: Gate, key: str, is_outside: bool, is_mounted: bool) -> None:
    """S66: starlette_exporter counts requests by the template of their route."""
    app = Starlette(routes=[Mount("/v1", routes=ROUTES)] if is_mounted else ROUTES)
    name = f"requests_{is_outside}_{is_mounted}"  # which are those of a process
    add(
        app,
        gate,
        starlette_exporter.PrometheusMiddleware,
        is_outside=is_outside,
        prefix=name,
        group_paths=True,
        filter_unhandled_paths=True,
    )
    client = TestClient(app, headers={"X-API-Key": key})
    prefix = "/v1" if is_mounted else ""
    assert client.get(f"{prefix}/articles/7").status_code == 200
    counted = prometheus_client.generate_latest().decode()
    line = next(one for one in counted.splitlines() if one.startswith(f"{name}_requests_total{{"))
    assert f'path="{prefix}/articles/{{id}}"' in line
    assert 'status_code="200"' in line


@SIDES
def test_opentelemetry(gate: Gate, key: str, is_outside: bool) -> None:
    """S66: OpenTelemetry's ASGI middleware measures by the template of the route."""
    reader = InMemoryMetricReader()
    app = FastAPI()
    app.add_api_route("/articles/{id}", article_of)
    meters = MeterProvider([reader])
    add(app, gate, OpenTelemetryMiddleware, is_outside=is_outside, meter_provider=meters)
    assert TestClient(app, headers={"X-API-Key": key}).get("/articles/7").status_code == 200
    measured: Any = reader.get_metrics_data()
    (duration,) = [
        metric.data.data_points[0].attributes
        for metric in measured.resource_metrics[0].scope_metrics[0].metrics
        if metric.name == "http.server.duration"
    ]
    assert duration["http.target"] == "/articles/{id}"
    assert duration["http.status_code"] == 200
    meters.shutdown()


async def article_of(id: int) -> str:
    """Serves it."""
    return str(id)


class Kept(Transport):
    """Keeps what Sentry would send."""

    def __init__(self) -> None:
        super().__init__()
        self.items: list[Any] = []

    def capture_envelope(self, envelope: Any) -> None:
        for item in envelope.items:
            self.items.append(item.payload.json)


@pytest.fixture
def sentry() -> Iterator[Kept]:
    """Sentry as it is set up for keyrush, with a transport that keeps all."""
    transport = Kept()
    sentry_sdk.init(
        "http://key@localhost/1",
        transport=transport,
        traces_sample_rate=1.0,
        default_integrations=False,
        auto_enabling_integrations=False,
        ignore_errors=[Refused],
    )
    yield transport
    sentry_sdk.get_client().close()
    sentry_sdk.init()


@SIDES
def test_sentry(gate: Gate, key: str, sentry: Kept, is_outside: bool) -> None:
    """S66: Sentry's ASGI middleware names transactions by the endpoint, and hears of faults, not
    of refusals.
    """
    app = Starlette(routes=ROUTES)
    add(app, gate, SentryAsgiMiddleware, is_outside=is_outside)
    client = TestClient(app, headers={"X-API-Key": key}, raise_server_exceptions=False)
    assert client.get("/articles/7").status_code == 200
    assert client.get("/articles/7?write=1").status_code == 403
    assert client.get("/fails").status_code == 500
    sentry_sdk.flush()
    transactions = [item["transaction"] for item in sentry.items if item.get("spans") is not None]
    assert transactions == [f"{__name__}.article"] * 2 + [f"{__name__}.fails"]
    errors = [item for item in sentry.items if "exception" in item]
    assert [one["exception"]["values"][0]["type"] for one in errors] == ["ZeroDivisionError"]


def test_state_set_inside_is_seen_outside(gate: Gate, key: str) -> None:
    """S66: `request.state` is the request's, on whichever side of the gate it is set or read."""
    seen: list[str] = []
    app = Starlette(routes=ROUTES)
    app.add_middleware(KeyrushMiddleware, gate=gate)

    async def outside(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)
        if scope["type"] == "http":
            seen.append(Request(scope).state.seen)

    assert TestClient(outside, headers={"X-API-Key": key}).get("/articles/7").text == "ok"
    assert seen == ["first"]
