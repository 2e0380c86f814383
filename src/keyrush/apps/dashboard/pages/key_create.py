"""key_create."""

from __future__ import annotations

from starlette.responses import Response

from keyrush.apps.dashboard.endpoints import page
from keyrush.apps.dashboard.visit import Visit


async def show(visit: Visit) -> Response:
    """The page."""
    return visit.render("stub.html", name="keys")


ROUTES = [page("/keys/new", show)]
