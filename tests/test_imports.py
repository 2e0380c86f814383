"""Which module may know which, and that keyrush needs no framework."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import keyrush
from tests.scripts import run

ROOT = Path(keyrush.__file__).parent

PURE = {
    "arguments",
    "errors",
    "http",
    "keys",
    "model",
    "notation",
    "paging",
    "paths",
    "policy",
    "principal",
    "protocols",
    "responses",
    "sqlstate",
    "urls",
    "windows",
}
#: Chosen by URL, and known to nobody else.
DRIVERS = {
    "limiter.guarded",
    "limiter.limits",
    "limiter.memory",
    "limiter.redis",
    "limiter.sql",
    "store.memory",
    "store.presence",
    "store.sql",
}
ADAPTERS = {
    "asgi",
    "wsgi",
    "api",
    "bodies",
    "openapi",
    "fastapi",
    "cli",
    "demo",
    "doctor",
    "testing",
    "fixtures",
}

#: Who may import what does not come with Python.
OUTSIDE = {
    "argon2": {"keys", "doctor"},
    "asgiref": {"bridge"},
    "fastapi": {"fastapi"},
    "limits": {"notation", "limiter.limits", "limiter.storages"},
    "psycopg": {"store.patience"},
    "redis": {"limiter.redis_server"},
    "pydantic": {"settings", "tables", "bodies", "effective", "openapi"},
    "pydantic_settings": {"settings", "sources"},
    "pytest": {"fixtures"},
    "rich": {
        "cli",
        "commands",
        "commands.accounts",
        "commands.help",
        "commands.keys",
        "demo",
        "doctor",
        "output",
    },
    "sqlalchemy": {
        "limiter.sql",
        "sqlstate",
        "store.counts",
        "store.feed",
        "store.hosts",
        "store.keys",
        "store.patience",
        "store.presence",
        "store.rows",
        "store.schema",
        "store.sql",
    },
    "starlette": {"api", "demo"},
    "typer": {
        "cli",
        "commands",
        "commands.accounts",
        "commands.help",
        "commands.keys",
        "demo",
        "doctor",
        "output",
    },
    "uvicorn": {"demo"},
}


def name_of(path: Path) -> str:
    """The module's name below `keyrush`; empty for the package itself."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in ROOT.rglob("*.py")}


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


def imported(module: str, *, lazy: bool = True) -> set[str]:
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
    return names


def own(module: str, *, lazy: bool = True) -> set[str]:
    """The modules of keyrush that a module imports, by their names below `keyrush`."""
    return {
        name.removeprefix("keyrush").removeprefix(".")
        for name in imported(module, lazy=lazy)
        if name.partition(".")[0] == "keyrush"
    }


def test_the_tables_name_modules_that_exist() -> None:
    """What is said below is said of modules that there are."""
    named = PURE | DRIVERS | ADAPTERS | set().union(*OUTSIDE.values())
    assert named <= set(MODULES)


@pytest.mark.parametrize("module", sorted(PURE))
def test_pure_modules_know_only_each_other(module: str) -> None:
    """What decides knows nothing of stores, threads, loops or frameworks."""
    assert own(module) <= PURE
    impure = {"asyncio", "threading", "socket", "sqlite3", "os"}
    if module == "errors":  # the log is that of all threads
        impure -= {"threading"}
    assert not imported(module) & impure


@pytest.mark.parametrize("module", sorted(DRIVERS | {"store", "limiter"}))
def test_stores_and_limiters_know_only_what_is_pure(module: str) -> None:
    """A driver is no part of the gate, so that another can stand in its place."""
    package = module.partition(".")[0]
    theirs = {name for name in MODULES if name.partition(".")[0] == package}
    assert own(module) <= PURE | theirs | {"background", "circuit", "forks", "plugins"}


