"""The files of a SQLite database: which they are, and that nobody but their owner reads them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

#: What is kept beside the file: by SQLite while it is open, with its mode; windows, and slots.
_BESIDE = ("", "-wal", "-shm", "-journal", "-windows", "-slots")

#: Readable and writable by the owner alone.
PRIVATE = 0o600


def file_of(database: str, *, is_uri: bool) -> Path | None:
    """The file that SQLite would open by this name, None where that is no file.

    `is_uri` where a name that begins with `file:` is a URI to SQLite.
    """
    if is_uri and database.startswith("file:"):
        database = unquote(urlsplit(database.partition("?")[0]).path)
    return Path(database).absolute() if database not in {"", ":memory:"} else None


def make_private(database: str, *, is_uri: bool) -> None:
    """Make the file that SQLite would make now, with mode 0600 whatever the umask.

    The files beside it get its mode from SQLite. One that exists stays as it is; and where none
    can be made, SQLite is left to say so.
    """
    options = parse_qs(urlsplit(database).query) if is_uri else {}
    if options.get("mode", ["rwc"])[-1] != "rwc" or {"vfs", "immutable"} & options.keys():
        return
    path = file_of(database, is_uri=is_uri)
    if path is None:
        return
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, PRIVATE)
        try:
            if hasattr(os, "fchmod"):  # elsewhere there are no modes
                os.fchmod(descriptor, PRIVATE)
        finally:
            os.close(descriptor)


def readable_by_others(path: Path) -> list[Path]:
    """Those of a file, and of what SQLite keeps beside it, that others than the owner may open."""
    found = []
    for suffix in _BESIDE:
        one = path.with_name(path.name + suffix)
        with suppress(OSError):  # it is not there
            if os.name == "posix" and one.stat().st_mode & 0o077:
                found.append(one)
    return found
