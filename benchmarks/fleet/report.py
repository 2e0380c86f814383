"""What was measured, as tables, and what is not as it must be."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

from benchmarks.fleet.measure import (
    CONNECTIONS,
    DEFAULT,
    QUICK,
    WHOLE,
    WORKERS,
    Figures,
    base_of,
    base_on_server,
    measure,
)
from benchmarks.fleet.workload import RATE

_PEERS = ("slowapi", "limits", "throttled-py", "fastapi-keygate")

_COLUMNS = "CPU | added | p50 | p99 | max | look-ups | round trips |"
_LINES = "---:|---:|---:|---:|---:|---:|---:|"


def render(figures: Figures) -> list[str]:
    """The tables in Markdown."""
    made = f"{figures['keys']:,} keys"
    titles = {
        "paced": f"{figures['paced keys']:,} keys, {RATE}/s each",
        "fast": f"{made}, as fast as possible",
    }
    lines = [_versions(), ""]
    for part, title in titles.items():
        lines += [f"| {title} | {_COLUMNS}", f"|---|{_LINES}"]
        for name, found in figures[part].items():
            lines.append(_row(name, found, figures[part], base_of(name)))
        lines.append("")
    if figures["server"]:
        lines += _on_server(made, figures["server"])
    lines += ["| bytes | a known key | its objects | a window, in the process | outside it |"]
    lines += ["|---|---:|---:|---:|---:|"]
    for name, found in figures["memory"].items():
        what_of = ("key", "tracked", "window", "outside")
        values = " | ".join(f"{found[what]:,.0f}" for what in what_of)
        lines.append(f"| {name} | {values} |")
    if figures["left out"]:
        lines += ["", f"Not installed: {', '.join(figures['left out'])}."]
    return lines


def _versions() -> str:
    found = []
    for name in ("keyrush", "starlette", *_PEERS):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return f"Python {platform.python_version()}, {', '.join(found)}"


def _row(name: str, found: Figures, all_: Figures, base: str) -> str:
    added = f"{found['cpu'] - all_[base]['cpu']:.1f}" if base else ""
    times = " | ".join(f"{found[what]:.0f}" for what in ("p50", "p99", "max"))
    asked = f"{found['look_ups']:.4f} | {found['trips']:.4f}" if base else " | "
    return f"| {name} | {found['cpu']:.1f} | {added} | {times} | {asked} |"


def _on_server(made: str, figures: Figures) -> list[str]:
    title = f"{WORKERS} workers, {made}, {CONNECTIONS} connections"
    lines = [f"| {title} | a second | {_COLUMNS}", f"|---|---:|{_LINES}"]
    for name, found in figures.items():
        row = _row(name, found, figures, base_on_server(name))
        lines.append(row.replace(name, f"{name} | {found['a second']:,.0f}", 1))
    return [*lines, ""]


def faults(figures: Figures) -> list[str]:
    """What is not as it must be, of keyrush with its default settings."""

    def added(name: str) -> float:
        cpu: float = figures["paced"][name]["cpu"] - figures["paced"][base_of(name)]["cpu"]
        return cpu

    found = []
    ours, theirs = added(DEFAULT), added("slowapi")
    if ours > theirs:
        found.append(f"{DEFAULT} adds {ours:.0f} µs to a paced request, slowapi {theirs:.0f}")
    for part in ("paced", "fast"):
        for what, name in {"look_ups": "look-ups", "trips": "round trips"}.items():
            if count := figures[part][DEFAULT][what]:
                found.append(f"{DEFAULT}, {part}: {count:.4f} {name} a request in steady state")
    return found


def judge(figures: Figures) -> None:
    """End with 1 where something is not as it must be."""
    if found := faults(figures):
        raise SystemExit("\n".join(found))


def main(arguments: list[str]) -> None:
    """Measure, print, and end with 1 where something is not as it must be."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks fleet", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer, shorter: a look, not a figure")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    figures = measure(QUICK if options.quick else WHOLE)
    text = json.dumps(figures) if options.json else "\n".join(render(figures))
    sys.stdout.write(text + "\n")
    judge(figures)
