"""Which test holds which point of contract and standards, read off their docstrings: for the tests
of that, and for the table in `docs/contract.md`, which `make pictures` writes anew.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "contract.md"

#: Where the two services are tested, each with an app of its own, over HTTP.
SERVICES = {
    "R": ("test_rushed",),
    "O": ("test_openrush", "test_openrush_mcp"),
}

#: Points that no test of a service holds yet, and why.
WITHOUT: dict[str, str] = {}


def points(text: str) -> set[str]:
    """The points of contract and standards that a text names, those in ranges too."""
    found = set(re.findall(r"\b[ROS]\d{1,2}\b", text))
    for kind, first, last in re.findall(r"\b([ROS])(\d{1,2})(?:\u2013| to )\1(\d{1,2})\b", text):
        found |= {f"{kind}{number}" for number in range(int(first), int(last) + 1)}
    return found


def tests_in(path: Path) -> Iterator[tuple[str, str]]:
    """Name and docstring of each test of a file that pytest runs: none that is only skipped."""
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            marks = [ast.unparse(mark) for mark in node.decorator_list]
            is_skipped = any(re.match(r"pytest\.mark\.(skip|xfail)\b", mark) for mark in marks)
            if node.name.startswith("test_") and not is_skipped:
                yield node.name, ast.get_docstring(node) or ""


def of_services(kind: str) -> dict[str, list[str]]:
    """By each point of one service its tests, as `test_openrush.test_balance`."""
    found: dict[str, list[str]] = {}
    for module in SERVICES[kind]:
        for name, docstring in tests_in(TESTS / "contract" / f"{module}.py"):
            for point in points(docstring):
                found.setdefault(point, []).append(f"{module}.{name}")
    return found


def numbers(page: str) -> list[str]:
    """The points that the page has, in its order."""
    return re.findall(r"^\| ([RO]\d+) \|", page.partition("<!-- tests -->")[0], re.MULTILINE)


def table(page: str) -> str:
    """Of each point the tests of its service, as few hold all that one says."""
    held = {kind: of_services(kind) for kind in SERVICES}
    lines = ["| # | held by |", "|---|---|"]
    for point in numbers(page):
        named = held[point[0]].get(point, [])
        if not named:
            lines.append(f"| {point} | none: {WITHOUT.get(point, 'there should be one')} |")
            continue
        links = (one.partition(".") for one in named)
        held_by = [f"[`{test}`](../tests/contract/{module}.py)" for module, _, test in links]
        lines.append(f"| {point} | {', '.join(held_by)} |")
    return "\n".join(lines)


def page() -> str:
    """`docs/contract.md` as it ought to be."""
    text = PAGE.read_text("utf-8")
    before, _, after = text.partition("<!-- tests -->")
    _, end, rest = after.partition("<!-- end -->")
    return f"{before}<!-- tests -->\n\n{table(text)}\n\n{end}{rest}"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
