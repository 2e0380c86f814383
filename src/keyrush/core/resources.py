"""Protected resources (RFC 9728): endpoints of MCP that tokens are issued for, one by one.

A resource is its path and whatever is beneath it: a server that is mounted there may take any
such path for its endpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from keyrush.core.identity import Session

#: Where the metadata of resources stands, before the path of the resource (RFC 9728 §3.1).
WELL_KNOWN = "/.well-known/oauth-protected-resource"


@dataclass(frozen=True, slots=True)
class Resource:
    """What tokens are issued for, and what their issuers are told of it.

    `path` is where the app has it, without a slash at its end; `uri` is what it is called,
    canonical (`audience`). `accept_audience` is one that is taken for its own where the token's
    client is among `client_ids`: for issuers that name no resources. `batches` of JSON-RPC are
    refused, or cost the sum of what is in them. A `stateless` one has no sessions.
    """

    path: str
    uri: str
    authorization_servers: tuple[str, ...]
    scopes_supported: tuple[str, ...] = ()
    name: str | None = None
    documentation: str | None = None
    accept_audience: str | None = None
    client_ids: frozenset[str] = frozenset()
    batches: Literal["refuse", "sum"] = "refuse"
    stateless: bool = False

    @property
    def audiences(self) -> tuple[str, ...]:
        """What a token may be for that is good here."""
        return (self.uri,) if self.accept_audience is None else (self.uri, self.accept_audience)

    @property
    def metadata_path(self) -> str:
        """Where its metadata is looked for, at the root of its origin (S56)."""
        return WELL_KNOWN + _split(self.uri)[1]

    @property
    def metadata_url(self) -> str:
        """The same as a whole: what challenges name (S57, S62)."""
        return _split(self.uri)[0] + self.metadata_path

    def accepts(self, session: Session) -> bool:
        """Whether a token with this audience is meant for it (S59, S86)."""
        audience = session.audience
        if audience is None or self.uri in audience:
            return True
        is_known = self.accept_audience is not None and session.client_id in self.client_ids
        return is_known and self.accept_audience in audience


def _split(uri: str) -> tuple[str, str]:
    """Scheme with host, and what follows."""
    start = uri.index("://") + 3
    ends = [place for mark in "/?#" if (place := uri.find(mark, start)) != -1]
    end = min(ends, default=len(uri))
    return uri[:end], uri[end:]


#: Stands for a path that an app may take for several resources, or for one and for none: nobody
#: can say then what it needs.
AMBIGUOUS = Resource("", "", ())
