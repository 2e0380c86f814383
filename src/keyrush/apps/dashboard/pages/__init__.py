"""The pages, each with its `ROUTES`."""

from keyrush.apps.dashboard.pages import (
    activity,
    billing,
    key,
    key_create,
    key_edit,
    key_file,
    key_revoke,
    key_rotate,
    keys,
    setup,
)

#: Of all pages, in the order in which paths are looked for: `/keys/new` and `/keys/file` before
#: `/keys/{key_id}`.
ROUTES = [
    *setup.ROUTES,
    *keys.ROUTES,
    *key_create.ROUTES,
    *key_file.ROUTES,
    *key.ROUTES,
    *key_rotate.ROUTES,
    *key_edit.ROUTES,
    *key_revoke.ROUTES,
    *activity.ROUTES,
    *billing.ROUTES,
]
