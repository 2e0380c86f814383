"""`keyrush init`: a commented keyrush.toml to go on from, and what to type next."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from keyrush.authentication.peppers import pepper_file
from keyrush.cli import output
from keyrush.cli.common import CommandError
from keyrush.settings.settings import Settings
from keyrush.settings.sources import FILE_NAME
from keyrush.sql.files import PRIVATE
from keyrush.store.opening import is_made, open_store

_PLAN = "starter"

_FILE = f"""\
# Settings of keyrush, for apps and commands that run in this folder; KEYRUSH_CONFIG names
# another file, and variables such as KEYRUSH_REALM come before what stands here.
# `keyrush doctor` shows all settings, and what is in force.

{{pepper}}

# Where keys are kept, and windows counted unless limiter_url says otherwise.
# store_url = "postgresql://user:password@host/database"

# What needs no key.
public_paths = ["/health"]

# What accounts may use. The first plan is that of new accounts.

[plans.{_PLAN}]
limits = "100/minute"       # or ["60/minute", "1000/hour"], or "unlimited"
monthly_quota = 500_000     # requests in a calendar month, UTC; leave out for none
on_exceed = "overage"       # count what is above; "block" refuses it
per = "key"                 # what limits and quota are of; or "account"

# What paths need besides a valid key. The first rule that matches counts; what no rule names
# takes any valid key.

[[rules]]
path = "/api/articles"      # "/api/articles/{{{{id}}}}" has any one segment there
methods = ["GET"]           # leave out for all
scopes = ["read:articles"]  # keys have it by --scope read:articles, or read:*, or all by none
# limits = ["10/minute"]    # beside the plan's; per = "key", "account" or "address"

# What who comes without a key is limited to, where none is needed, by address.
# [anonymous]
# limits = ["60/minute"]
"""

_PEPPER = """\
# What fingerprints of keys are made with: a secret, so keep this file out of version control,
# and away from backups of the database. Without it no key is known any more.
pepper = ["{pepper}"]"""

_NO_PEPPER = """\
# What fingerprints of keys are made with comes from {source}.
# pepper = ["…"]"""

#: What to type next. The app is that of the documentation.
COMMANDS = (
    'keyrush keys create --account acct_1 --name "my first key"',
    "uvicorn app:app",
    'curl -i -H "X-API-Key: YOUR_KEY" http://127.0.0.1:8000/api/articles',
)


def run(*, as_json: bool) -> None:
    """Write the file, readable by its owner alone, and print where it is and what is next.

    Raises:
        CommandError: There is one already, it would not be read, or accounts would lose their
            plans by it.
        ConfigurationError: A setting of the environment is wrong.
    """
    path = Path(FILE_NAME).absolute()
    if path.exists():
        raise CommandError(f"{path} exists already")
    settings = Settings()
    if settings.config is not None:
        raise CommandError(f"KEYRUSH_CONFIG names {settings.config}, so {path} would not be read")
    _keep_plans(settings)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(_FILE.format(pepper=_pepper(settings)))
    if as_json:
        output.dump({"config": str(path), "commands": COMMANDS})
        return
    output.say(f"Written to {path}\n\nNext, with your app in app.py:\n")
    for command in COMMANDS:
        output.say(f"  {command}")


def _pepper(settings: Settings) -> str:
    """The lines on the pepper; a new one where none is in use, or no key would fit any more."""
    beside = pepper_file(settings.store_url)
    if settings.pepper:
        return _NO_PEPPER.format(source="KEYRUSH_PEPPER")
    if beside is not None and beside.exists():
        return _NO_PEPPER.format(source=beside)
    return _PEPPER.format(pepper=secrets.token_urlsafe(32))


def _keep_plans(settings: Settings) -> None:
    """Raise where accounts are on plans that the file would take out of the table."""
    if settings.is_store_in_memory or not is_made(settings.store_url):
        return
    store = open_store(settings.store_url).store
    try:
        lost = sorted(store.plans().keys() - {_PLAN})
    finally:
        store.close()
    if lost:
        raise CommandError(f"accounts are on plans that the file would not have: {', '.join(lost)}")
