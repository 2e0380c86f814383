"""Requests that wait for their turn, where else a window would refuse them.

Who waits holds nothing: no lock, no connection, no thread where it is a task. The first of a line
tries when its window is ready, and it is always the limiter that decides; who comes later stands
behind it. What each of them does is written once, as steps, which a thread or a task takes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from time import monotonic
from typing import NamedTuple, Protocol

from keyrush.core.identity import Verified
from keyrush.core.policy import Needs
from keyrush.core.refusal import Refusal
from keyrush.core.times import SECOND
from keyrush.gate.deciding import Admitted, Deciding
from keyrush.gate.lines import Full, Lines, Place
from keyrush.runtime.bells import Bell, TaskBell, ThreadBell
from keyrush.runtime.bridge import running_loop
from keyrush.runtime.stopping import when_told_to_stop
from keyrush.usage.activity import Came
from keyrush.wire.fields import WAITED
from keyrush.wire.request import Header

#: Seconds for which it holds who asks: a key may end while its request waits.
_HOLDS = 1.0

#: Between two tries of the same request pass so many milliseconds at least, twice as many each
#: time, as where others take what it waits for, or another clock decides: up to 64.
_PAUSE, _DOUBLINGS = 1, 6

#: What is asked: by whom, what it needs, its query, how activity has it, and the subject of the
#: client's address.
Asked = tuple[Verified, Needs, bytes, Came | None, str]


class Client(Protocol):
    """Whoever waits for the answer."""

    is_gone: bool

    def watch(self, gone: Callable[[], object]) -> None:
        """Have `gone` called when the client leaves, from the first call on."""
        ...


class _Attempt(NamedTuple):
    """Ask for a decision; what comes of it is the answer."""

    asked: Asked


class _Verify(NamedTuple):
    """Verify anew who asks."""


class _Pause(NamedTuple):
    """Wait until the bell rings, or for so many seconds."""

    seconds: float


_Step = _Attempt | _Verify | _Pause
_Answer = Admitted | Refusal | None
_Steps = Generator[_Step, Admitted | Refusal | Verified | None, _Answer]


class Waiting:
    """Decides on requests that may wait. Safe to use from any thread or event loop. `clock` gives
    Unix milliseconds; what passes while somebody waits is real time.
    """

    def __init__(self, deciding: Deciding, clock: Callable[[], int]) -> None:
        self.lines = Lines()
        self._deciding = deciding
        self._clock = clock
        self._is_stopped = False
        self._releases = 0
        self._told: object = None  # the event loop that tells of a stop

    def release(self) -> None:
        """Answer all that wait by now."""
        self._releases += 1
        self.lines.ring()

    def stop(self) -> None:
        """The same, and from now on nobody waits: the process is about to end."""
        self._is_stopped = True
        self.release()

    def decide(
        self,
        asked: Asked,
        attempt: Callable[..., Admitted | Refusal],
        verify: Callable[[], Verified | Refusal],
    ) -> Admitted | Refusal:
        """The answer to a request, which `attempt` decides on; this thread waits for it."""
        bell = ThreadBell()
        steps = self._steps(asked, bell, None)
        came: Admitted | Refusal | Verified | None = None
        try:
            while True:
                step = steps.send(came)
                came = None
                if isinstance(step, _Attempt):
                    came = attempt(*step.asked)
                elif isinstance(step, _Verify):
                    came = verify()
                else:
                    bell.wait(step.seconds)
        except StopIteration as ended:
            answer: Admitted | Refusal = ended.value
            return answer
        finally:
            steps.close()

    async def decide_async(
        self,
        asked: Asked,
        attempt: Callable[..., Awaitable[Admitted | Refusal]],
        verify: Callable[[], Awaitable[Verified | Refusal]],
        client: Client | None,
    ) -> Admitted | Refusal | None:
        """`decide`, awaited, without a thread; None where the client has left meanwhile."""
        bell = TaskBell()
        steps = self._steps(asked, bell, client)
        came: Admitted | Refusal | Verified | None = None
        try:
            while True:
                step = steps.send(came)
                came = None
                if isinstance(step, _Attempt):
                    came = await attempt(*step.asked)
                elif isinstance(step, _Verify):
                    came = await verify()
                else:
                    self._hear_of_stop()
                    if client is not None:
                        client.watch(bell.ring_here)
                    await bell.wait(step.seconds)
        except StopIteration as ended:
            answer: Admitted | Refusal | None = ended.value
            return answer
        finally:
            steps.close()

    def _hear_of_stop(self) -> None:
        """A server tells the app of its stop only once all requests are answered."""
        loop = running_loop()
        if loop is not None and self._told is not loop:
            self._told = loop
            when_told_to_stop(self.stop)

    def _steps(self, asked: Asked, bell: Bell, client: Client | None) -> _Steps:
        """What is to be done for a request, up to its answer."""
        verified, needs, query, _, address = asked
        if not self._deciding.may_wait(verified, needs, query):
            return _answered((yield _Attempt(asked)))
        keys = self._deciding.window_keys(verified, needs, address)
        place = self.lines.enter(verified.account_id, keys, bell)
        try:
            return (yield from self._turns(asked, place, client))
        finally:
            self.lines.leave(place)

    def _turns(  # noqa: C901  # one straight line, whatever becomes of it
        self, asked: Asked, place: Place, client: Client | None
    ) -> _Steps:
        verified, needs, _, _, address = asked
        began = verified_at = monotonic()
        deadline = began + needs.wait / SECOND
        releases, tries, has_waited = self._releases, 0, False

        def goes_on(ready_at: int) -> bool:
            """Whether it waits on, for what is ready then."""
            is_over = self._is_stopped or self._releases != releases
            return not is_over and self._until(ready_at) <= deadline - monotonic()

        while True:
            line = self.lines.follow(place)
            if line is not None:
                left = deadline - monotonic()
                if left <= 0 or place.line is None or not goes_on(line.tally.ready_at):
                    return self._deciding.over(verified, needs, address, line.tally)
                yield _Pause(left)
            else:
                if monotonic() - verified_at >= _HOLDS:
                    found = yield _Verify()
                    if isinstance(found, Refusal):
                        return found
                    verified, verified_at = _known(found), monotonic()
                    asked = verified, *asked[1:]
                answer = _answered((yield _Attempt(asked)))
                if not isinstance(answer, Full):
                    return _waited(answer, monotonic() - began) if has_waited else answer
                tally = answer.tally
                if not (goes_on(tally.ready_at) and self.lines.wait_for(place, tally)):
                    return answer
                if not self.lines.is_first(place):
                    continue
                least = (_PAUSE << min(tries, _DOUBLINGS)) / SECOND
                yield _Pause(max(self._until(tally.ready_at), least))
                tries += 1
            has_waited = True
            if client is not None and client.is_gone:
                return None

    def _until(self, instant: int) -> float:
        """Seconds until a Unix millisecond has begun for sure; none where it is past."""
        wait = instant - self._clock()
        return (wait + 1) / SECOND if wait > 0 else 0.0


def _answered(came: Admitted | Refusal | Verified | None) -> Admitted | Refusal:
    """What an attempt brings."""
    assert came is not None  # noqa: S101  # nothing comes of pauses alone
    assert not isinstance(came, Verified)  # noqa: S101  # which verifying alone brings
    return came


def _known(came: Admitted | Refusal | Verified | None) -> Verified:
    """Who is verified, where it is no refusal."""
    assert isinstance(came, Verified)  # noqa: S101  # verifying brings nothing else
    return came


def _waited(answer: Admitted | Refusal, seconds: float) -> Admitted | Refusal:
    """The answer, which says how long it was waited for, if it admits."""
    if not isinstance(answer, Refusal):
        waited: Header = (WAITED, b"%.3f" % seconds)
        headers = answer[1]
        headers.insert(len(headers) - 1, waited)  # the last one is `vary`
    return answer
