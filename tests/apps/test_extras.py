"""What each app needs beside keyrush itself, and what is said where that is missing."""

from __future__ import annotations

import pytest

from tests.support.scripts import run_anew

WITHOUT = """
    import sys

    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in sys.argv[1].split(","):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Blocker())

    def said(statement):
        try:
            exec(statement)
        except ModuleNotFoundError as error:
            print(error)
        else:
            print("there")
    """


@pytest.mark.parametrize("name", ["dashboard", "Dashboard"])
def test_the_dashboard_without_its_extra(name: str) -> None:
    """Without Jinja2 the dashboard says what to install, and the account API is there."""
    script = f"""
    said("from keyrush.apps import {name}")
    said("from keyrush.apps import account_api, add_openapi")
    said("from keyrush.apps import {name}")
    """
    missing = "keyrush.apps.dashboard needs jinja2: pip install 'keyrush[dashboard]'"
    assert run_anew(WITHOUT + script, "jinja2").splitlines() == [missing, "there", missing]


def test_neither_without_a_framework() -> None:
    """Without Starlette there is neither, and each says which extra has it."""
    script = """
    said("import keyrush.apps")
    said("from keyrush.apps import account_api")
    said("from keyrush.apps import add_openapi")
    said("from keyrush.apps import dashboard")
    """
    api = "keyrush.apps.account_api needs Starlette: pip install 'keyrush[api]'"
    assert run_anew(WITHOUT + script, "starlette").splitlines() == [
        *("there", api, api),
        "keyrush.apps.dashboard needs starlette: pip install 'keyrush[dashboard]'",
    ]


def test_an_app_whatever_was_imported_first() -> None:
    """`from keyrush.apps import dashboard` is the app, and not its package, whoever has imported
    that before.
    """
    out = run_anew(
        """
        import keyrush.apps.dashboard.visit
        import keyrush.apps.account_api.app
        from keyrush.apps import account_api, dashboard
        print(callable(account_api), callable(dashboard))
        """
    )
    assert out == "True True\n"
