"""The dashboard, for those who use the API: an ASGI app to mount in one's own, or by itself.

    from keyrush.apps import dashboard

    app.mount("/dashboard", dashboard)                   # behind KeyrushMiddleware
    app.mount("/dashboard", Dashboard(gate=gate))        # by itself
    Dashboard(account_of=who_is_signed_in, sign_in_url="/login?next={next}")

People sign in to it, and not with an API key: `KEYRUSH_PUBLIC_PATHS` must let its paths through,
as in `/dashboard,/dashboard/,/dashboard/*`. Pages are made here, and ask no other host.
"""

try:
    import jinja2  # noqa: F401  # said here, once for all of its modules
    import starlette  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"keyrush.apps.dashboard needs {error.name}: pip install 'keyrush[dashboard]'",
        name=error.name,
    ) from error

from keyrush.apps.dashboard.app import Dashboard, dashboard

__all__ = ["Dashboard", "dashboard"]
