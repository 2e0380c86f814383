"""HTTP, of neither ASGI nor WSGI."""
