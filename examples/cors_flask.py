"""The Flask app for browsers: CORS outside of the gate, on ASGI; `uvicorn cors_flask:app`.

flask-cors stands inside, where no preflight comes: the gate refuses it, for it carries no key.
"""

from typing import Any

from a2wsgi import WSGIMiddleware
from minimal_flask import app as flask_app
from starlette.middleware.cors import CORSMiddleware

wsgi_app: Any = flask_app.wsgi_app  # the gate
asgi_app: Any = WSGIMiddleware(wsgi_app)
app = CORSMiddleware(asgi_app, allow_origins=["https://app.example"], allow_headers=["X-API-Key"])
