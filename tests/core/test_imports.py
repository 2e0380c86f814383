"""Who may import whom: a folder is a floor, and imports run down."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import keyrush
from tests.support.floors import MODULES, ROOT, floor_of, imported, own
from tests.support.scripts import run_anew

#: Of each floor, from the ground up, the floors that it imports. No more and no less: a permission
#: that nobody uses is none. A door is a module at the top, and a floor by itself.
FLOORS: dict[str, set[str]] = {
    "errors": set(),
    "core": {"errors"},
    "runtime": {"core", "errors"},
    "wire": {"core", "runtime"},
    "sql": {"core", "errors", "runtime"},
    "store": {"core", "errors", "runtime", "sql"},
    "limiter": {"core", "errors", "runtime", "sql"},
    "settings": {"core", "errors", "limiter", "runtime", "wire"},
    "events": {"core", "runtime", "wire"},
    "usage": {"core", "errors", "runtime", "store", "wire"},
    "authentication": {"core", "errors", "runtime", "sql", "store", "usage", "wire"},
    "operations": {"authentication", "core", "errors", "store"},
    "gate": {
        "authentication",
        "core",
        "errors",
        "events",
        "limiter",
        "operations",
        "runtime",
        "settings",
        "store",
        "usage",
        "wire",
    },
    "asgi": {"core", "errors", "gate", "runtime", "settings", "wire"},
    "wsgi": {"core", "gate", "settings", "usage", "wire"},
    "": {"asgi", "core", "errors", "gate", "settings"},
    "apps": {"", "core", "errors", "gate", "operations", "runtime", "settings", "store", "wire"},
    "cli": {
        "",
        "apps",
        "authentication",
        "core",
        "errors",
        "gate",
        "limiter",
        "operations",
        "runtime",
        "settings",
        "sql",
        "store",
    },
    "__main__": {"cli"},
    "django": {"core", "gate"},
    "fastapi": {"core", "gate", "wire"},
    "flask": {"core", "gate"},
    "testing": {"authentication", "core", "gate", "operations", "settings", "usage", "wire"},
    "fixtures": {"gate", "operations", "testing"},
}

#: Who imports what does not come with Python, by module. No more and no less.
OUTSIDE: dict[str, set[str]] = {
    "argon2": {"authentication.keyring", "cli.doctor.cost"},
    "cryptography": {"cli.demo.doors"},
    "django": {"django"},
    "fastapi": {"fastapi"},
    "flask": {"flask"},
    "httpx2": {"authentication.tokens.fetching"},
    "jinja2": {"apps.dashboard", "apps.dashboard.frame"},
    "jwt": {"authentication.tokens.jwks", "cli.demo.doors"},
    "limits": {
        "core.notation",
        "limiter.limits_library.adapter",
        "limiter.limits_library.storages",
    },
    "markupsafe": {
        "apps.dashboard.acting",
        "apps.dashboard.charting",
        "apps.dashboard.charts",
        "apps.dashboard.formats",
        "apps.dashboard.key_status",
        "apps.dashboard.pages.activity",
        "apps.dashboard.pages.billing",
        "apps.dashboard.pages.key",
        "apps.dashboard.pages.keys",
        "apps.dashboard.texts",
        "apps.dashboard.visit",
        "apps.dashboard.wording",
    },
    "psycopg": {"sql.awaited", "sql.patience"},
    "pydantic": {
        "apps.account_api.bodies",
        "apps.account_api.openapi",
        "settings.dashboard",
        "apps.account_api.queries",
        "settings.effective",
        "settings.issuers",
        "settings.mistakes",
        "settings.resources",
        "settings.settings",
        "settings.tables",
    },
    "pydantic_core": {"apps.account_api.bodies", "apps.account_api.frame"},
    "pydantic_settings": {
        "settings.dashboard",
        "settings.settings",
        "settings.sources",
    },
    "pytest": {"fixtures"},
    "quart": {"flask"},
    "redis": {"limiter.ledgers.redis.server"},
    "rich": {"cli.demo.rows", "cli.output"},
    "sqlalchemy": {
        "sql.changes",
        "sql.engine",
        "sql.hosts",
        "sql.opening",
        "sql.patience",
        "sql.pool",
        "sql.presence",
        "sql.schema",
        "sql.tables",
        "sql.states",
        "sql.url",
        "store.bindings",
        "store.counts",
        "store.key_events",
        "store.keys",
        "store.links",
        "store.portal",
        "store.proofs",
        "store.sql",
    },
    "starlette": {
        "apps.account_api",
        "apps.account_api.account",
        "apps.account_api.app",
        "apps.account_api.credentials",
        "apps.account_api.frame",
        "apps.dashboard",
        "apps.dashboard.app",
        "apps.dashboard.cookies",
        "apps.dashboard.endpoints",
        "apps.dashboard.frame",
        "apps.dashboard.key_page",
        "apps.dashboard.pages.activity",
        "apps.dashboard.pages.billing",
        "apps.dashboard.pages.key",
        "apps.dashboard.pages.key_create",
        "apps.dashboard.pages.key_edit",
        "apps.dashboard.pages.key_file",
        "apps.dashboard.pages.key_revoke",
        "apps.dashboard.pages.key_rotate",
        "apps.dashboard.pages.keys",
        "apps.dashboard.pages.setup",
        "apps.dashboard.portal",
        "apps.dashboard.revealing",
        "apps.dashboard.sheets",
        "apps.dashboard.signing_in",
        "apps.dashboard.visit",
        "apps.account_api.history",
        "cli.demo",
        "cli.demo.doors",
        "cli.demo.example",
        "cli.serving",
    },
    "typer": {
        "cli",
        "cli.accounts",
        "cli.activity",
        "cli.common",
        "cli.credits",
        "cli.dashboard",
        "cli.help",
        "cli.keys",
        "cli.output",
        "cli.sessions",
    },
    "uvicorn": {"cli.serving"},
}

#: Chosen by URL, and imported when they are asked for.
DRIVERS = {
    "limiter.ledgers.postgresql_slots": "limiter.slots.opening",
    "limiter.ledgers.redis.ledger": "limiter.opening",
    "limiter.ledgers.redis.slots": "limiter.slots.opening",
    "limiter.ledgers.sql": "limiter.opening",
    "limiter.limits_library.adapter": "limiter.opening",
    "limiter.mapped": "limiter.opening",
    "limiter.memory": "limiter.opening",
    "limiter.slots.mapped": "limiter.slots.opening",
    "limiter.slots.memory": "limiter.slots.opening",
    "store.memory": "store.opening",
    "store.sql": "store.opening",
}

#: What pure values and rules have nothing to do with.
IMPURE = {"asyncio", "os", "socket", "sqlite3", "threading"}


@pytest.mark.parametrize("floor", sorted({floor_of(module) for module in MODULES}))
def test_who_imports_whom(floor: str) -> None:
    """A floor imports those that the table says, all of them, and no other."""
    theirs = {module for module in MODULES if floor_of(module) == floor}
    found = {floor_of(name) for module in theirs for name in own(module)}
    assert found - {floor} == FLOORS[floor]


def test_imports_run_down() -> None:
    """The table is in order: each floor imports only those before it."""
    below: set[str] = set()
    for floor, theirs in FLOORS.items():
        assert theirs <= below, floor
        below.add(floor)


def test_no_circles() -> None:
    """Modules import each other in one direction."""
    graph = {module: own(module, lazy=False) - {module} for module in MODULES}
    while graph:
        free = {module for module, needs in graph.items() if not needs & set(graph)}
        assert free, f"a circle among {sorted(graph)}"
        graph = {module: needs for module, needs in graph.items() if module not in free}


@pytest.mark.parametrize("module", sorted(name for name in MODULES if floor_of(name) == "core"))
def test_what_decides_is_pure(module: str) -> None:
    """The ground knows nothing of threads, loops, files or sockets."""
    assert not imported(module) & IMPURE


@pytest.mark.parametrize("driver", sorted(DRIVERS))
def test_drivers_are_chosen_by_url(driver: str) -> None:
    """Nobody but the one that opens imports a driver, and it does so when asked."""
    family = driver.rpartition(".")[0]
    users = {name for name in MODULES if driver in own(name) and not name.startswith(family)}
    users -= {name for name in MODULES if floor_of(name) == "limiter" and name in DRIVERS}
    assert users <= {DRIVERS[driver]}
    assert driver not in own(DRIVERS[driver], lazy=False)


@pytest.mark.parametrize("package", sorted(OUTSIDE))
def test_packages_are_used_where_they_belong(package: str) -> None:
    """Each package that keyrush uses is known to the modules that are about it alone."""
    users = {
        module
        for module in MODULES
        if package in {name.partition(".")[0] for name in imported(module)}
    }
    assert users == OUTSIDE[package]


def test_no_other_package_is_used() -> None:
    """What is not in the table comes with Python, or is keyrush."""
    found = {name.partition(".")[0] for module in MODULES for name in imported(module)}
    assert found - set(sys.stdlib_module_names) - {"keyrush"} == set(OUTSIDE)


WITHOUT = """
    import sys

    BLOCKED = {"starlette", "fastapi", "flask", "django", "psycopg", "uvicorn", "httpx"}

    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in BLOCKED:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Blocker())
    """


def test_imported_without_any_framework() -> None:
    """keyrush, its WSGI side and its command line need no framework and no database driver."""
    out = run_anew(
        WITHOUT
        + """
    import importlib
    for module in ("keyrush", "keyrush.wsgi", "keyrush.cli"):
        importlib.import_module(module)
        print(module, BLOCKED & set(sys.modules))
    """
    )
    assert out == "keyrush set()\nkeyrush.wsgi set()\nkeyrush.cli set()\n"


def test_serves_without_any_framework(tmp_path: Path) -> None:
    """A bare ASGI and a bare WSGI app are served, keys in SQLite, with nothing more installed."""
    out = run_anew(
        WITHOUT
        + """
    from keyrush import Gate, Settings
    from tests.support.calls import Asgi, Sent, Wsgi

    gate = Gate.open(Settings(store_url=sys.argv[1], argon2_memory_cost=8, argon2_time_cost=1))
    gate.accounts.create("acct_a")
    key = gate.keys.create("acct_a", "production").text
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
    out = run_anew(
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
