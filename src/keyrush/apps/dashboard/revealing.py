"""A new key is shown once, in the answer to the form that has made it."""

from __future__ import annotations

import re
import unicodedata

from starlette.responses import Response

from keyrush.apps.dashboard.deployment import base_url, first_request
from keyrush.apps.dashboard.visit import Visit
from keyrush.core.model import ApiKey
from keyrush.operations.keys import NewKey

#: Characters of a file's name, without its ending.
_LONGEST = 60

#: What Windows opens as something else, whatever the ending.
_DEVICES = re.compile(r"con|prn|aux|nul|com[0-9]|lpt[0-9]")


def revealed(visit: Visit, new: NewKey, old: ApiKey | None = None) -> Response:
    """The page with the key; `old` is the one that it replaces. Nothing keeps it."""
    variable = variable_of(visit.brand.name)
    return visit.render(
        "key_made.html",
        status=201,
        key=new.key,
        text=new.text,
        old=old,
        file=file_of(new.key.name),
        request=first_request(visit, base_url(visit), f"${variable}"),
        variable=variable,
    )


def sent_before(visit: Visit) -> Response:
    """What a form that was sent already is answered with, as when the page is loaded again."""
    return visit.render("key_already.html", status=409)


def variable_of(product: str) -> str:
    """The name of an environment variable for the key of a product: `FERNPOST_API_KEY`."""
    name = _plain(product, "_").upper()
    if not name or name == "API":
        return "API_KEY"
    return f"{'' if name[0].isalpha() else '_'}{name}_API_KEY"


def file_of(name: str) -> str:
    """A name for a file that any system takes, and that is no path: `nightly-export.env`."""
    plain = _plain(name, "-").lower()[:_LONGEST].strip("-")
    return f"{'key' if not plain or _DEVICES.fullmatch(plain) else plain}.env"


def _plain(text: str, between: str) -> str:
    """Its Latin letters and digits."""
    latin = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
    return re.sub(r"[^A-Za-z0-9]+", between, latin).strip(between)
