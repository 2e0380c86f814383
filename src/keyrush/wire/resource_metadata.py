"""What anybody may ask of a resource: its metadata (RFC 9728), the same for all, from the settings.

It costs nothing and is never limited: a client that is refused here can't find out how to get in.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from keyrush.core.paths import within
from keyrush.core.resources import WELL_KNOWN, Resource
from keyrush.wire.refusals import Response
from keyrush.wire.request import Header

#: Scripts of any page may read it (S56): it is nobody's secret.
_CORS: list[Header] = [(b"access-control-allow-origin", b"*")]

_METHODS: Header = (b"allow", b"GET, HEAD, OPTIONS")

_PREFLIGHT: list[Header] = [
    *_CORS,
    (b"access-control-allow-methods", b"GET, HEAD, OPTIONS"),
    (b"access-control-allow-headers", b"mcp-protocol-version, authorization, content-type"),
    (b"access-control-max-age", b"3600"),
]

#: Seconds for which it may be kept: an operator who moves an issuer should not wait for long.
_KEPT: Header = (b"cache-control", b"public, max-age=300")


@dataclass(frozen=True, slots=True)
class Document:
    """A response that the gate itself has, which is neither a refusal nor the app's."""

    response: Response


class ResourceMetadata:
    """The metadata of all resources, by the paths where they are looked for."""

    def __init__(self, resources: Sequence[Resource], root_path: str = "") -> None:
        self._root_path = root_path
        self._documents = {one.metadata_path: _document(one) for one in resources}
        if len(resources) == 1:
            self._documents.setdefault(WELL_KNOWN, _document(resources[0]))

    @property
    def paths(self) -> tuple[str, ...]:
        """Where they are looked for, which needs no key."""
        return tuple(self._documents)

    def answer(self, method: str, path: str, root: str) -> Document | None:
        """The answer to a request for one of the documents; None for all others."""
        inner = within(within(path, root), self._root_path)
        body = self._documents.get(path) or self._documents.get(inner)
        if body is None:
            return None
        if method == "OPTIONS":
            return Document(Response(204, _PREFLIGHT, b""))
        if method not in {"GET", "HEAD"}:
            empty = (b"content-length", b"0")
            return Document(Response(405, [*_CORS, _METHODS, empty], b""))
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            _KEPT,
            *_CORS,
        ]
        return Document(Response(200, headers, body))


def _document(resource: Resource) -> bytes:
    said: dict[str, object] = {
        "resource": resource.uri,
        "authorization_servers": list(resource.authorization_servers),
        "bearer_methods_supported": ["header"],
    }
    if resource.scopes_supported:
        said["scopes_supported"] = list(resource.scopes_supported)
    if resource.name is not None:
        said["resource_name"] = resource.name
    if resource.documentation is not None:
        said["resource_documentation"] = resource.documentation
    return json.dumps(said).encode()
