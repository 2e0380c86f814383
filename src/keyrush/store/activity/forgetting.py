"""What is kept of activity no longer, in a SQL store."""

from __future__ import annotations

from typing import Any

from keyrush.core.activity import COARSE, FINE, MIDDLE
from keyrush.core.times import DAY
from keyrush.store.activity.statements import statement

#: By index, the oldest first. Totals that are fresh go when they are in the hours.
_DELETE = (
    """
    DELETE FROM keyrush_activity WHERE number IN (
        SELECT number FROM keyrush_activity
        WHERE day < :days ORDER BY day LIMIT :most /*skip*/
    )
    """,
    """
    DELETE FROM keyrush_activity_minutes
    WHERE is_fresh = 0 AND (whole, minute, part, kind, bucket) IN (
        SELECT whole, minute, part, kind, bucket FROM keyrush_activity_minutes
        WHERE is_fresh = 0 AND minute < :minutes ORDER BY minute LIMIT :most /*skip*/
    )
    """,
    *(
        f"""
        DELETE FROM keyrush_activity_totals WHERE (subject, length, bin, kind, bucket) IN (
            SELECT subject, length, bin, kind, bucket FROM keyrush_activity_totals
            WHERE length = {length} AND bin < :{before} ORDER BY bin LIMIT :most /*skip*/
        )
        """  # noqa: S608  # of this module alone
        for length, before in (
            (1, "minutes"),
            (30, "half_hours"),
            (60, "hours"),
            (-60, "hours"),
            (1440, "days_of_hours"),
            (-1440, "days_of_hours"),
        )
    ),
)


def forget(
    connection: Any,
    dialect: str,
    *,
    before_rows: int,
    before_minutes: int,
    before_hours: int,
    at_most: int,
) -> int:
    """`ActivityStore.forget_activity`, in the transaction of the driver's `connection`."""
    values = {
        "days": before_rows // DAY,
        "minutes": before_minutes // FINE,
        "half_hours": before_minutes // (MIDDLE),
        "hours": before_hours // COARSE,
        "days_of_hours": before_hours // DAY,
        "most": at_most,
    }
    return sum(
        int(connection.execute(statement(dialect, text), values).rowcount) for text in _DELETE
    )
