"""How the demo prints what was sent and what came back."""

from __future__ import annotations

import http.client
import json
from dataclasses import asdict

from rich.box import SIMPLE
from rich.table import Table

from keyrush.cli import output
from keyrush.cli.demo.walk import Row

_PLAIN_WIDTH = 100  # characters, where the output is no terminal
_SHOWN_BODY = 135  # characters


def show(rows: list[Row], as_json: bool, verbose: bool) -> None:
    """Print the rows: a line each, or with `verbose` all that was sent and came back."""
    if as_json:
        output.dump([asdict(row) for row in rows])
        return
    if verbose:
        _show_table(rows)
    else:
        for row in rows:
            output.say(f"{_mark(row):5}  {row.status}  {row.what}")
            for line in _differences(row):
                output.say(f"{'':10}  {line}")
    right = sum(not row.wrong for row in rows)
    output.say(f"{right} of {len(rows)} answers are as documented.")
    if not verbose:
        output.say("What was sent and came back: keyrush demo --verbose")


def _mark(row: Row) -> str:
    return "WRONG" if row.wrong else "ok"


def _differences(row: Row) -> list[str]:
    return [f"NOT AS DOCUMENTED: expected {expected}" for expected in row.wrong]


def _show_table(rows: list[Row]) -> None:
    out = output.console()
    if not out.is_terminal:
        out = output.console(_PLAIN_WIDTH)
    table = Table("", "REQUEST", "ANSWER", box=SIMPLE, show_lines=True, expand=False)
    for row in rows:
        request = [row.what, f"{row.method} {row.path}"]
        if row.key:
            request.append(f"{row.header}: {row.key}")
        answer = [
            f"{row.status} {http.client.responses[row.status]}",
            *(f"{name}: {value}" for name, value in row.headers.items()),
            _shortened(json.dumps(row.body)),
            *_differences(row),
        ]
        table.add_row(_mark(row), "\n".join(request), "\n".join(answer))
    out.print(table)


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN_BODY else text[: _SHOWN_BODY - 2] + " …"
