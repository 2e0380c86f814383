"""How much of the machine this process may use: cores, and what a container leaves it of them."""

from __future__ import annotations

import math
import os
from pathlib import Path

#: argon2 runs at once, at most, unless a setting says otherwise: each takes its memory, 19 MiB by
#: default, and more of them than this make no machine much faster.
MOST_SLOTS = 4

#: Where Linux tells of the CPU time that a control group may use: version 2, then version 1.
CGROUPS = Path("/sys/fs/cgroup")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quota(root: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> float | None:
    """How many cores' worth of time the container may use; None where there is no bound.

    The narrowest of the groups that this process is in counts, as for the kernel.
    """
    found: list[float] = []
    for line in _read(own).splitlines() or ["0::/"]:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        base = root / "cpu" if "cpu" in controllers.split(",") else root
        if controllers and base == root:
            continue  # of another controller
        group = base / path.lstrip("/")
        for folder in (group, *group.parents):
            if (bound := _quota_in(folder)) is not None:
                found.append(bound)
            if folder == base:
                break
    return min(found, default=None)


def _quota_in(folder: Path) -> float | None:
    amount, _, period = _read(folder / "cpu.max").strip().partition(" ")
    if not amount:
        amount = _read(folder / "cpu.cfs_quota_us").strip()
        period = _read(folder / "cpu.cfs_period_us").strip()
    if not (amount.isdecimal() and period.isdecimal() and int(period)):  # "max", or -1: none
        return None
    return int(amount) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, ValueError):
        return ""


def hashing_slots(wanted: int | None = None) -> int:
    """How many argon2 may run at once: as `wanted`, else one for each core that may be used."""
    if wanted is not None:
        return wanted
    bound = quota()
    usable = cores() if bound is None else min(cores(), max(1, math.ceil(bound)))
    return min(usable, MOST_SLOTS)
