"""What an issuer publishes, fetched: its metadata (S85) and its keys (S51). Blocks."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import httpx2

from keyrush.core.issuers import Issuer
from keyrush.core.strict_json import parse_object
from keyrush.core.urls import is_safe
from keyrush.errors import Unavailable

#: Seconds for all of it: whoever waits for a key waits no longer.
PATIENCE = 5.0

#: Bytes of one document; the keys of the largest issuers have a tenth of it.
_MAX_DOCUMENT = 256 * 1024

#: Where an issuer's metadata are (RFC 8414 §3.1, OpenID Connect Discovery 1.0 §4).
_OAUTH, _OPENID = "/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"


class FetchError(Unavailable):
    """An issuer's keys can't be had as things stand; says why, in no words of the issuer's."""


def fetch_keys(issuer: Issuer) -> Sequence[Any]:
    """The keys that the issuer publishes, as they stand in its JWK Set (RFC 7517 §5).

    Raises:
        FetchError: They can't be had.
    """
    try:
        with _Fetch.of(issuer) as fetch:
            document = fetch.get(issuer.jwks_url or _keys_url(fetch, issuer))
    except httpx2.HTTPError as error:
        raise FetchError(f"{issuer.issuer} does not answer: {type(error).__name__}") from error
    keys = None if document is None else document.get("keys")
    if not isinstance(keys, list):
        raise FetchError(f"{issuer.issuer} has no keys where they should be")
    return keys


def _keys_url(fetch: _Fetch, issuer: Issuer) -> str:
    """Where the issuer's metadata say that its keys are: the first metadata that there are."""
    for url in metadata_urls(issuer.issuer):
        document = fetch.get(url)
        if document is None:
            continue
        if document.get("issuer") != issuer.issuer:  # to the byte
            raise FetchError(f"the metadata of {issuer.issuer} are of another issuer")
        keys_url = document.get("jwks_uri")
        if not isinstance(keys_url, str) or not is_safe(keys_url):
            raise FetchError(f"the metadata of {issuer.issuer} name no keys over https")
        return keys_url
    raise FetchError(f"{issuer.issuer} has no metadata; give jwks_url")


def metadata_urls(issuer: str) -> Sequence[str]:
    """Where metadata are looked for, in this order (S85)."""
    parts = urlsplit(issuer)
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    if not path:
        return (origin + _OAUTH, origin + _OPENID)
    return (origin + _OAUTH + path, origin + _OPENID + path, origin + path + _OPENID)


class _Fetch:
    """What is asked of an issuer, all of it within `PATIENCE`.

    Who sends a byte now and then is in time for each read, and would never be too late: once the
    time is over, connections are shut down under whoever reads.
    """

    def __init__(self, client: httpx2.Client) -> None:
        self._client = client
        self._deadline = time.monotonic() + PATIENCE
        self._sockets: list[socket.socket] = []
        self._is_over = False

    @classmethod
    @contextmanager
    def of(cls, issuer: Issuer) -> Iterator[_Fetch]:
        """A fetch that ends.

        Raises:
            FetchError: No thread can be started that would end it.
        """
        with httpx2.Client(follow_redirects=False) as client:
            fetch = cls(client)
            end = threading.Timer(PATIENCE, fetch._end)
            end.daemon = True
            try:
                end.start()
            except (RuntimeError, MemoryError) as error:  # what Python raises for want of one
                raise FetchError(f"{issuer.issuer} can't be asked: no thread") from error
            try:
                yield fetch
            finally:
                end.cancel()

    def get(self, url: str) -> Mapping[str, Any] | None:
        """The object at a URL, None where there is nothing.

        Raises:
            FetchError: There is something else, too much of it, or it takes too long.
            httpx2.HTTPError: There is no answer.
        """
        # Not compressed: how large it becomes would be known too late.
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        left = max(0.001, self._deadline - time.monotonic())
        more = {"trace": self._note}
        with self._client.stream(
            "GET", url, headers=headers, timeout=left, extensions=more
        ) as response:
            status = response.status_code
            if HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
                return None
            if status != HTTPStatus.OK:
                raise FetchError(f"{url} answers {status}")
            if response.headers.get("content-encoding", "identity") != "identity":
                raise FetchError(f"{url} answers in an encoding that was not asked for")
            body = bytearray()
            for chunk in response.iter_raw():
                body += chunk
                if len(body) > _MAX_DOCUMENT or time.monotonic() > self._deadline:
                    raise FetchError(f"{url} answers with too much, or too slowly")
        try:
            return parse_object(bytes(body))
        except ValueError as error:
            raise FetchError(f"{url} answers with no JSON object: {error}") from error

    def _note(self, event: str, info: Mapping[str, Any]) -> None:
        """Keep a connection that has been made, which TLS makes another one of."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._sockets.append(info["return_value"].get_extra_info("socket"))
            if self._is_over:
                self._end()

    def _end(self) -> None:
        self._is_over = True
        for one in self._sockets:
            with suppress(OSError):  # it is closed
                # Of TLS, too: its own `shutdown` would change what another thread is reading by.
                socket.socket.shutdown(one, socket.SHUT_RDWR)
