"""A process with a gate of its own that does what it is told, a line of JSON at a time.

    python -m tests.support.member SETTINGS [no-news]

It asks for each key that it watches, again and again, and says when the answer changes.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from typing import Any

from keyrush import Gate, Settings
from keyrush.core.refusal import Refusal
from keyrush.gate.finishing import Pending
from keyrush.sql.engine import Database
from keyrush.store.sql import SqlStore
from tests.support.calls import begin

#: Seconds between two rounds of asking, which leave the core to others.
PAUSE = 0.001


class Silent:
    """A user's own store: a SQL store that brings no news."""

    def __init__(self, url: str) -> None:
        self._store = SqlStore(Database(url))

    def __getattr__(self, name: str) -> Any:
        if name in {"changes", "database"}:
            raise AttributeError(name)
        return getattr(self._store, name)


class Member:
    """What the process does."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self._watched: dict[str, Any] = {}
        self.cold = 0
        self.proofs = 0
        api_keys: Any = gate.finishing.verification.authenticators[0]
        hashing = api_keys._hashing  # noqa: SLF001  # counts what it does
        prove = hashing.verify

        def proving(*values: Any) -> Any:
            self.proofs += 1
            return prove(*values)

        hashing.verify = proving

    def watch(self, key: str) -> None:
        """Ask for the key from now on."""
        self._watched[key] = None

    def ask(self) -> None:
        """Ask once for each key; say what is new: the status and the limit, and when that was."""
        for key, before in list(self._watched.items()):
            answer = begin(self.gate, key)
            if isinstance(answer, Pending):
                self.cold += 1
                answer = answer.finish(lambda: None)
            is_refused = isinstance(answer, Refusal)
            told = [answer.status if is_refused else 200, self._limit(answer)]
            if told != before:
                self._watched[key] = told
                say({"key": key, "told": told, "at": time.monotonic()})
            if told[0] == 401:
                del self._watched[key]

    def _limit(self, answer: Any) -> int:
        headers = answer.headers if isinstance(answer, Refusal) else answer[1]
        return int(dict(headers).get(b"x-ratelimit-limit", 0))

    def forget(self, key: str) -> None:
        """Ask for the key no more."""
        self._watched.pop(key, None)

    def count(self) -> None:
        """Say how many requests went the cold way, and how often argon2 was run."""
        say({"cold": self.cold, "proofs": self.proofs})


def say(what: object) -> None:
    """Tell whoever started this process."""
    print(json.dumps(what), flush=True)  # noqa: T201  # that is how it speaks


def main() -> None:
    """Do what the lines of the standard input say, until it ends."""
    settings = Settings(**json.loads(sys.argv[1]))
    store: Any = Silent(settings.store_url) if "no-news" in sys.argv[2:] else None
    member = Member(Gate.open(settings, store=store))
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    say("ready")
    while True:
        while not lines.empty():
            line = lines.get()
            if line is None:
                member.gate.close()
                return
            name, *values = json.loads(line)
            getattr(member, name)(*values)
        member.ask()
        time.sleep(PAUSE)


if __name__ == "__main__":
    main()
