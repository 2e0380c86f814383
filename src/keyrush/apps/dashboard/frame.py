"""What is the same for all requests to a dashboard: its gate, texts, templates and files."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import cache
from importlib.resources import files
from pathlib import Path

import jinja2
from starlette.requests import Request

from keyrush.apps.dashboard.addresses import Addresses
from keyrush.apps.dashboard.assets import Assets
from keyrush.apps.dashboard.brand import brand_of
from keyrush.apps.dashboard.formats import Formats
from keyrush.apps.dashboard.forms import Tokens
from keyrush.apps.dashboard.texts import texts_in
from keyrush.apps.dashboard.turns import Turns
from keyrush.gate.gate import Gate

#: Says which account somebody has signed in to in the app around, None where nobody has.
AccountOf = Callable[[Request], "str | Awaitable[str | None] | None"]

_log = logging.getLogger("keyrush")

#: Files that are made for one account at once, each of which keeps a thread busy for as long as
#: its reader takes it; a reader that was lost has one until the server knows.
_FILES = 4

#: Where the scope has the frame.
FRAME = "keyrush.dashboard"


class Frame:
    """All that a visit needs beside its request."""

    def __init__(
        self,
        gate: Gate,
        account_of: AccountOf | None = None,
        sign_in_url: str | None = None,
        only: str | None = None,
    ) -> None:
        settings = gate.settings
        self.gate = gate
        self.account_of = account_of
        self.only = only
        self.sign_in_url = sign_in_url or settings.dashboard_sign_in_url
        self.assets = Assets(settings)
        self.brand = brand_of(settings, self.assets)
        self.texts = texts_in(settings.dashboard_language, settings.dashboard_texts)
        self.formats = Formats(self.texts)
        self.forms = Tokens(gate.secrets("forms of the dashboard"))
        self.templates = _templates(settings.dashboard_templates)
        self.files = Turns(_FILES)
        self.links = Addresses()
        self.policy = _content_policy(settings.dashboard_frame_ancestors)

        self._warns_of_key = True

    def warn_of_key(self, request: Request) -> None:
        """Say once, to the operator, that the way here needs a key, which no browser has."""
        scope = request.scope
        place = scope["method"], scope["path"], scope.get("raw_path"), scope["root_path"]
        if self._warns_of_key and not self.gate.policy.is_optional(*place):
            self._warns_of_key = False
            _log.warning(
                "the dashboard is behind a path that needs an API key: add %s, %s/ and %s/* to "
                "KEYRUSH_PUBLIC_PATHS; it has sign-ins of its own",
                *[scope["root_path"]] * 3,
            )


@cache
def _templates(own: Path | None) -> jinja2.Environment:
    """The templates; of one's own each stands in for the dashboard's, which is there still as
    `keyrush/NAME`, to be extended.
    """
    built_in = jinja2.FunctionLoader(_built_in)
    loaders: list[jinja2.BaseLoader] = [jinja2.PrefixLoader({"keyrush": built_in}), built_in]
    if own is not None:
        loaders.insert(0, jinja2.FileSystemLoader(own))
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _built_in(name: str) -> str | None:
    file = files("keyrush.apps.dashboard") / "templates" / name
    return file.read_text("utf-8") if file.is_file() else None


def _content_policy(ancestors: tuple[str, ...]) -> str:
    return (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; "
        f"frame-ancestors {' '.join(ancestors)}"
    )
