"""Servers like Redis: what their URLs say, and clients of redis-py for them."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from keyrush.core.urls import doubtful
from keyrush.errors import ConfigurationError

try:
    import redis
    import redis.asyncio
    from redis.backoff import NoBackoff
    from redis.connection import parse_url
    from redis.crc import key_slot
    from redis.exceptions import (
        NoPermissionError,
        NoScriptError,
        RedisClusterException,
        RedisError,
        ResponseError,
    )
except ModuleNotFoundError as missing:
    raise ConfigurationError(
        "KEYRUSH_LIMITER_URL: redis:// needs the module 'redis'; pip install 'keyrush[redis]'"
    ) from missing

#: Seconds to wait for a connection, and for an answer, where the URL says nothing else.
PATIENCE = 0.5

#: What redis-py raises.
ERRORS = (RedisError, RedisClusterException, OSError)

_SCHEME = re.compile(r"(?:redis|valkey)(s?)(?:\+(unix|sentinel|cluster))?|(unix)")

_PATHS = {
    "": r"/?(?P<db>\d*)",
    "unix": r"(?P<path>/.+)",
    "sentinel": r"/(?P<service>[^/]+)(?:/(?P<db>\d+))?",
    "cluster": r"/?",
}

#: Options of redis-py that are not the URL's to set.
_FIXED = {
    "decode_responses",
    "encoding",
    "health_check_interval",
    "protocol",
    "retry_on_error",
    "retry_on_timeout",
}


@dataclass(frozen=True, repr=False)  # it holds passwords
class Server:
    """What a URL says."""

    kind: str  #: "", "unix", "sentinel" or "cluster"
    tls: bool
    places: list[tuple[str, int]]  #: hosts and ports: of the Sentinels, of nodes of the Cluster
    service: str  #: as the Sentinels call it
    options: dict[str, Any]  #: of connections, as redis-py calls them
    sentinel_options: dict[str, Any]
    prefix: str  #: of all keys


def parse(url: str) -> Server:
    """The server at a URL.

    Raises:
        ConfigurationError: There can be none. The message shows nothing of the URL: where a
            character is not escaped, any part of it may belong to the password.
    """
    try:
        server = _parse(url)
        _try_options(server)
    except ConfigurationError:
        raise
    except (ValueError, TypeError, *ERRORS):
        raise _wrong("can't be understood, or has an option that redis-py does not know") from None
    return server


def _wrong(why: str) -> ConfigurationError:
    return ConfigurationError(
        f"KEYRUSH_LIMITER_URL: {why}; write redis://:password@host:6379/0, redis+unix:///path, "
        "redis+sentinel://host:26379,host:26379/service or redis+cluster://host:6379,host:6379, "
        "with rediss for TLS, and percent-escape passwords"
    )


def _parse(url: str) -> Server:
    scheme, _, rest = url.partition("://")
    found = _SCHEME.fullmatch(scheme)
    parts = urlsplit(f"redis://{rest}")
    if not found or parts.fragment or (found[1] and found[2] == "unix"):
        raise ValueError
    if "@" in parts.path + parts.query:  # the password may end there
        raise doubtful("KEYRUSH_LIMITER_URL")
    kind = found[2] or found[3] or ""
    path = re.fullmatch(_PATHS[kind], unquote(parts.path))
    if not path:
        raise ValueError
    named = path.groupdict()
    # It converts numbers and the like.
    asked = parse_url(f"redis://?{parts.query}")  # type: ignore[no-untyped-call]  # it has none
    if not _FIXED.isdisjoint(asked):
        raise _wrong(f"the options {', '.join(sorted(_FIXED))} are not yours to set")
    prefix = asked.pop("prefix", "keyrush")
    given = {name: asked.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    login = {"username": unquote(username) or None, "password": unquote(password) or None}
    options = {
        "protocol": 2,
        "socket_timeout": PATIENCE,
        "socket_connect_timeout": PATIENCE,
        **login,
        **asked,
    }
    shared = {name: options[name] for name in options if name.startswith(("socket_", "ssl_"))}
    sentinel_options = {"protocol": 2, **shared, **login} | {k: v for k, v in given.items() if v}
    places = [_place(host, 26379 if kind == "sentinel" else 6379) for host in hosts.split(",")]
    if kind == "unix":
        if hosts:
            raise ValueError
        options["path"] = named["path"]
    elif not kind:
        ((options["host"], options["port"]),) = places
    if named.get("db"):
        options.setdefault("db", int(named["db"]))
    if kind == "cluster" and options.pop("db", 0):
        raise ValueError
    service = named.get("service") or ""
    return Server(kind, bool(found[1]), places, service, options, sentinel_options, prefix)


def _place(text: str, port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text.strip()}")
    return parts.hostname or "localhost", parts.port or port


def _try_options(server: Server) -> None:
    """Make connections without opening them. Raises TypeError for what redis-py doesn't know."""
    if server.kind != "cluster":
        for library in (redis, redis.asyncio):
            open_client(server, library).connection_pool.make_connection()
    elif not set(server.options) <= set(inspect.signature(redis.asyncio.RedisCluster).parameters):
        raise TypeError


def open_client(server: Server, library: Any) -> Any:
    """A client of `redis` or `redis.asyncio`, which connects when it is used first.

    Only the synchronous one of a Cluster does so here. Nothing is ever sent twice: whether a
    call that has failed had its effect is unknown.
    """
    options = {**server.options, "retry": library.retry.Retry(NoBackoff(), 0)}
    if server.kind == "cluster":
        options["startup_nodes"] = [library.cluster.ClusterNode(*place) for place in server.places]
        options["ssl"] = server.tls
        # Slots that have moved are noted one by one. To look at all of them anew, the client would
        # close the connections of calls that are under way.
        options["reinitialize_steps"] = 0
        return library.RedisCluster(**options)
    if server.kind == "sentinel":
        own = {**server.sentinel_options, "retry": options["retry"], "ssl": server.tls}
        options["ssl"] = server.tls
        return library.Sentinel(server.places, sentinel_kwargs=own, **options).master_for(
            server.service
        )
    connection_class = library.SSLConnection if server.tls else library.Connection
    if server.kind == "unix":
        connection_class = library.UnixDomainSocketConnection
    return library.Redis.from_pool(
        library.ConnectionPool(connection_class=connection_class, **options)
    )


def and_sentinels(client: Any) -> list[Any]:
    """The client, and those by which it asks Sentinels."""
    pool = getattr(client, "connection_pool", None)
    manager = getattr(pool, "sentinel_manager", None)
    return [client, *(manager.sentinels if manager else ())]


#: With what the other modules need of redis-py, so that its absence is told in one place.
__all__ = [
    "ERRORS",
    "PATIENCE",
    "NoPermissionError",
    "NoScriptError",
    "RedisError",
    "ResponseError",
    "Server",
    "and_sentinels",
    "key_slot",
    "open_client",
    "parse",
    "redis",
]
