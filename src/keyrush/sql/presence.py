"""Whether there is a store yet, found out without making one."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from keyrush.sql.engine import make_engine
from keyrush.sql.tables import META
from keyrush.sql.url import file_at, parse_url


def is_made(url: str) -> bool:
    """False where opening the SQL store at `url` would make it, true where it can't be told:
    opening says then what is wrong.

    Raises:
        ConfigurationError: It is no URL of a database.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _is_in_file(parsed)
    try:
        engine = make_engine(parsed)
        try:
            with engine.connect() as connection:
                return sa.inspect(connection).has_table(META.name)
        finally:
            engine.dispose()
    except (SQLAlchemyError, ImportError, ValueError, TypeError):
        return True


def _is_in_file(url: URL) -> bool:
    path = file_at(url)
    if path is None or "vfs" in url.query or not path.parent.is_dir():
        return True
    if not path.exists():
        return False
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True)) as database:
            found = database.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (META.name,))
            return found.fetchone() is not None
    except sqlite3.Error:
        return True
