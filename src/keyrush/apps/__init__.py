"""ASGI apps to mount in one's own: the account API."""

from keyrush.apps.account_api import account_api, add_openapi

__all__ = ["account_api", "add_openapi"]
