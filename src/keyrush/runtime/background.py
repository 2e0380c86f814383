"""The one daemon thread of a gate, for work that no request waits for."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable

from keyrush.runtime.forks import after_fork
from keyrush.runtime.logs import log_fault

Job = Callable[[], object]

#: Seconds between two looks at what there is to do, where nothing is due before.
_IDLE = 1.0

#: Seconds before a thread that could not be started is tried again.
RETRY = 1.0

#: Jobs that wait at most, as where there is no thread; the oldest are dropped. None must be done:
#: they look up or take ahead of need what a request would else wait for.
MAX_QUEUE = 65_536


class Background:
    """Runs jobs again and again, and others once. Starts with the first request, and anew in a
    forked child; what was queued in the parent is the parent's. Where no thread can be started,
    or one was ended, the next request tries again. `monotonic` gives seconds.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._jobs: list[tuple[float, Job]] = []
        self._forget()
        after_fork(self._forget)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._queue: deque[Job] = deque(maxlen=MAX_QUEUE)
        self._wake = threading.Event()
        #: None while it does not run; looked at by every request.
        self.thread: threading.Thread | None = None
        #: True while the thread is wanted and does not run: none could be started, or it was ended.
        self.is_missing = False
        self._retry_at = -math.inf

    def every(self, seconds: float, job: Job) -> None:
        """Run `job` when the thread starts, and from then on every so many seconds, or up to half
        the shortest interval of all sooner.
        """
        self._jobs.append((seconds, job))

    def soon(self, job: Job) -> None:
        """Run `job` once, before long."""
        self._queue.append(job)
        self._wake.set()
        if self.thread is None:
            self.start()

    def start(self) -> None:
        """Start the thread, unless it runs; where that can't be, it is tried again later."""
        if self._monotonic() < self._retry_at:
            return
        with self._lock:
            if self.thread is not None or self._monotonic() < self._retry_at:
                return
            thread = threading.Thread(target=self._run, name="keyrush", daemon=True)
            try:
                thread.start()
            except (RuntimeError, MemoryError) as error:  # what Python raises for want of one
                self._retry_at = self._monotonic() + RETRY
                self.is_missing = True
                log_fault("no thread for the work in the background; counts are kept", error)
                return
            self.thread, self.is_missing = thread, False  # once it runs

    def close(self) -> None:
        """Stop the thread; it starts again when needed. What is still queued is not run."""
        with self._lock:
            thread, self.thread = self.thread, None
            self.is_missing = False  # it is wanted no more
            self._queue.clear()
            self._wake.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        me = threading.current_thread()
        with self._lock:
            pass  # held by `start` until this is known to be the one
        try:
            self._go_on(me)
        finally:  # whatever has ended it, the next request starts another
            with self._lock:
                if self.thread is me:
                    self.thread, self.is_missing = None, True

    def _go_on(self, me: threading.Thread) -> None:
        due: dict[int, float] = {}
        while self.thread is me:  # there may be another by the time that this one ends
            self._run_queued(me)
            # What is due soon is done at once, so that it falls in with what is done most often:
            # to wake up costs more than most jobs.
            soon = min((seconds for seconds, _ in self._jobs), default=0.0) / 2
            for number, (seconds, job) in enumerate(self._jobs):
                if self.thread is me and self._monotonic() + soon >= due.get(number, -math.inf):
                    _safely(job)
                    due[number] = self._monotonic() + seconds
            now = self._monotonic()
            self._wake.wait(min(due.values(), default=now + _IDLE) - now)
            self._wake.clear()

    def _run_queued(self, me: threading.Thread) -> None:
        for _ in range(len(self._queue)):  # those that they add are for the next round
            with self._lock:
                if self.thread is not me or not self._queue:
                    return
                job = self._queue.popleft()
            _safely(job)


def _safely(job: Job) -> None:
    try:
        job()
    except BaseException as error:  # SystemExit, too: it would end what others need
        log_fault("work in the background failed", error)
