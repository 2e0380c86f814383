"""What came of calls, read off the answer as it passes: which of them have come to nothing.

The answer is neither held nor changed. What is kept of it is one message at most, and of that no
more than `MAX_LOOKED_AT`; what is longer, or in a form that is not known, counts as done: then
the charge stays. Otherwise a caller could have it back by what a tool echoes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from keyrush.wire.request import Header

#: Bytes of one message.
MAX_LOOKED_AT = 1_048_576

#: What stands in every message that says of a call that it has failed, or that it needs more.
_SUSPECT = re.compile(rb'"error"|"isError"\s*:\s*true|"input_required"').search

#: What stands in every answer.
_ANSWER = re.compile(rb'"error"|"result"').search

_LINE_END = re.compile(rb"\r\n|\n|\r")

#: Types of the events that clients take for messages.
_MESSAGE = frozenset({b"", b"message"})


class _Reader(Protocol):
    def feed(self, data: bytes, *, is_last: bool) -> Iterable[bytes]:
        """The messages that are whole now."""
        ...


class Outcomes:
    """The calls with these ids, of which no answer has been seen yet."""

    def __init__(
        self, ids: Sequence[str | int], reader: _Reader, *, sees_all: bool = False
    ) -> None:
        self._waiting = {(type(one), one): one for one in ids}
        self._reader = reader
        self._is_whole = isinstance(reader, _Whole)
        self._has_ended = False
        self._is_alone = self._is_whole and len(ids) == 1
        self._may_matter = _ANSWER if sees_all else _SUSPECT

    @classmethod
    def of(
        cls, ids: Sequence[str | int], headers: Iterable[Header], *, sees_all: bool = False
    ) -> Outcomes | None:
        """For an answer with these headers; None where nothing can be read in it. With `sees_all`
        it is also known of calls that have come to something (`are_known`).
        """
        kind = b""
        for name, value in headers:
            lower = name.lower()
            if lower == b"content-type":
                kind = value.partition(b";")[0].strip().lower()
            elif lower == b"content-encoding":
                return None
        if kind == b"application/json":
            return cls(ids, _Whole(), sees_all=sees_all)
        return cls(ids, _Events(), sees_all=sees_all) if kind == b"text/event-stream" else None

    def feed(self, data: bytes, *, is_last: bool = False) -> list[str | int]:
        """The next part of the body: the calls that are known now to have come to nothing."""
        self._has_ended = is_last and self._is_whole
        failed: list[str | int] = []
        for message in self._reader.feed(data, is_last=is_last):
            if self._waiting and self._may_matter(message):
                failed += self._failed(message)
        return failed

    @property
    def are_known(self) -> bool:
        """True once the answer has said of all calls what came of them, or that is no stream, and
        has ended.
        """
        return not self._waiting or self._has_ended

    def _failed(self, message: bytes) -> list[str | int]:
        try:
            found: Any = json.loads(message)
        except (ValueError, RecursionError):
            return []
        failed: list[str | int] = []
        for one in found if isinstance(found, list) else [found]:
            if not isinstance(one, dict) or "method" in one:
                continue
            number = one.get("id")
            if number is None and "error" in one and self._is_alone and one is found:
                failed += self._waiting.values()
                self._waiting.clear()
            elif isinstance(number, str | int) and (type(number), number) in self._waiting:
                del self._waiting[type(number), number]
                if _has_failed(one):
                    failed.append(number)
        return failed


def _has_failed(answer: dict[str, Any]) -> bool:
    """True for an error, of JSON-RPC or of the tool, and where the client is asked for more."""
    if "error" in answer:
        return True
    result = answer.get("result")
    if not isinstance(result, dict):
        return False
    return result.get("isError") is True or result.get("resultType") == "input_required"


class _Whole:
    """A body that is one message."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes, *, is_last: bool) -> Iterable[bytes]:
        self._size += len(data)
        if self._size > MAX_LOOKED_AT:
            self._parts.clear()
            return []
        self._parts.append(data)
        return [b"".join(self._parts)] if is_last else []


class _Events:
    """A stream of server-sent events, as browsers read it (HTML §9.2.6)."""

    def __init__(self) -> None:
        self._line: list[bytes] = []  # parts of one that has not ended
        self._data: list[bytes] = []  # of the event
        self._kind = b""
        self._size = 0  # of the event so far
        self._ends_in_cr = False  # what came last

    def feed(self, data: bytes, *, is_last: bool) -> Iterable[bytes]:  # noqa: ARG002  # an event ends by itself
        if self._ends_in_cr and data[:1] == b"\n":
            data = data[1:]
            self._ends_in_cr = False
        if data:
            self._ends_in_cr = data[-1:] == b"\r"
        first, *rest = _LINE_END.split(data)
        self._grow(first)
        messages = []
        for following in rest:
            line = b"".join(self._line)
            self._line.clear()
            if line:
                self._take(line)
            else:
                messages += self._end()
            self._grow(following)
        return messages

    def _grow(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > MAX_LOOKED_AT:
            self._line.clear()
            self._data.clear()
            part = part[:1]  # not to be taken for an empty line
        if part:
            self._line.append(part)

    def _take(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name.removeprefix(b"\xef\xbb\xbf") == b"data":
            self._data.append(value)
        elif name == b"event":
            self._kind = value

    def _end(self) -> list[bytes]:
        found = b"\n".join(self._data)
        is_message = self._kind in _MESSAGE and 0 < self._size <= MAX_LOOKED_AT
        self._data.clear()
        self._kind, self._size = b"", 0
        return [found] if is_message and found else []
