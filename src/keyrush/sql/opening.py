"""The upgrade to schema 7: balances become entries of a ledger."""

from __future__ import annotations

import sqlalchemy as sa

from keyrush.core.ledger import OPENING

#: What accounts were charged in the last day, in schema 4 to 6.
_CHARGES = """
    CREATE TABLE IF NOT EXISTS keyrush_charges (
        reference VARCHAR(80) NOT NULL, account_id VARCHAR(64) NOT NULL, credits BIGINT NOT NULL,
        charged_at BIGINT NOT NULL, reversed_at BIGINT, PRIMARY KEY (reference)
    )
"""

#: What an account had before the charges that can still be reversed. One that has entries has been
#: here before.
_OPEN = """
    INSERT INTO keyrush_ledger
        (account_id, number, at, amount, balance, reason, reference, source)
    SELECT held.id, 1, coalesce(charged.first_at, :now),
        held.balance + coalesce(charged.credits, 0),
        held.balance + coalesce(charged.credits, 0),
        'adjustment', :opening, 'system'
    FROM keyrush_accounts AS held
    LEFT JOIN (
        SELECT account_id, sum(credits) AS credits, min(charged_at) AS first_at
        FROM keyrush_charges WHERE reversed_at IS NULL AND credits > 0 GROUP BY account_id
    ) AS charged ON charged.account_id = held.id
    WHERE held.entries = 0 AND held.balance + coalesce(charged.credits, 0) > 0
"""

_ENTER_CHARGES = """
    INSERT INTO keyrush_ledger
        (account_id, number, at, amount, balance, reason, reference, source)
    SELECT one.account_id, 1 + row_number() OVER so_far, one.charged_at, -one.credits,
        opened.balance - sum(one.credits) OVER so_far, 'charge', one.reference, 'api'
    FROM keyrush_charges AS one
    JOIN keyrush_accounts AS held ON held.id = one.account_id AND held.entries = 0
    JOIN keyrush_ledger AS opened ON opened.account_id = held.id AND opened.number = 1
    WHERE one.reversed_at IS NULL AND one.credits > 0
    WINDOW so_far AS (PARTITION BY one.account_id ORDER BY one.charged_at, one.reference)
"""

_COUNT = """
    UPDATE keyrush_accounts SET entries = found.number
    FROM (SELECT account_id, max(number) AS number FROM keyrush_ledger GROUP BY account_id) AS found
    WHERE found.account_id = keyrush_accounts.id AND keyrush_accounts.entries = 0
"""


def enter_balances(connection: sa.Connection, now: int) -> None:
    """Enter the balance of each account, and what it was charged lately and has not been given
    back, so that it still can be. A statement does it for all: there may be millions.
    """
    connection.execute(sa.text(_CHARGES))
    connection.execute(sa.text(_OPEN), {"now": now, "opening": OPENING})
    for statement in (_ENTER_CHARGES, _COUNT, "DROP TABLE keyrush_charges"):
        connection.execute(sa.text(statement))
