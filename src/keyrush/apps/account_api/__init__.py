"""The account API (contract O3 to O7, O12, O15 to O17): an ASGI app to mount behind the gate.

    Mount("/v1", app=account_api)        # Starlette
    app.mount("/v1", account_api)        # FastAPI, after the app's own routes under /v1

serves, under that path:

- `POST /me/api-credentials` `{"name", "expires_at"?, "scopes"?}`: a new key, shown this once
- `GET /me/api-credentials?limit&cursor`: the account's keys, without their texts, oldest first;
  where there are more, a `Link` header names the next page
- `PATCH /me/api-credentials/{id}` `{"name"?, "expires_at"?, "scopes"?}`: what is not named stays
- `POST /me/api-credentials/{id}/revoke` `{"descendants"?: also what it has made}`
- `POST /me/api-credentials/{id}/rotate` `{"grace"?: seconds, "expires_at"?}`
- `GET /me/credits` and `GET /me/usage`
- `GET /me/credits/ledger?limit&cursor&reason&source&since&until`: what has changed the balance,
  newest first
- `GET /me/activity?limit&cursor&source&key&outcome&rule&since&until`: what was asked, newest first
- `GET /me/activity/summary?by=minute|hour|day&group=key|rule|source|outcome` and the same filters:
  its totals
- `GET` or `POST /capabilities`: tools and their prices. Public once `public_paths` lists it.
- `GET /openapi.json`: what `openapi` gives

A body or a query that is wrong is answered 422 (O16); every other error, an unknown path and a
wrong method too, in the documented form (R8), or the one that `KEYRUSH_ERRORS` names.

No key makes one that may do more than itself: what is created or rotated has no scope that the
caller lacks, the caller's environment, and no later end; a key with limits of its own makes no
other. Revoking needs no more than a key of the account, but that a key of an environment that is
not metered manages no other keys than such. A key that has been replaced manages none but itself,
and one that ends while it asks gets nothing done.
"""

try:
    import starlette  # noqa: F401  # said here, once for all of its modules
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "keyrush.apps.account_api needs Starlette: pip install 'keyrush[api]'", name=error.name
    ) from error

from keyrush.apps.account_api.app import account_api
from keyrush.apps.account_api.bodies import MAX_BODY
from keyrush.apps.account_api.openapi import add_openapi, openapi

__all__ = ["MAX_BODY", "account_api", "add_openapi", "openapi"]
