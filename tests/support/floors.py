"""Who imports whom, and what a request calls, read off the code: for the table that tests hold, and
for the pictures in `docs/architecture.md`, which `python -m tests.support.floors` writes anew.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import keyrush
from keyrush import testing, wsgi
from tests.support.calls import Sent, environ_of

ROOT = Path(keyrush.__file__).parent
PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"

# --- imports -----------------------------------------------------------------------------------


def name_of(path: Path) -> str:
    """The module's name below `keyrush`; empty for the package itself."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in ROOT.rglob("*.py")}


def floor_of(module: str) -> str:
    """The folder that a module is in; of a module at the top its own name."""
    return module.partition(".")[0]


def is_for_typing(node: ast.AST) -> bool:
    """True for `if TYPE_CHECKING:`, which is never run."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def statements(node: ast.AST, *, lazy: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """The import statements in `node`; with `lazy` those inside functions, too."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif not is_for_typing(child) and (
            lazy or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        ):
            yield from statements(child, lazy=lazy)


@cache
def imported(module: str, *, lazy: bool = True) -> frozenset[str]:
    """The full names of the modules that a module imports."""
    names = set()
    for statement in statements(ast.parse(MODULES[module].read_text("utf-8")), lazy=lazy):
        if isinstance(statement, ast.Import):
            names |= {alias.name for alias in statement.names}
        else:
            assert statement.level == 0, "imports are absolute"
            assert statement.module
            for alias in statement.names:
                full = f"{statement.module}.{alias.name}"
                names.add(full if full.removeprefix("keyrush.") in MODULES else statement.module)
    return frozenset(names)


def own(module: str, *, lazy: bool = True) -> set[str]:
    """The modules of keyrush that a module imports, by their names below `keyrush`."""
    return {
        name.removeprefix("keyrush").removeprefix(".")
        for name in imported(module, lazy=lazy)
        if name.partition(".")[0] == "keyrush"
    }


def floors() -> dict[str, set[str]]:
    """Of each floor the floors that it imports, from the ground up."""
    found: dict[str, set[str]] = {floor_of(module): set() for module in MODULES}
    for module in MODULES:
        found[floor_of(module)] |= {floor_of(name) for name in own(module)} - {floor_of(module)}
    ordered: dict[str, set[str]] = {}
    while len(ordered) < len(found):
        free = [name for name in found if name not in ordered and found[name] <= set(ordered)]
        for name in sorted(free, key=lambda name: (len(found[name]), name)):
            ordered[name] = found[name]
    return ordered


# --- calls -------------------------------------------------------------------------------------

#: Floors that are about no request, so that what they call is shown as their caller's.
_HIDDEN = {"runtime", "settings", "testing"}

#: What of the ground decides; the rest are values.
_DECIDES = {"core.key_text", "core.paths", "core.policy", "core.sliding"}


class Call(NamedTuple):
    """A call from one floor to another."""

    caller: str
    called: str
    function: str


def _place(frame: FrameType | None) -> str | None:
    """The floor that a frame is of; None where it is of none that is shown."""
    if frame is None:
        return None
    name = frame.f_globals.get("__name__", "")
    if name == __name__:
        return "app" if frame.f_code.co_name == "_app" else None
    module = name.removeprefix("keyrush.")
    if module == name or floor_of(module) in _HIDDEN:
        return None
    if floor_of(module) == "core" and module not in _DECIDES:
        return None
    return floor_of(module)


def _app(_environ: Any, start_response: Any) -> list[bytes]:
    """The app behind the gate."""
    start_response("200 OK", [])
    return [b""]


def calls_of(function: Callable[[], object]) -> list[Call]:
    """The calls between floors while `function` runs, in their order, each once in a row."""
    found: list[Call] = []

    def note(frame: FrameType, event: str, _argument: object) -> None:
        called = _place(frame)
        name = frame.f_code.co_qualname.removesuffix(".__call__")
        if event != "call" or called is None or "<" in name or "._" in name:
            return
        back = frame.f_back
        while back is not None and _place(back) is None:
            back = back.f_back
        call = Call(_place(back) or "server", called, name.removeprefix("_"))
        if call.caller not in {called, "core"} and call not in found[-1:]:
            found.append(call)

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return found


def calls_of_requests() -> tuple[list[Call], list[Call]]:
    """The calls of the first and of the second request with a key, from WSGI, in one thread."""
    rules = [{"path": "/api/articles", "scopes": ["read:articles"]}]
    gate = testing.open_gate(testing.Clock(), config="", rules=rules)
    key = testing.create_key(gate)
    app = wsgi.KeyrushMiddleware(_app, gate=gate)

    def request() -> None:
        environ = environ_of(Sent("/api/articles", [("X-API-Key", key.text)]))
        body: Any = app(environ, lambda *_: lambda _: None)
        list(body)
        body.close()

    cold, warm = calls_of(request), calls_of(request)
    gate.close()
    return cold, warm


# --- pictures ----------------------------------------------------------------------------------


def _shown(floor: str) -> str:
    return floor.strip("_") or "keyrush"


def floors_picture() -> str:
    """Mermaid: an arrow to each floor that is imported, but for those that others lead to."""
    graph = floors()
    reached: dict[str, set[str]] = {}
    lines = ["```mermaid", "flowchart TD"]
    for floor, below in graph.items():
        reached[floor] = set(below).union(*(reached[name] for name in below))
    for floor, below in reversed(graph.items()):
        lines.append(f'    {_shown(floor)}["{_shown(floor)}"]')
        beyond: set[str] = set().union(*(reached[name] for name in below))
        lines += [f"    {_shown(floor)} --> {_shown(name)}" for name in sorted(below - beyond)]
    return "\n".join([*lines, "```"])


def floors_table() -> str:
    """What each floor is, in the words of its docstring, and all that it imports."""
    lines = ["| floor | what it is | imports |", "|---|---|---|"]
    for floor, below in reversed(floors().items()):
        path = MODULES[floor]
        docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        what = " ".join(docstring.partition("\n\n")[0].split())
        names = ", ".join(f"`{_shown(name)}`" for name in sorted(below)) or "nothing"
        lines.append(f"| [`{_shown(floor)}`](../src/keyrush/{_link(path)}) | {what} | {names} |")
    return "\n".join(lines)


def _link(path: Path) -> str:
    return str(path.relative_to(ROOT)).removesuffix("/__init__.py")


def request_picture(calls: list[Call]) -> str:
    """Mermaid: the calls one after the other."""
    lines = ["```mermaid", "sequenceDiagram"]
    seen = dict.fromkeys(name for call in calls for name in (call.caller, call.called))
    lines += [f"    participant {name}" for name in seen]
    lines += [f"    {caller}->>{called}: {function}" for caller, called, function in calls]
    return "\n".join([*lines, "```"])


def page() -> str:
    """The page as it should be: what stands between its marks is made here."""
    cold, warm = calls_of_requests()
    text = PAGE.read_text("utf-8")
    for name, made in {
        "floors": f"{floors_picture()}\n\n{floors_table()}",
        "warm": request_picture(warm),
        "cold": request_picture(cold),
    }.items():
        before, mark, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        assert mark, f"no mark {name!r}"
        assert end, f"no end of {name!r}"
        text = f"{before}{mark}\n{made}\n\n{end}{after}"
    return text


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
