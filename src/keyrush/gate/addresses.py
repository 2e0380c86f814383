"""Whose address a request comes from, as a subject of limits."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from keyrush.core.rule_limits import address_subject
from keyrush.usage.activity import Peer
from keyrush.wire.sender import Network, client_address

#: Bits of an IPv6 address that one client is given: who has a network has all that is in it.
_NETWORK = 64

#: Clients whose subject is remembered.
_REMEMBERED = 4096

#: The subject of all whose address nobody knows, as at a Unix socket.
UNKNOWN = address_subject("unknown")


class AddressSubjects:
    """The subjects of clients, as far as the `trusted` proxies tell their addresses: each address
    of IPv4, each /64 of IPv6.
    """

    def __init__(self, trusted: Sequence[Network | str]) -> None:
        self._trusted = trusted
        self._known: dict[tuple[str | None, bytes | None], str] = {}

    def of(self, peer: Peer, forwarded_for: bytes | None) -> str:
        """The subject of whoever is at the other end, or of whom they ask for."""
        host = peer if peer is None or isinstance(peer, str) else peer[0]
        if not self._trusted:
            forwarded_for = None
        client = host, forwarded_for
        known = self._known.get(client)
        if known is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            forwarded = () if forwarded_for is None else (forwarded_for,)
            address = client_address(host, forwarded, self._trusted)
            known = self._known[client] = _subject(address)
        return known


def _subject(address: str | None) -> str:
    try:
        parsed = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return UNKNOWN
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:  # as servers on both protocols show IPv4
            parsed = parsed.ipv4_mapped
        else:
            network = ipaddress.ip_network((parsed, _NETWORK), strict=False)
            return address_subject(str(network.network_address))
    return address_subject(str(parsed))
