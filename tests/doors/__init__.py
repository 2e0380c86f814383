"""ASGI, WSGI, frameworks, the account API."""
