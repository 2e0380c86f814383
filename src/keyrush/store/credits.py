"""Balances in a SQL store: charges by their references, and reversals of these, each once."""

from __future__ import annotations

import sqlalchemy as sa

from keyrush.core.times import DAY
from keyrush.sql.schema import ACCOUNTS, CHARGES
from keyrush.store.counts import insert_into


def change_balance(connection: sa.Connection, account_id: str, change: int) -> int | None:
    """The new balance; None, and nothing changed, where it would be negative or nobody's."""
    update = (
        sa.update(ACCOUNTS)
        .where(ACCOUNTS.c.id == account_id, ACCOUNTS.c.balance + change >= 0)
        .values(balance=ACCOUNTS.c.balance + change)
        .returning(ACCOUNTS.c.balance)
    )
    balance: int | None = connection.execute(update).scalar_one_or_none()
    return balance


def charge(
    connection: sa.Connection, account_id: str, credits: int, reference: str, now: int
) -> int | None:
    """`Store.charge`, in the transaction of `connection`."""
    if connection.dialect.name == "postgresql":  # the same, in one round trip
        amount, at = (sa.literal(number, sa.BigInteger) for number in (credits, now))
        call = sa.func.keyrush_charge(account_id, amount, reference, at)
        balance: int | None = connection.execute(sa.select(call)).scalar_one()
        return balance
    known = sa.select(CHARGES.c.reversed_at).where(CHARGES.c.reference == reference)
    if row := connection.execute(known).one_or_none():
        return change_balance(connection, account_id, 0) if row.reversed_at is None else None
    balance = change_balance(connection, account_id, -credits)
    if balance is not None:
        insert = sa.insert(CHARGES).values(
            reference=reference, account_id=account_id, credits=credits, charged_at=now
        )
        connection.execute(insert)
    return balance


def reverse(connection: sa.Connection, reference: str, now: int) -> int | None:
    """`Store.reverse`, in the transaction of `connection`."""
    # A charge that is under way is waited for; one that is yet to come finds that it is reversed.
    insert = insert_into(CHARGES, connection.dialect.name).values(
        reference=reference, account_id="", credits=0, charged_at=now, reversed_at=now
    )
    upsert = insert.on_conflict_do_update(
        index_elements=[CHARGES.c.reference],
        set_={"reversed_at": insert.excluded.reversed_at},
        where=CHARGES.c.reversed_at.is_(None),
    )
    row = connection.execute(upsert.returning(CHARGES.c.account_id, CHARGES.c.credits)).first()
    if row is None or not row.credits:
        return None
    return change_balance(connection, row.account_id, row.credits)


def forget_charges(connection: sa.Connection, now: int, at_most: int) -> None:
    """Delete charges of more than a day ago, the oldest first."""
    # Rows that someone is about to change are left, or two processes could wait for each other.
    old = (
        sa.select(CHARGES.c.reference)
        .where(CHARGES.c.charged_at < now - DAY)
        .order_by(CHARGES.c.charged_at)
        .limit(at_most)
        .with_for_update(skip_locked=True)
    )
    connection.execute(sa.delete(CHARGES).where(CHARGES.c.reference.in_(old)))
