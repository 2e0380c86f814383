"""Who asked, and for what, by number, and other names that activity has in a SQL store."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from itertools import product
from typing import Any, NamedTuple, cast

from keyrush.core.activity import Outcome, Source, Where
from keyrush.store.activity.statements import statement

#: As they are stored, by their places: new ones come at the end.
SOURCES: tuple[Source, ...] = ("api", "mcp", "dashboard")
OUTCOMES: tuple[Outcome, ...] = ("ok", "error", "limited", "refused")

#: Source and outcome as one number.
KINDS: dict[tuple[str, str], int] = {
    (source, outcome): SOURCES.index(source) * len(OUTCOMES) + OUTCOMES.index(outcome)
    for source, outcome in product(SOURCES, OUTCOMES)
}

#: What tells apart at each level: the key, the rule.
LEVELS = ((False, False), (True, False), (False, True), (True, True))

WHOLE, KEY, PART = 0, 1, 3

#: Parts that a process remembers; of more, all are forgotten, and asked for again.
_REMEMBERED = 50_000


#: A `Part`, as a row has it.
Asked = tuple[str, str, str]


class Part(NamedTuple):
    """Who asks and for what, as far as totals tell it."""

    account_id: str
    credential_id: str
    rule: str

    def at_level(self, level: int) -> tuple[str, int, str, str]:
        """Its row of subjects at a level."""
        by_key, by_rule = LEVELS[level]
        key = self.credential_id if by_key else ""
        return self.account_id, level, key, self.rule if by_rule else ""


class Numbers(NamedTuple):
    """What a part is called in rows: the account, and itself."""

    whole: int
    part: int


def _field(dialect: str, place: int) -> str:
    """A field of the list `new.value`."""
    if dialect == "sqlite":
        return f"json_extract(new.value, '$[{place}]')"
    return f"new.value ->> {place}"


def _elements(dialect: str) -> str:
    if dialect == "sqlite":
        return "json_each(:rows) AS new"
    return "json_array_elements(:rows) WITH ORDINALITY AS new(value, key)"


# Not for what comes from a request: nothing of it is in the texts.


def _insert(dialect: str) -> str:
    level = _field(dialect, 1)
    return f"""
        INSERT INTO keyrush_activity_subjects (account_id, level, credential_id, rule)
        SELECT {_field(dialect, 0)}, CAST({level} AS INTEGER), {_field(dialect, 2)},
            {_field(dialect, 3)}
        FROM {_elements(dialect)} WHERE true ORDER BY new.key
        ON CONFLICT DO NOTHING
    """  # noqa: S608


def _find(dialect: str) -> str:
    account_id, key, rule = (_field(dialect, place) for place in range(3))
    return f"""
        SELECT whole.number, part.number
        FROM {_elements(dialect)}
        CROSS JOIN keyrush_activity_subjects AS whole
        CROSS JOIN keyrush_activity_subjects AS part
        WHERE whole.account_id = {account_id} AND whole.level = {WHOLE}
        AND part.account_id = {account_id} AND part.level = {PART}
        AND part.credential_id = {key} AND part.rule = {rule}
        ORDER BY new.key
    """  # noqa: S608


class Subjects:
    """The numbers of parts, as far as this process has seen them committed: they never change."""

    def __init__(self) -> None:
        self._known: dict[Asked, Numbers] = {}

    def numbers(
        self, connection: Any, dialect: str, parts: Sequence[Asked]
    ) -> tuple[list[Numbers], dict[Asked, Numbers]]:
        """The number of each part, and those among them that were not known. What is in no table
        is added in the transaction of the driver's `connection`, and to be remembered once it is
        committed.
        """
        known = self._known
        found = [*map(known.get, parts)]
        if all(found):  # none is empty
            return cast("list[Numbers]", found), {}
        new = self._new(connection, dialect, set(parts).difference(known))
        return [known.get(part) or new[part] for part in parts], new

    @staticmethod
    def _new(connection: Any, dialect: str, parts: Collection[Asked]) -> dict[Asked, Numbers]:
        """The numbers of parts that are not known."""
        new = sorted(Part(*part) for part in parts)
        # In one order, so that two processes never wait for each other.
        rows = sorted({part.at_level(level) for part in new for level in range(len(LEVELS))})
        connection.execute(statement(dialect, _insert(dialect)), {"rows": json.dumps(rows)})
        answer = connection.execute(statement(dialect, _find(dialect)), {"rows": json.dumps(new)})
        numbers = (Numbers(*row) for row in answer.fetchall())
        return dict(zip(new, numbers, strict=True))

    def remember(self, found: dict[Asked, Numbers]) -> None:
        """Know these without asking, from now on."""
        if len(self._known) + len(found) > _REMEMBERED:
            self._known = {}
        self._known.update(found)


def kinds_of(where: Where) -> list[int]:
    """The kinds that agree with `where`."""
    return [
        kind
        for (source, outcome), kind in KINDS.items()
        if where.source in {None, source} and where.outcome in {None, outcome}
    ]


def narrowed(where: Where) -> str:
    """What else a condition says, of subjects of which account and level are known."""
    of_key = "" if where.credential_id is None else " AND subject.credential_id = :key"
    return of_key if where.rule is None else f"{of_key} AND subject.rule = :rule"


def chosen(level: int, where: Where) -> tuple[str, dict[str, Any]]:
    """Which `subject` is meant at a level, as a condition and its parameters."""
    condition = f"subject.account_id = :account AND subject.level = {level}{narrowed(where)}"
    return condition, {"key": where.credential_id, "rule": where.rule}
