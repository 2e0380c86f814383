"""keyrush: API keys, scopes, plan limits and quotas in front of any ASGI or WSGI app."""

from keyrush.asgi import KeyrushMiddleware
from keyrush.errors import (
    BeyondCaller,
    CallerEnded,
    ConfigurationError,
    DataError,
    InvalidArgument,
    KeyrushError,
    NotFound,
    Refused,
    StoreError,
    TooManyKeys,
)
from keyrush.gate import Gate
from keyrush.model import Refusal, Scopes
from keyrush.principal import Principal
from keyrush.settings import Settings

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
