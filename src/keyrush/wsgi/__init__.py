"""The WSGI middleware (PEP 3333), over the same gate as ASGI and without an event loop."""

from keyrush.wsgi.environ import App
from keyrush.wsgi.middleware import KeyrushMiddleware

__all__ = ["App", "KeyrushMiddleware"]