@pytest.mark.parametrize("module", sorted(set(MODULES) - DRIVERS))
def test_drivers_are_chosen_by_url(module: str) -> None:
    """Nobody but `open_store` and `open_limiter` imports a driver, and they do so when asked."""
    if module in ("store", "limiter"):
        assert not own(module, lazy=False) & DRIVERS
    else:
        assert not own(module) & DRIVERS


@pytest.mark.parametrize(
    "module",
    [
        "accounts",
        "admission",
        "background",
        "cache",
        "circuit",
        "credits",
        "gate",
        "health",
        "pepper",
        "settings",
        "sources",
        "starting",
        "stopping",
        "usage",
        "verification",
        "watch",
        "workers",
    ],
)
def test_the_gate_knows_no_adapter(module: str) -> None:
    """ASGI, WSGI, the account API and the command line stand in front of the gate."""
    assert not own(module) & (ADAPTERS | {""})


@pytest.mark.parametrize("module", ["asgi", "wsgi"])
def test_adapters_know_nothing_of_each_other(module: str) -> None:
    """Neither adapter needs the other."""
    assert not own(module) & (ADAPTERS | {""})


def test_no_circles() -> None:
    """Modules import each other in one direction."""
    graph = {module: own(module, lazy=False) - {module} for module in MODULES}
    while graph:
        free = {module for module, needs in graph.items() if not needs & set(graph)}
        assert free, f"a circle among {sorted(graph)}"
        graph = {module: needs for module, needs in graph.items() if module not in free}


@pytest.mark.parametrize("package", sorted(OUTSIDE))
def test_packages_are_used_where_they_belong(package: str) -> None:
    """Each package that keyrush uses is known to the modules that are about it alone."""
    users = {
        module
        for module in MODULES
        if package in {name.partition(".")[0] for name in imported(module)}
    }
    assert users <= OUTSIDE[package]


WITHOUT = """
    import sys

    BLOCKED = {"starlette", "fastapi", "flask", "django", "psycopg", "uvicorn", "httpx"}

    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in BLOCKED:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Blocker())
    """


@pytest.mark.parametrize("module", ["keyrush", "keyrush.wsgi", "keyrush.cli"])
def test_imported_without_any_framework(module: str) -> None:
    """keyrush, its WSGI side and its command line need no framework and no database driver."""
    out = run(f"{WITHOUT}\n    import {module}\n    print(not BLOCKED & set(sys.modules))")
    assert out == "True\n"


def test_serves_without_any_framework(tmp_path: Path) -> None:
    """A bare ASGI and a bare WSGI app are served, keys in SQLite, with nothing more installed."""
    out = run(
        WITHOUT
        + """
    from keyrush import Gate, Settings
    from tests.calls import Asgi, Sent, Wsgi

    gate = Gate.open(Settings(store_url=sys.argv[1], argon2_memory_cost=8, argon2_time_cost=1))
    gate.accounts.create_account("acct_a")
    key = gate.accounts.create_key("acct_a", "production").text
    for adapter in (Asgi, Wsgi):
        for headers in ([("X-API-Key", key)], []):
            print(adapter(gate).send(Sent("/", headers)).status)
    gate.close()
    """,
        f"sqlite:///{tmp_path}/keyrush.db",
    )
    assert out.split() == ["200", "401"] * 2


def test_importing_keyrush_loads_no_driver() -> None:
    """What a URL does not ask for is not loaded, nor is the command line."""
    out = run(
        """
        import sys, keyrush
        unwanted = {"keyrush.store.sql", "keyrush.store.memory", "keyrush.limiter.memory",
                    "keyrush.cli", "typer", "rich"}
        print(sorted(unwanted & set(sys.modules)))
        """
    )
    assert out == "[]\n"


def test_public_names() -> None:
    """`from keyrush import *` gives the documented names, and all of them are there."""
    assert all(getattr(keyrush, name) for name in keyrush.__all__)
    assert list(keyrush.__all__) == sorted(keyrush.__all__)
    assert (ROOT / "py.typed").exists()
