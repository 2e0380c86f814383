"""URLs of PostgreSQL with several hosts, as libpq takes them and SQLAlchemy does not."""

from __future__ import annotations

import re

from sqlalchemy.engine import URL, make_url

_PORT = "5432"

_SEVERAL = re.compile(
    r"(postgres(?:ql)?(?:\+\w+)?://(?:[^@/?]*@)?)([^@/?]*,[^@/?]*)(/[^?]*)?(\?.*)?"
)


def database_url(url: str) -> URL:
    """The URL, parsed; several hosts, each with its port, become options, where SQLAlchemy looks
    for them. They are tried in their order (libpq, "Specifying Multiple Hosts"); if the URL says
    nothing else, until one can be written: the first may have become a replica.

    Raises:
        ArgumentError: It is no URL.
        ValueError: It is none, either.
    """
    found = _SEVERAL.fullmatch(url)
    if not found:
        return make_url(url)
    before, places, path, options = found.groups("")
    hosts, ports = zip(*(_host_and_port(place) for place in places.split(",")), strict=True)
    parsed = make_url(before + path + options)
    if {"host", "port"} & parsed.query.keys():
        raise ValueError("hosts are named twice")
    told = {"host": ",".join(hosts), "port": ",".join(ports)}
    return parsed.set(query={"target_session_attrs": "read-write", **parsed.query, **told})


def _host_and_port(place: str) -> tuple[str, str]:
    found = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::(\d*))?", place)
    if not found:
        raise ValueError("no host and port")
    return found[1].strip("[]"), found[2] or _PORT
