"""Django for browsers: CORS outside of the gate, on ASGI; `uvicorn --lifespan off cors_django:app`.

django-cors-headers stands inside, where no preflight comes: the gate refuses it, for it carries no
key. `request.scope["keyrush"]` is here what `request.META["keyrush.principal"]` is on WSGI.
"""
# Django brings no types.
# mypy: disable-error-code="import-untyped"

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path
from starlette.middleware.cors import CORSMiddleware

from keyrush import KeyrushMiddleware

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["localhost", "127.0.0.1"])


def hello(request: HttpRequest) -> JsonResponse:
    """Say who calls; posting needs a scope."""
    caller = request.scope["keyrush"]
    if request.method == "POST":
        caller.require_scope("write:hello")
    return JsonResponse({"key": caller.key_id, "account": caller.account_id})


urlpatterns = [path("hello", hello)]
app = CORSMiddleware(
    KeyrushMiddleware(get_asgi_application()),
    allow_origins=["https://app.example"],
    allow_headers=["X-API-Key"],
)
