"""What limits cost a request: `python -m benchmarks.several --cost`.

In this process, microseconds of its CPU, the best of many rounds in which all are asked by turns:
takes from a limiter, with what they take of one window after the other; and whole requests over
ASGI, without sockets.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from time import thread_time
from typing import Any

from benchmarks.apps import plain, play
from keyrush import Gate, KeyrushMiddleware, Settings
from keyrush.core.concurrency import Want
from keyrush.core.sliding import Demand, Window
from keyrush.limiter.opening import open_limiter
from keyrush.limiter.slots.opening import open_slots
from keyrush.limiter.slots.protocol import Slot
from keyrush.runtime.clock import now_ms

#: Where windows and slots are kept, by how that is called in the table.
PLACES = {"memory": "memory://", "mapped": "file://{folder}/windows"}

#: What the rule of the path says, and what the plan does besides its window.
REQUESTS: dict[str, tuple[dict[str, Any] | None, dict[str, Any]]] = {
    "the plan's window": (None, {}),
    "and a rule without limits": ({}, {}),
    "and one by key": ({"limits": "10000000/minute"}, {}),
    "and one by account": ({"limits": "10000000/minute", "per": "account"}, {}),
    "the plan's window and max_concurrent": (None, {"max_concurrent": 100}),
}

#: Rounds, and how often each is asked in one.
ROUNDS, CALLS = 100, 200

#: Does something so many times; the seconds of CPU for one.
Timed = Callable[[int], float]


def _window(key: str, seconds: int) -> Window:
    return Window(f"{key}:{seconds}", seconds * 1000, 10**9, "window")


def _times(call: Callable[[], object]) -> Timed:
    def timed(calls: int) -> float:
        begun = thread_time()
        for _ in range(calls):
            call()
        return (thread_time() - begun) / calls

    return timed


def takes(url: str) -> dict[str, Timed]:
    """Takes from the limiter at a URL, by what is taken."""
    limiter, slots = open_limiter(url).limiter, open_slots(url).slots
    minute, rule, account = (_window(key, 60) for key in ("key:a", "key:a|rule", "account:b"))
    want = (Want("key:a", 100),)
    one, two = (minute,), (minute, _window("key:a", 3600))
    same = (Demand(one, 1), Demand((rule,), 1))
    other = (Demand(one, 1), Demand((account,), 1))
    for _ in range(2):  # until they are known
        limiter.take(two, 1, now_ms())
        limiter.take_together(same, now_ms())
        limiter.take_together(other, now_ms())

    def slot(take: Callable[[Sequence[Want]], Slot | Want | None] = slots.take_at_once) -> None:
        taken = take(want)
        if isinstance(taken, Slot):
            slots.give_back(taken)

    slot(slots.take)
    return {
        "one window": _times(lambda: limiter.take_at_once(one, 1, now_ms())),
        "two windows": _times(lambda: limiter.take_at_once(two, 1, now_ms())),
        "a plan's and a rule's": _times(lambda: limiter.take_together_at_once(same, now_ms())),
        "of two subjects": _times(lambda: limiter.take_together_at_once(other, now_ms())),
        "a slot, and back": _times(slot),
    }


@contextmanager
def requests(url: str) -> Iterator[dict[str, Timed]]:
    """Whole requests over a gate at a URL, by what limits them."""
    found: dict[str, Timed] = {}
    with ExitStack() as opened:
        for name, (rule, plan) in REQUESTS.items():
            rules = [] if rule is None else [{"path": "/api/articles", **rule}]
            gate = Gate.open(
                Settings(
                    store_url="memory://",
                    limiter_url=url,
                    pepper="benchmarks" * 4,
                    activity="off",
                    rules=rules,
                    plans={"only": {"limits": "10000000/minute", **plan}},
                )
            )
            opened.callback(gate.close)
            gate.accounts.create("acct_bench")
            key = gate.keys.create("acct_bench", "bench").text
            found[name] = _asked(KeyrushMiddleware(plain, gate=gate), key)
        yield found


def _asked(app: Any, key: str) -> Timed:
    headers = [(b"x-api-key", key.encode())]
    return lambda calls: asyncio.run(play(app, headers, calls, thread_time))


def measure(rounds: int = ROUNDS, calls: int = CALLS) -> dict[str, dict[str, float]]:
    """Microseconds, by what is asked and where windows are kept."""
    with ExitStack() as opened:
        asked: dict[tuple[str, str], Timed] = {}
        folder = opened.enter_context(tempfile.TemporaryDirectory(prefix="keyrush-"))
        for place, url in PLACES.items():
            there = url.format(folder=folder)
            mine: Mapping[str, Timed] = takes(there) | opened.enter_context(requests(there))
            asked |= {(name, place): timed for name, timed in mine.items()}
        best = dict.fromkeys(asked, float("inf"))
        for _ in range(rounds):
            for one, timed in asked.items():
                best[one] = min(best[one], timed(calls) * 1e6)
    found: dict[str, dict[str, float]] = {}
    for (name, place), microseconds in best.items():
        found.setdefault(name, {})[place] = microseconds
    return found


def render(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The table."""
    lines = [f"| µs | {' | '.join(PLACES)} |", "|---|" + "---:|" * len(PLACES)]
    for name, by_place in found.items():
        lines.append(f"| {name} | {' | '.join(f'{by_place[one]:.1f}' for one in PLACES)} |")
    return lines
