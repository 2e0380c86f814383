"""What an issuer publishes, fetched: its metadata (S85) and its keys (S51). Blocks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
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
    deadline = time.monotonic() + PATIENCE
    try:
        with httpx2.Client(follow_redirects=False) as client:
            url = issuer.jwks_url or _keys_url(client, issuer, deadline)
            document = _get(client, url, deadline)
    except httpx2.HTTPError as error:
        raise FetchError(f"{issuer.issuer} does not answer: {type(error).__name__}") from error
    keys = None if document is None else document.get("keys")
    if not isinstance(keys, list):
        raise FetchError(f"{issuer.issuer} has no keys where they should be")
    return keys


def _keys_url(client: httpx2.Client, issuer: Issuer, deadline: float) -> str:
    """Where the issuer's metadata say that its keys are: the first metadata that there are."""
    for url in metadata_urls(issuer.issuer):
        document = _get(client, url, deadline)
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


def _get(client: httpx2.Client, url: str, deadline: float) -> Mapping[str, Any] | None:
    """The object at a URL, None where there is nothing.

    Raises:
        FetchError: There is something else, too much of it, or it takes too long.
        httpx2.HTTPError: There is no answer.
    """
    # Not compressed: how large it becomes would be known too late.
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    left = max(0.001, deadline - time.monotonic())
    with client.stream("GET", url, headers=headers, timeout=left) as response:
        if HTTPStatus.BAD_REQUEST <= response.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
            return None
        if response.status_code != HTTPStatus.OK:
            raise FetchError(f"{url} answers {response.status_code}")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise FetchError(f"{url} answers in an encoding that was not asked for")
        body = bytearray()
        for chunk in response.iter_raw():
            body += chunk
            if len(body) > _MAX_DOCUMENT or time.monotonic() > deadline:
                raise FetchError(f"{url} answers with too much, or too slowly")
    try:
        return parse_object(bytes(body))
    except ValueError as error:
        raise FetchError(f"{url} answers with no JSON object: {error}") from error
