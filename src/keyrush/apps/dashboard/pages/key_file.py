"""A new key as a file: what the page that shows it has sent, and nobody else is told."""

from __future__ import annotations

from starlette.responses import Response

from keyrush.apps.dashboard.endpoints import page
from keyrush.apps.dashboard.revealing import file_of, variable_of
from keyrush.apps.dashboard.visit import Stop, Visit


async def download(visit: Visit) -> Response:
    """The key that was posted, as `NAME.env`. Nothing is looked up, and nothing kept: it is in no
    URL, and so in no list of downloads, as it would be by a `data:` link.
    """
    fields = await visit.form()
    key = fields.get("key", "")
    if visit.gate.key_format.parse(key.encode("utf-8", "replace")) is None:
        raise Stop("no_form", 415)
    file = file_of(fields.get("name", ""))
    return Response(
        f"{variable_of(visit.brand.name)}={key}\n",
        headers={"Content-Disposition": f'attachment; filename="{file}"'},
        media_type="text/plain",
    )


ROUTES = [page("/keys/file", post=download)]
