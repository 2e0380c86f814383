"""The one daemon thread of a gate, for work that no request waits for."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from keyrush.errors import log_fault
from keyrush.forks import after_fork

Job = Callable[[], object]


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
        self._stopping = False

    def every(self, seconds: float, job: Job) -> None:
        """Run `job` when the thread starts, and from then on every so many seconds."""
        self._jobs.append((seconds, job))

    def soon(self, job: Job) -> None:
        """Run `job` once, before long."""
        self._queue.append(job)
        self._wake.set()
        if self.thread is None:
            self.start()

    def start(self) -> None:
        """Start the thread, unless it runs."""
        with self._lock:
            if self.thread is None:
                self._stopping = False
                self.thread = threading.Thread(target=self._run, name="keyrush", daemon=True)
                self.thread.start()

    def close(self) -> None:
        """Stop the thread; it starts again when needed. What is still queued is not run."""
        with self._lock:
            thread, self.thread = self.thread, None
            self._stopping = True
            self._wake.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        self._queue.clear()

    def _run(self) -> None:
        due = [time.monotonic()] * len(self._jobs)
        while not self._stopping:
            while self._queue:
                _safely(self._queue.popleft())
            for number, (seconds, job) in enumerate(self._jobs):
                if time.monotonic() >= due[number]:
                    _safely(job)
                    due[number] = time.monotonic() + seconds
            self._wake.wait(min(due, default=1.0) - time.monotonic())
            self._wake.clear()


def _safely(job: Job) -> None:
    try:
        job()
    except Exception as error:
        log_fault("work in the background failed", error)
