"""Who sent a request, as far as the trusted proxies tell, and that they have left."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: How much of addresses is kept: `prefix` is the network, /24 of IPv4 and /48 of IPv6.
Kept = Literal["full", "prefix", "off"]


#: Stands among trusted networks for whoever is at the other end of a Unix socket.
UNIX = "unix"


#: What stands for an address where a proxy writes a port behind it, or brackets around it.
_WITH_PORT = re.compile(rb"(?:\[([^\[\]]+)\]|([^:\[\]]+))(?::[0-9]{1,5})?").fullmatch

#: Bits of an IPv6 address that are one client's: what a provider gives at least.
_IPV6_NETWORK = 64

#: Bytes of all `X-Forwarded-For` that are read, from the right: a hundred proxies, or more.
MAX_FORWARDED = 4096


def has_left(error: Exception) -> bool:
    """Whether that is how a server says, to whoever sends, that the client is no longer there: by
    OSError, by uvloop's error of a connection that is closed, which uvicorn passes on where
    requests are pipelined, or by an exception of waitress's own.
    """
    is_closed = isinstance(error, RuntimeError) and "handler is closed" in str(error)
    return isinstance(error, OSError) or is_closed or type(error).__name__ == "ClientDisconnected"


class Sender(NamedTuple):
    """Who sent a request: whoever is at the other end, and for whom they say they ask."""

    peer: str | None
    forwarded_for: Sequence[bytes]
    trusted: Sequence[Network | str]

    @property
    def address(self) -> str | None:
        """The client's address, as far as the trusted proxies tell it."""
        return client_address(*self)


def client_address(
    peer: str | None, forwarded_for: Sequence[bytes], trusted: Sequence[Network | str]
) -> str | None:
    """The client's address. `X-Forwarded-For` counts only as far as trusted proxies wrote it.

    `forwarded_for` are the values of that header, in order; they are read from the right, and
    only if the peer is trusted.
    """
    address = peer
    if not trusted:
        return address
    # Of the peer alone, which the server names: a hop may be called anything.
    is_trusted = UNIX in trusted and _is_unix(peer)
    left = MAX_FORWARDED
    for value in reversed(forwarded_for):
        rest: bytes | None = value[-left:] if left else b""
        left -= len(rest or b"")
        while rest:
            if not is_trusted and not _is_in(address, trusted):
                return address
            before, separator, hop = rest.rpartition(b",")
            rest = before if separator else None
            if stripped := hop.strip():
                address, is_trusted = _host(stripped).decode("latin-1"), False
    return address


def _host(hop: bytes) -> bytes:
    """The address alone, of `192.0.2.1:5678`, `[2001:db8::1]:443` or `[2001:db8::1]`."""
    found = _WITH_PORT(hop)
    return hop if found is None else found[1] or found[2]


def _is_in(address: str | None, networks: Sequence[Network | str]) -> bool:
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)  # as servers on both protocols show IPv4
    return any((mapped or parsed) in one for one in networks if not isinstance(one, str))


def _is_unix(peer: str | None) -> bool:
    """True for what servers call a peer at a Unix socket: nothing, "localhost", or a path."""
    return not peer or peer == "localhost" or peer.startswith(("/", "@", "unix:"))


def network_of(address: str | None) -> str | None:
    """What one client can send from: an address of IPv4, of IPv6 its network, however it is
    written; None where it is no address.
    """
    try:
        parsed = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:  # as servers on both protocols show IPv4
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((parsed, _IPV6_NETWORK), strict=False))


def client_of(address: str | None) -> str:
    """The same, where what is no address stands for itself; all Unix sockets are one."""
    return network_of(address) or address or ""


def shown_address(address: str | None) -> str:
    """The address for a log: as it parses, without a zone, and "-" where it is none."""
    try:
        return str(ipaddress.ip_address((address or "").partition("%")[0]))
    except ValueError:
        return "-"
