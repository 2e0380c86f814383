"""The settings that are in force, for people to read: where they come from, and no secret."""

from __future__ import annotations

import os
from typing import Any

from pydantic import SecretStr

from keyrush.core.notation import format_limits
from keyrush.core.urls import readable
from keyrush.settings.dashboard import DashboardSettings
from keyrush.settings.issuers import IssuerTable
from keyrush.settings.settings import PREFIX, Settings


def effective(settings: Settings) -> dict[str, Any]:
    """Every setting as JSON, without secrets; those of the dashboard come last."""
    values = settings.model_dump(mode="json", exclude={"errors", "pepper", "issuers"})
    values["pepper"] = [_masked(pepper) for pepper in settings.pepper]
    values["issuers"] = [_issuer(table) for table in settings.issuers]
    for name, table in settings.plans.items():
        values["plans"][name]["limits"] = format_limits(table.limits)
        values["plans"][name]["modules"] = sorted(table.modules)
    values["errors"] = _name(settings.errors)
    values["store_url"] = readable(settings.store_url)
    values["limiter_url"] = readable(settings.limiter_url)
    own = [name for name in Settings.model_fields if name not in DashboardSettings.model_fields]
    return {name: values[name] for name in (*own, *DashboardSettings.model_fields)}


def _issuer(table: IssuerTable) -> dict[str, Any]:
    values = table.model_dump(mode="json", exclude={"secret"})
    values["secret"] = None if table.secret is None else _masked(table.secret)
    return values


def _name(errors: Any) -> str:
    """`errors` as it may be set: a function by its module and name."""
    if isinstance(errors, str):
        return errors
    return f"{errors.__module__}:{getattr(errors, '__qualname__', type(errors).__qualname__)}"


def _masked(secret: SecretStr) -> str:
    return f"({len(secret.get_secret_value().encode())} bytes)"


def _titled(item: Any) -> str:
    """A table by what names it."""
    return str(item.get("path") or item.get("issuer")) if isinstance(item, dict) else str(item)


def source(settings: Settings, name: str) -> str:
    """Where a setting comes from: environment, file or default; the file itself may be found."""
    if any(variable.lower() == (PREFIX + name).lower() for variable in os.environ):
        return "environment"
    if name == "config":
        return "found" if settings.config else "default"
    return "file" if name in settings.model_fields_set else "default"


def shown(value: Any) -> str:
    """A setting on one line, for people: tables by the names in them."""
    if value is None or value == []:
        return "-"
    if isinstance(value, dict):
        return ", ".join(value)
    if isinstance(value, list):
        return ", ".join(_titled(item) for item in value)
    return str(value)
