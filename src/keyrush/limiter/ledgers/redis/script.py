"""What is sent to servers like Redis: scripts and their codec, and what goes wrong with them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keyrush.core.sliding import SHARE, Taken
from keyrush.errors import LimiterError, NotTold, Unavailable
from keyrush.limiter.ledgers.calls import Call, NoReply, taken_of
from keyrush.limiter.ledgers.redis.server import (
    NoPermissionError,
    NoScriptError,
    ResponseError,
    redis,
)


class Script:
    """A script beside this module."""

    def __init__(self, name: str) -> None:
        self.source = Path(__file__).with_name(name).read_text("utf-8")
        self.digest = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


TAKE = Script("take.lua")
WORKERS = Script("workers.lua")

#: Calls that go together in one script at most, which holds the server for about 2 ms.
TOGETHER = 128

ESCAPES = str.maketrans({"%": "%25", "{": "%7B", "}": "%7D"})


def key_of(prefix: str, window_key: str) -> str:
    """The key of a window. All windows of a subject are in the same slot of a Cluster, of whatever
    group they are (`sliding.subject_of`).
    """
    named, _, seconds = window_key.rpartition(":")
    subject, bar, group = named.partition("|")
    if bar:
        seconds = f"{group.translate(ESCAPES)}:{seconds}"
    return f"{prefix}:{{{subject.translate(ESCAPES) or '%'}}}:{seconds}"


def encode(prefix: str, calls: Sequence[Call], now: int | str) -> tuple[list[str], list[Any]]:
    """Keys and arguments of `take.lua`. With "" for `now` it goes by the server's clock."""
    keys = []
    arguments = [now, SHARE]
    for operation, parts in calls:
        is_together = operation == "take" and len(parts) > 1
        if is_together:
            arguments += ("together", len(parts))
        for windows, cost, other in parts:
            if not is_together:
                arguments.append(operation)
            arguments += (cost, other, len(windows))
            for key, length, amount, _ in windows:
                keys.append(key_of(prefix, key))
                arguments += (length, amount)
    return keys, arguments


def packed(command: Sequence[object]) -> bytes:
    """A command as servers read it, in a fifth of the time of redis-py's packer for event loops."""
    parts = [b"*%d\r\n" % len(command)]
    for word in command:
        text = str(word).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(text), text))
    return b"".join(parts)


def decode(answer: Sequence[int], calls: Sequence[Call]) -> list[list[Taken]]:
    """What the script answers to each call."""
    numbers = iter(answer)
    now = next(numbers)
    return [taken_of(call, now, numbers) for call in calls]


#: What is said of a server that is but a part of one.
CLUSTER = (
    "it is one node of a Cluster, and counts only some of the keys: write redis+cluster:// and "
    "its nodes"
)

#: Clients of redis-py, as it shows them in some of its messages.
_OBJECTS = re.compile(r"<.*>", re.DOTALL)


def fault(error: Exception) -> LimiterError:
    """What to raise instead. Commands are not shown, for one may hold a password."""
    text = _OBJECTS.sub("…", str(error).partition(", with args")[0])
    if isinstance(error, redis.exceptions.AskError):  # `MovedError` is one
        text = f"{text}; {CLUSTER}"
    kind = NoReply if isinstance(error, redis.TimeoutError) else LimiterError
    return kind(f"{type(error).__name__} from the limiter's server: {text}")


def untold(error: Exception, channel: str) -> Unavailable:
    """`fault`, of what is about news: `NotTold` where the server answers that it allows none."""
    # By exact class: that a server is busy, moves or knows no such user is one of its own.
    if type(error) not in (NoPermissionError, ResponseError):
        return fault(error)
    allow = f"ACL SETUSER … '&{channel}' +subscribe +publish"
    return NotTold(f"{fault(error)}; a user may with {allow}")


def is_by_replica(error: BaseException | None) -> bool:
    """True when a server refuses to write because it has become a replica.

    Older servers say it in other words within a script, and what Sentinel's connections raise
    hides it.
    """
    return error is not None and (
        isinstance(error, redis.ReadOnlyError)
        or "READONLY" in str(error)
        or is_by_replica(error.__context__)
    )


def not_executed(error: Exception) -> bool:
    """True when a script was not run, so that it may be sent once more."""
    return isinstance(error, NoScriptError) or is_by_replica(error)
