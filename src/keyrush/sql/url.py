"""What the URL of a database may say."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError

from keyrush.core.urls import doubtful, is_plain
from keyrush.errors import ConfigurationError
from keyrush.sql.files import file_of
from keyrush.sql.hosts import database_url

#: What psycopg's `connect` takes besides, and is not for a URL to say.
_NOT_FOR_URLS = {"autocommit", "context", "cursor_factory", "row_factory"}


#: What a URL may say to SQLite, and to Python's module for it.
_SQLITE_OPTIONS = {
    *("cache", "immutable", "mode", "nolock", "psow", "timeout", "uri", "vfs"),
    *("cached_statements", "check_same_thread", "detect_types", "isolation_level"),
}


_UTF8 = {"utf8", "unicode"}  # as PostgreSQL spells it


_NEVER = {"none", "None", ""}


def parse_url(url: str) -> URL:
    """The URL of a database that keyrush supports.

    Raises:
        ConfigurationError: It is none.
    """
    try:
        parsed = database_url(url)
    except (ArgumentError, ValueError):
        raise ConfigurationError(
            "KEYRUSH_STORE_URL: not a database URL; write sqlite:///keyrush.db, "
            "postgresql://user:password@host/name or memory://; several hosts as in "
            "postgresql://user:password@host:5432,host:5432/name"
        ) from None
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    # By their drivers, because deadlines and news are theirs to keep.
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql+psycopg"):
        raise ConfigurationError(
            f"KEYRUSH_STORE_URL: {parsed.drivername!r} is not supported; "
            "use sqlite, postgresql or memory"
        )
    if parsed.get_backend_name() == "sqlite":
        if parsed.host or parsed.username is not None or parsed.port:
            raise ConfigurationError(
                "KEYRUSH_STORE_URL: SQLite has neither hosts nor users; a file comes after three "
                "slashes, as in sqlite:///keyrush.db"
            )
        if not parsed.query.keys() <= _SQLITE_OPTIONS:  # SQLAlchemy would warn of them by name
            allowed = ", ".join(sorted(_SQLITE_OPTIONS))
            raise ConfigurationError(f"KEYRUSH_STORE_URL: options for SQLite are {allowed}")
    elif not is_plain(url):
        raise doubtful("KEYRUSH_STORE_URL")
    else:
        _check_postgresql_options(parsed)
    if parsed.get_backend_name() == "sqlite" and (
        parsed.database in {None, "", ":memory:"} or "memory" in parsed.query.get("mode", "")
    ):
        raise ConfigurationError(
            "KEYRUSH_STORE_URL: SQLite needs a file here; for a store in memory use memory://"
        )
    return parsed


def _check_postgresql_options(url: URL) -> None:
    if found := _NOT_FOR_URLS & url.query.keys():
        raise ConfigurationError(f"KEYRUSH_STORE_URL: {min(found)} is not for the URL to say")
    encoding = url.query.get("client_encoding", "utf8")
    if not isinstance(encoding, str) or encoding.lower().replace("-", "") not in _UTF8:
        raise ConfigurationError(
            "KEYRUSH_STORE_URL: client_encoding can be nothing but utf8, which is the default "
            "whatever the encoding of the database"
        )
    threshold = url.query.get("prepare_threshold", "none")
    if not isinstance(threshold, str) or not (threshold.isdecimal() or threshold in _NEVER):
        raise ConfigurationError("KEYRUSH_STORE_URL: prepare_threshold is a number, or none")


def prepare_threshold(url: URL) -> int | None:
    """After how many times psycopg prepares a statement, by a URL that says so; None: never."""
    said = url.query["prepare_threshold"]
    return int(said) if isinstance(said, str) and said not in _NEVER else None


def file_at(url: URL) -> Path | None:
    """The file of the SQLite database at a URL, None of any other."""
    if url.get_backend_name() != "sqlite":
        return None
    return file_of(url.database or "", is_uri="uri" in url.query)
