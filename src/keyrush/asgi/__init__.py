"""The ASGI middleware: HTTP, WebSocket and lifespan, over the same gate as WSGI."""

from keyrush.asgi.messages import App
from keyrush.asgi.middleware import KeyrushMiddleware

__all__ = ["App", "KeyrushMiddleware"]
