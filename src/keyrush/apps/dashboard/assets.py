"""Style sheets, the script, icons and the brand's own files: named by what is in them, kept by
browsers for good, and compressed once.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from keyrush.settings.dashboard import LOGOS, DashboardSettings

_KINDS = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    **LOGOS,
}

#: Hexadecimal digits of a name: no two files of ours have the same.
_DIGITS = 12


class Asset(NamedTuple):
    """A file that is served as it is."""

    name: str  #: its own, with a hash of what is in it
    kind: str  #: Content-Type
    content: bytes
    packed: bytes | None  #: by gzip, where that is shorter

    @property
    def etag(self) -> str:
        """The ETag of either form: the name says what is in it."""
        return f'"{self.name}"'


class Assets:
    """All that are served, by the names that templates know them by, and by their own."""

    def __init__(self, settings: DashboardSettings) -> None:
        given = {"brand.css": f":root{{--brand:{settings.dashboard_brand}}}".encode()}
        if settings.dashboard_css is not None:
            given["own.css"] = settings.dashboard_css.read_bytes()
        if settings.dashboard_logo is not None:
            suffix = settings.dashboard_logo.suffix.lower()
            given[f"logo{suffix}"] = settings.dashboard_logo.read_bytes()
        known = {**_built_in(), **{name: _asset(name, own) for name, own in given.items()}}
        self._names: Mapping[str, str] = {name: asset.name for name, asset in known.items()}
        self._served: Mapping[str, Asset] = {asset.name: asset for asset in known.values()}
        #: The logo's name for templates, None where there is none but the dashboard's.
        self.logo = next((name for name in given if name.startswith("logo.")), None)
        self.has_own_css = "own.css" in given

    def name(self, name: str) -> str:
        """Under which name a file is served.

        Raises:
            KeyError: There is no such file.
        """
        return self._names[name]

    def get(self, name: str) -> Asset | None:
        """The file that is served under a name."""
        return self._served.get(name)


@cache
def _built_in() -> Mapping[str, Asset]:
    folder = files("keyrush.apps.dashboard") / "static"
    found = [file for file in folder.iterdir() if _kind(file.name)]
    return {file.name: _asset(file.name, file.read_bytes()) for file in found}


def _kind(name: str) -> str | None:
    return _KINDS.get("." + name.rpartition(".")[2])


def _asset(name: str, content: bytes) -> Asset:
    stem, _, suffix = name.rpartition(".")
    digest = hashlib.sha256(content).hexdigest()[:_DIGITS]
    packed = gzip.compress(content, 9, mtime=0)
    kind = _KINDS[f".{suffix}"]
    return Asset(
        f"{stem}.{digest}.{suffix}", kind, content, packed if len(packed) < len(content) else None
    )
