"""The one daemon thread of a gate, for work that no request waits for."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from keyrush.errors import log_fault
from keyrush.forks import after_fork

Job = Callable[[], object]

#: Seconds between two looks at what there is to do, where nothing is due before.
_IDLE = 1.0

#: Seconds before a thread that could not be started is tried again.
RETRY = 1.0


class Background:
    """Runs jobs again and again, and others once. Starts with the first request, and anew in a
    forked child; what was queued in the parent is the parent's.
    """

    def __init__(self) -> None:
        self._jobs: list[tuple[float, Job]] = []
        self._forget()
        after_fork(self._forget)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._queue: deque[Job] = deque()
        self._wake = threading.Event()
        #: None while it does not run; looked at by every request.
        self.thread: threading.Thread | None = None
        self._retry_at = 0.0  # where the machine had no thread left; 0: it never did

    def every(self, seconds: float, job: Job) -> None:
        """Run `job` when the thread starts, and from then on every so many seconds."""
        self._jobs.append((seconds, job))

    def soon(self, job: Job) -> None:
        """Run `job` once, before long."""
        self._queue.append(job)
        self._wake.set()
        if self.thread is None:
            self.start()

    @property
    def is_missing(self) -> bool:
        """True while the thread is wanted and can't be started."""
        return self.thread is None and bool(self._retry_at)

    def start(self) -> None:
        """Start the thread, unless it runs; where that can't be, it is tried again later."""
        if time.monotonic() < self._retry_at:
            return
        with self._lock:
            if self.thread is not None:
                return
            thread = threading.Thread(target=self._run, name="keyrush", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # "can't start new thread"
                self._retry_at = time.monotonic() + RETRY
                log_fault("no thread for the work in the background; counts are kept", error)
                return
            self.thread, self._retry_at = thread, 0.0  # once it runs

    def close(self) -> None:
        """Stop the thread; it starts again when needed. What is still queued is not run."""
        with self._lock:
            thread, self.thread = self.thread, None
            self._queue.clear()
            self._wake.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        me = threading.current_thread()
        due: dict[int, float] = {}
        self._lock.acquire()  # held by `start` until this is known to be the one
        self._lock.release()
        while self.thread is me:  # there may be another by the time that this one ends
            self._run_queued(me)
            for number, (seconds, job) in enumerate(self._jobs):
                if self.thread is me and time.monotonic() >= due.get(number, 0.0):
                    _safely(job)
                    due[number] = time.monotonic() + seconds
            now = time.monotonic()
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
    except Exception as error:
        log_fault("work in the background failed", error)
