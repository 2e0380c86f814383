"""ASGI apps to mount in one's own: the account API and the dashboard.

Each needs an extra, `keyrush[api]` or `keyrush[dashboard]`; what lacks its own says so when it is
asked for.
"""

from __future__ import annotations

import importlib
from contextlib import suppress

# At once, since each has the name of its package, which is what importing one alone would leave.
with suppress(ModuleNotFoundError):
    from keyrush.apps.account_api import account_api, add_openapi
with suppress(ModuleNotFoundError):
    from keyrush.apps.dashboard import Dashboard, dashboard

__all__ = ["Dashboard", "account_api", "add_openapi", "dashboard"]


def __getattr__(name: str) -> object:
    """What could not be imported, once more, so that it is said what it lacks."""
    if name in {"account_api", "add_openapi"}:
        return getattr(importlib.import_module("keyrush.apps.account_api"), name)
    if name in {"Dashboard", "dashboard"}:
        return getattr(importlib.import_module("keyrush.apps.dashboard"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
