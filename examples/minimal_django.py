"""Django in one file; serve `minimal_django:application` with any WSGI server."""
# Django brings no types.
# mypy: disable-error-code="import-untyped"

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

from keyrush.wsgi import KeyrushMiddleware

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["localhost", "127.0.0.1"])


def hello(request: HttpRequest) -> JsonResponse:
    """Say who calls; posting needs a scope."""
    caller = request.META["keyrush.principal"]
    if request.method == "POST":
        caller.require_scope("write:hello")
    return JsonResponse({"key": caller.key_id, "account": caller.account_id})


urlpatterns = [path("hello", hello)]
application = KeyrushMiddleware(get_wsgi_application())
