"""keyrush: API keys, scopes, plan limits and quotas in front of any ASGI or WSGI app."""

from keyrush.asgi import KeyrushMiddleware
from keyrush.core.model import Scopes
from keyrush.core.refusal import Refusal, Refused
from keyrush.errors import (
    BeyondCaller,
    CallerEnded,
    ConfigurationError,
    DataError,
    InvalidArgument,
    KeyrushError,
    NotFound,
    StoreError,
    TooManyKeys,
)
from keyrush.gate.gate import Gate
from keyrush.gate.principal import Principal
from keyrush.settings.settings import Settings

__version__ = "0.1.0"

__all__ = [
    "BeyondCaller",
    "CallerEnded",
    "ConfigurationError",
    "DataError",
    "Gate",
    "InvalidArgument",
    "KeyrushError",
    "KeyrushMiddleware",
    "NotFound",
    "Principal",
    "Refusal",
    "Refused",
    "Scopes",
    "Settings",
    "StoreError",
    "TooManyKeys",
]
