"""Work in the background, done when the test says so."""

from __future__ import annotations

from keyrush.runtime.background import Background, Job


class Chores(Background):
    """Keeps what is to be done soon until `work`, and notes what is to be done again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[Job] = []
        self.again: dict[Job, float] = {}

    def every(self, seconds: float, job: Job) -> None:
        self.again[job] = seconds

    def soon(self, job: Job) -> None:
        self.jobs.append(job)

    def work(self) -> None:
        """Do what waits now."""
        jobs, self.jobs = self.jobs, []
        for job in jobs:
            job()

    def work_off(self) -> None:
        """Do what waits, and what comes of that, until nothing does."""
        while self.jobs:
            self.work()
