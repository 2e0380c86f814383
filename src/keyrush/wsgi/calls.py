"""Requests to resources of MCP: read before they are decided on, and looked at on the way out."""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO

from keyrush.core.refusal import Refusal
from keyrush.gate.deciding import Admitted
from keyrush.gate.exchange import Exchange
from keyrush.gate.finishing import Address
from keyrush.gate.principal import Caller
from keyrush.wire.outcomes import Outcomes
from keyrush.wsgi.environ import Environ

#: Left out of what the app sees of calls: what it compresses nobody can look at on its way.
ACCEPT_ENCODING = "HTTP_ACCEPT_ENCODING"


def come_in(exchange: Exchange, address: Address, environ: Environ) -> Admitted | Refusal:
    """The answer to a request to a resource. What is read of its body the app reads anew."""
    if (refusal := exchange.identify(address)) is not None:
        return refusal
    if exchange.refused is not None:
        return exchange.decide(exchange.refused)
    if not exchange.reads_body:
        return exchange.decide(None)
    body = _body(environ, exchange.max_body)
    if body is None:
        return exchange.decide(exchange.too_large)
    # All that there is to be read: what nobody has priced no app can get at.
    environ["wsgi.input"] = BytesIO(body)
    return exchange.decide(body)


def _body(environ: Environ, limit: int) -> bytes | None:
    """The body, None where it is longer than `limit`. Without a length there is none, but where
    the server says that the input ends by itself.
    """
    given = environ.get("CONTENT_LENGTH", "")
    stream = environ["wsgi.input"]
    if given.isdecimal() and given.isascii():
        if len(given) > len(str(limit)) or int(given) > limit:
            return None
        return _read(stream, int(given))
    if not environ.get("wsgi.input_terminated"):
        return b""
    body = _read(stream, limit + 1)
    return body if len(body) <= limit else None


def _read(stream: object, size: int) -> bytes:
    """So many bytes, or as many as come: a server may give fewer at a time."""
    parts: list[bytes] = []
    while size and (part := stream.read(size)):  # type: ignore[attr-defined]  # a stream, by PEP 3333
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


class Watch:
    """Looks at an answer as it passes, and gives back what was charged for calls that come to
    nothing, before the client can know of it.
    """

    def __init__(
        self, exchange: Exchange, caller: Caller, outcomes: Outcomes, length: int | None
    ) -> None:
        self._exchange = exchange
        self._caller = caller
        self._outcomes = outcomes
        self._left = length  # bytes until its end, where the app has said how many there are

    @classmethod
    def of(
        cls, exchange: Exchange, caller: Caller, headers: Iterable[tuple[str, str]]
    ) -> Watch | None:
        """For an answer with these headers; None where there is nothing to look at. If it begins a
        session, that is noted; may block.
        """
        sent = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        if (session := exchange.opens(sent)) is not None:
            exchange.note_session(session)
        outcomes = exchange.outcomes(sent)
        lengths = [value for name, value in sent if name.lower() == b"content-length"]
        length = int(lengths[0]) if lengths and lengths[0].isdigit() else None
        return None if outcomes is None else cls(exchange, caller, outcomes, length)

    @property
    def are_known(self) -> bool:
        """See `Outcomes.are_known`."""
        return self._outcomes.are_known

    def feed(self, data: bytes) -> None:
        """The next part; may block."""
        if self._left is not None:
            self._left -= len(data)
        self._look(data, is_last=self._left is not None and self._left <= 0)

    def end(self) -> None:
        """Nothing more comes; may block."""
        if self._left is None:
            self._look(b"", is_last=True)

    def _look(self, data: bytes, *, is_last: bool) -> None:
        failed = self._outcomes.feed(data, is_last=is_last)
        if self._outcomes.are_known:  # by the client, who may go on with the same id
            self._exchange.end(is_answered=True)
        if failed:
            self._exchange.fail(failed)
            if self._caller.charges:
                self._exchange.give_back(self._caller, failed)
