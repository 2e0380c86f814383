"""Statements of both dialects from one text."""

from __future__ import annotations

import re
from functools import cache

_NAME = re.compile(r"(?<!:):([a-z_]+)")

#: What PostgreSQL needs besides, where a text has the comment.
_POSTGRESQL = {
    # Texts in the order of their bytes, whatever the database's own is.
    "/*bytes*/": 'COLLATE "C"',
    # Rows that somebody is about to change are left, so that nobody waits for anybody.
    "/*skip*/": "FOR UPDATE SKIP LOCKED",
}


@cache
def statement(dialect: str, text: str) -> str:
    """The statement for a driver, of a text with parameters as `:name`."""
    if dialect == "sqlite":
        return text
    for comment, meant in _POSTGRESQL.items():
        text = text.replace(comment, meant)
    return _NAME.sub(r"%(\1)s", text.replace("%", "%%"))
