"""Random schedules of several processes that share windows.

    python -m tests.long.simulation --schedules 1000000

Nothing here waits or runs in threads: time is a number, and what other threads and processes do
while a call to the ledger is on its way is done inside that call. A schedule is its seed.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import sys
from collections import Counter as Counts
from collections.abc import Iterator, Sequence
from random import Random

from keyrush.core import sliding
from keyrush.core.sliding import Taken, Tally, Window
from keyrush.errors import Away
from keyrush.limiter.shared.leased import LeasedLimiter
from keyrush.runtime.circuit import PAUSE
from keyrush.runtime.cpus import cores
from tests.support import oracle
from tests.support.ledgers import Fault
from tests.support.oracle import Oracle, Violation
from tests.support.processes import Course, DistantLedger, Process, Source, Taking

#: Operations in a schedule.
STEPS = 90

#: True microseconds since 1970 when schedules begin; periods of every length begin there, too.
BEGINNING = 1_795_024_800_000_000

#: Schedules that a process runs at a time.
_PART = 500

#: What happens, and how often.
DEEDS = {
    "take": 104,
    "give_back": 18,
    "tick": 16,
    "job": 16,
    "wait": 28,
    "settle": 4,
    "enlist": 2,
    "weather": 6,
    "limits": 2,
    "step": 2,
    "crash": 1,
    "stop": 1,
}


class World:
    """One schedule."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)  # noqa: S311  # a schedule is its seed
        self.course = Course(self.random)
        self.time = BEGINNING + self.random.randrange(3_000_000)
        self.step = 0  # milliseconds by which the wall clock is ahead of true time
        self.skew = self.random.randint(-10_000_000, 10_000_000)  # and the ledger's
        self.latest = 0  # on the ledger's clock
        self.ledger = DistantLedger(self)
        self.weather = 0.0
        self.subjects = [self._subject(number) for number in range(self.course.subjects)]
        self.most: dict[str, int] = {}
        self._note_amounts()
        self.oracle, self.policy = Oracle(), Oracle()  # of all that was admitted, and of a part
        self.counted = Oracle()  # what the ledger has to know of
        self.shares: dict[Process, int] = {}  # the fewest workers each has known of
        self.takings: list[Taking] = []
        self.is_exact = self.is_counted = self.is_known = True
        self.depth = 0
        self.is_over = False
        self.done: Counts[str] = Counts()
        self.processes = [Process(self) for _ in range(self.course.processes)]
        self.acting = self.processes[0]
        for process in self.processes:
            process.client.membership.enlist()
            process.client.membership.enlist()

    def _subject(self, number: int) -> tuple[Window, ...]:
        amounts = self.random.choice([(3, 9), (12, 40), (60, 90)])
        return tuple(
            Window(f"{number}:{place}", length, self.random.randint(1, amount), f"w{place}")
            for place, (length, amount) in enumerate(zip(self.course.lengths, amounts, strict=True))
        )

    def _windows(self) -> Iterator[Window]:
        return (window for subject in self.subjects for window in subject)

    def _note_amounts(self) -> None:
        for window in self._windows():
            self.most[window.key] = max(self.most.get(window.key, 0), window.amount)

    # --- clocks ---

    def wall(self) -> int:
        return self.time // 1000 + self.step

    def monotonic(self) -> float:
        return (self.time - BEGINNING) / 1_000_000 + 1000

    def ledger_clock(self) -> int:
        now = self.time // 1000 + self.skew if self.course.has_own_clock else self.wall()
        self.latest = max(self.latest, now)
        return now

    # --- what the ledger tells ---

    def travel(self) -> None:
        """A call, or its answer, is on the way."""
        if self.is_over:
            return
        if self.course.has_latency:
            self.time += int(self.random.expovariate(1 / 2000))
            if self.random.random() < 0.03:
                self._wait()
        if self.depth < 2 and self.random.random() < 0.25:
            acting, acting.is_calling = self.acting, self.acting.is_calling + 1
            self.depth += 1
            for _ in range(self.random.randint(1, 4)):
                self.do_something()
            self.depth -= 1
            acting.is_calling -= 1
            self.acting = acting

    def draw_fault(self) -> Fault | None:
        if self.is_over or self.random.random() >= self.weather:
            return None
        if self.weather == 1 or self.random.random() < 0.5:
            return "before"
        self.is_exact = False
        return "after"

    def answered(self, wanted: Sequence[Window], cost: int, taken: Taken) -> None:
        taking = self.takings[-1]
        taking.asked = True
        if taken.granted:
            self._admit(taking, "ledger", taken.now)
            return
        for window in wanted:
            if self._counted(window, taken.now) + cost > window.amount:
                return
        raise Violation("refused, though there is room")

    def admitted_without(self) -> None:
        """The outage policy has let the take under way pass."""
        self._admit(self.takings[-1], "policy", self.ledger_clock())

    def _counted(self, window: Window, instant: int) -> int:
        """What the ledger counts, worked out here."""
        index, current, previous = self.ledger.counters.get(window.key, (0, 0, 0))
        instant = max(instant, index * window.length)
        return oracle.used({index: current, index - 1: previous}, window.length, instant)

    def _admit(self, taking: Taking, source: Source, at: int) -> None:
        taking.source, taking.at = source, at
        self.done[source] += 1
        if source == "policy":
            self.is_exact &= not self.course.has_own_clock  # whose time is known by and large
            place = taking.process.client.membership.place
            known = self.shares.get(taking.process, 1000)
            self.shares[taking.process] = min(known, place.workers if place else 1000)
        for window in taking.wanted:
            (self.policy if source == "policy" else self.counted).add(window, taking.cost, at)
            self.oracle.add(window, taking.cost, at)
            used = self.oracle.used(window, self.latest)
            if used > self._allowed(window, source):
                raise Violation(f"{used} of {window.amount} by {source}")

    def _allowed(self, window: Window, source: str) -> int:
        recent = self.policy.recent(window, self.latest)
        if self.course.outage == "local" and self.shares:
            most = self.most[window.key]
            return most + sum(-(-most // workers) for workers in self.shares.values())
        if self.course.outage == "open" and source == "policy":
            return 2**60
        return window.amount + recent

    # --- what happens ---

    def do_something(self) -> None:
        self.acting = self.random.choice(self.processes)
        [deed] = self.random.choices(list(DEEDS), list(DEEDS.values()))
        getattr(self, f"_{deed}")()
        self._compare()

    def _compare(self) -> None:
        """Whatever was admitted is counted, but for what the outage policy admitted."""
        if not self.is_known:
            return
        for window in self._windows():
            for at in (self.latest, (self.latest // window.length + 1) * window.length):
                found, known = self.counted.used(window, at), self._counted(window, at)
                if found > known:
                    raise Violation(f"not counted: {known} of {found}")

    def _take(self) -> None:
        process = self.acting
        if process.is_settling or process.is_closing:
            return
        wanted = self.random.choice(self.subjects)
        if self.course.is_varied:
            wanted = self.random.choice([wanted, wanted[:1], wanted[1:]])
        cost = self.random.choice([0, 1, 1, 1, 1, 1, 2, 3])
        taking = Taking(process, wanted, cost, self.wall())
        began_at = self.ledger_clock()
        self.takings.append(taking)
        tally = self._answer(taking)
        self.takings.pop()
        if tally and not 0 <= tally.remaining <= max(self.most.values()):
            raise Violation(f"remaining: {tally.remaining}")
        if tally is None or not tally.admitted:
            self._check_refusal(taking, tally)
        elif cost:
            self._note_admitted(taking, began_at)

    def _answer(self, taking: Taking) -> Tally | None:
        limiter = taking.process.limiter
        try:
            if taking.process.is_asking(taking.wanted[0].key):  # a thread would wait here
                return limiter.take_at_once(taking.wanted, taking.cost, taking.now)
            return limiter.take(taking.wanted, taking.cost, taking.now)
        except Away:
            return None

    def _note_admitted(self, taking: Taking, began_at: int) -> None:
        if not taking.source:
            if self.course.mode == "exact":
                raise Violation("admitted unasked")
            self._admit(taking, "lease", self.ledger_clock())
        if any(began_at // w.length != taking.at // w.length for w in taking.wanted):
            taking.at = -taking.at  # given back, it may be taken for one of another period
        if not taking.is_lasting:
            taking.process.taken.append(taking)

    def _check_refusal(self, taking: Taking, tally: Tally | None) -> None:
        """A refusal without a call stands for an earlier one, of no more, that still holds."""
        process = taking.process
        if taking.source:
            raise Violation("taken, and refused")
        if tally is None or self.course.outage != "closed":
            return
        if taking.asked:
            process.refused.append((taking.wanted, taking.cost, tally.ready_at))
        elif not self.course.has_steps and not any(
            wanted == taking.wanted
            and cost <= taking.cost
            and taking.now < ready_at + self.course.has_own_clock  # which cuts milliseconds apart
            for wanted, cost, ready_at in process.refused
        ):
            raise Violation("refused unasked")

    def _give_back(self) -> None:
        if not self.acting.taken or self.acting.is_closing:
            return
        taking = self.acting.taken.pop(self.random.randrange(len(self.acting.taken)))
        if taking.at < 0 or self.course.has_own_clock or self.course.outage == "open":
            self.is_exact = False  # it may be kept, or given back to an earlier period
        if taking.source == "policy" and self.course.has_own_clock:
            self.is_known = False  # nor need it be the period in which it was added
        part = self.policy if taking.source == "policy" else self.counted
        for window in taking.wanted:
            self.oracle.add(window, -taking.cost, abs(taking.at))
            part.add(window, -taking.cost, abs(taking.at))
        self.acting.limiter.give_back(taking.wanted, taking.cost, taking.now)

    def _tick(self) -> None:
        if not self.acting.is_settling:
            if isinstance(self.acting.limiter, LeasedLimiter):
                self.acting.limiter.tick()
            else:
                self.acting.client.settle()

    def _settle(self) -> None:
        if not self.acting.is_settling:
            self.acting.client.settle()

    def _job(self) -> None:
        queue = self.acting.chores.queue
        if queue and not self.acting.is_settling:
            queue.pop(self.random.randrange(len(queue)))()

    def _enlist(self) -> None:
        self.acting.client.membership.enlist()

    def _wait(self) -> None:
        length = self.random.choice(self.course.lengths)
        offset = self.skew if self.course.has_own_clock else self.step
        to_end = length * 1000 - (self.time + offset * 1000) % (length * 1000)
        if self.random.random() > self.course.pace:
            self.time += self.random.randrange(5000)
            return
        self.time += self.random.choice(
            [
                *(self.random.randrange(bound) for bound in (2000, 20_000, 300_000)),
                max(0, to_end + self.random.choice([-1000, -400, -1, 0, 1, 400, 1000])),
                self.random.randrange(length * 2000),
            ]
        )

    def _weather(self) -> None:
        if self.course.has_faults:
            self.weather = self.random.choice([0, 0, 0.4, 1])

    def _limits(self) -> None:
        """New amounts, none of them one that was before: a lease of old would be good again."""
        if self.depth:
            return  # requests under way would go by the old ones
        subject = self.random.randrange(len(self.subjects))
        self.subjects[subject] = tuple(
            window._replace(amount=self.random.randint(1, 90)) for window in self.subjects[subject]
        )
        self._note_amounts()

    def _step(self) -> None:
        if not self.course.has_steps:
            return
        shortest = min(self.course.lengths)
        before = self.ledger_clock()
        back = min(shortest - 1 - (self.latest - before), shortest - 1)
        if self.random.random() < 0.5 and back > 0:
            self.step -= self.random.randint(1, back)
        else:
            self.step += self.random.choice([1, 50, 400, 2500, 10_000_000])
        now = self.ledger_clock()
        for taking in self.takings:  # nobody can tell when they were taken
            taking.is_lasting = True
        if self.course.has_own_clock:
            for process in self.processes:
                process.taken.clear()
        elif any(now // length < self.latest // length for length in self.course.lengths):
            self.is_exact = False

    def _crash(self) -> None:
        if self.course.has_crashes and not self.acting.is_calling:
            self.is_exact = False
            self._lose(self.acting)

    def _stop(self) -> None:
        if not self.acting.is_calling:
            process = self.acting
            process.is_calling, process.is_closing = 1, True  # its requests have ended
            process.limiter.close()
            self._lose(process)

    def _lose(self, process: Process) -> None:
        """Put a new process in the place of one that ends."""
        owed = process.client.books._owed.values()  # noqa: SLF001  # what ends with it
        self.is_exact &= not owed
        self.is_counted &= all(units <= 0 for units, _ in owed)
        self.processes[self.processes.index(process)] = Process(self)

    # --- the end ---

    def run(self) -> None:
        """Go through the schedule.

        Raises:
            Violation: Something happened that must not.
        """
        share, sliding.SHARE = sliding.SHARE, self.course.share
        try:
            self._run()
        finally:
            sliding.SHARE = share

    def _run(self) -> None:
        for _ in range(STEPS):
            self.do_something()
        self.is_over = True
        self.time += int(PAUSE * 1_000_000) + 1
        for process in self.processes:
            self.acting = process
            process.limiter.close()
            if process.client.books._owed:  # noqa: SLF001  # as above
                raise Violation("still owed")
        self._compare()
        if self.is_exact and self.is_counted:
            self._reconcile()

    def _reconcile(self) -> None:
        """What is counted is what was admitted, period by period."""
        self.done["reconciled"] += 1
        admitted = self.counted if self.course.outage == "open" else self.oracle
        for window in self._windows():
            index, current, previous = self.ledger.counters.get(window.key, (0, 0, 0))
            if self.ledger_clock() // window.length > index + 1:
                continue  # it counts no more, so nobody gives back to it
            net = admitted.of(window)
            if (current, previous) != (net[index], net[index - 1]) or net[index + 1]:
                raise Violation(f"counted: {(index, current, previous)}, admitted: {net}")


def failures(seeds: range) -> tuple[dict[int, str], Counts[str]]:
    """Of the schedules with these seeds: what went wrong, by seed; how much was done in all."""
    wrong: dict[int, str] = {}
    done: Counts[str] = Counts()
    for seed in seeds:
        world = World(seed)
        try:
            world.run()
        except (Violation, Exception) as error:
            wrong[seed] = f"{world.course}: {type(error).__name__}: {error}"
        done += world.done
        done["schedules"] += 1
    return wrong, done


def main() -> int:
    """Run schedules on all cores; print how they went. 1 when one failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.long.simulation", description=__doc__)
    parser.add_argument("--schedules", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="the seed of the first")
    options = parser.parse_args()
    logging.getLogger("keyrush").disabled = True
    wrong: dict[int, str] = {}
    done: Counts[str] = Counts()
    end = options.first + options.schedules
    parts = [range(first, min(first + _PART, end)) for first in range(options.first, end, _PART)]
    with multiprocessing.Pool(cores()) as pool:
        for new, more in pool.imap_unordered(failures, parts):
            for seed, what in new.items():
                print(f"seed {seed}: {what}", flush=True)  # noqa: T201  # a command
            wrong |= new
            done += more
    print(", ".join(f"{count:,} {what}" for what, count in sorted(done.items())))  # noqa: T201  # a command
    print(f"{len(wrong):,} failed: {sorted(wrong)}" if wrong else "none failed")  # noqa: T201  # a command
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
