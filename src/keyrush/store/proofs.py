"""Recording what has proved keys, of many at once."""

from __future__ import annotations

import json
from collections.abc import Sequence

import sqlalchemy as sa

from keyrush.store.protocol import Proved

#: Rows of a statement: to write one keeps other threads waiting.
_PORTION = 500

_RECORD = {
    "sqlite": """
        UPDATE keyrush_keys SET proof = proved.proof
        FROM (
            SELECT json_extract(value, '$[0]') AS id, json_extract(value, '$[1]') AS hash,
                json_extract(value, '$[2]') AS proof
            FROM json_each(?)
        ) AS proved
        WHERE keyrush_keys.id = proved.id AND keyrush_keys.hash = proved.hash
    """,
    # Locked in one order everywhere, so that two processes never wait for each other.
    "postgresql": """
        WITH found AS (
            SELECT keys.id, proved.proof
            FROM unnest(%s::text[], %s::text[], %s::text[])
                AS proved (id, hash, proof)
            JOIN keyrush_keys AS keys ON keys.id = proved.id AND keys.hash = proved.hash
            ORDER BY keys.id COLLATE "C"
            FOR UPDATE OF keys
        )
        UPDATE keyrush_keys SET proof = found.proof
        FROM found WHERE keyrush_keys.id = found.id
    """,
}


def record_proofs(connection: sa.Connection, proofs: Sequence[Proved]) -> None:
    """`Store.record_proofs`, in the transaction of `connection`."""
    rows = sorted((one.key_id, one.hash, one.proof) for one in proofs)
    dialect = connection.dialect.name
    for start in range(0, len(rows), _PORTION):
        some = rows[start : start + _PORTION]
        columns = tuple(list(column) for column in zip(*some, strict=True))
        values = (json.dumps(some),) if dialect == "sqlite" else columns
        connection.exec_driver_sql(_RECORD[dialect], values)
