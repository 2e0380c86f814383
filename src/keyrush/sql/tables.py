"""The tables of store, ledger, activity and limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

#: All tables, in whichever database.
METADATA = sa.MetaData()

META = sa.Table(
    "keyrush_meta",
    METADATA,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.String(255), nullable=False),
)

ACCOUNTS = sa.Table(
    "keyrush_accounts",
    METADATA,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("plan", sa.String(64), nullable=False),
    sa.Column("limits", sa.Text),
    sa.Column("balance", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    # How its ledger stands: the number of the last entry, the last month that was given its
    # credits, and when the next of its lots expires.
    sa.Column("entries", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("refilled", sa.String(7)),
    sa.Column("next_expiry", sa.BigInteger),
    # Limits that hold before then, whatever the others are.
    sa.Column("override", sa.Text),
    sa.Column("override_until", sa.BigInteger),
    sa.CheckConstraint("balance >= 0", name="keyrush_balance_not_negative"),
    sa.Index("ix_keyrush_accounts_by_age", "created_at", "id"),
)

KEYS = sa.Table(
    "keyrush_keys",
    METADATA,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("account_id", sa.ForeignKey(ACCOUNTS.c.id), nullable=False),
    sa.Column("lineage", sa.String(64), nullable=False),
    sa.Column("name", sa.String(120), nullable=False),
    sa.Column("prefix", sa.String(64), nullable=False),
    sa.Column("environment", sa.String(32)),
    sa.Column("scopes", sa.Text, nullable=False),
    sa.Column("limits", sa.Text),
    sa.Column("fingerprint", sa.String(64), nullable=False, unique=True),
    sa.Column("hash", sa.String(255), nullable=False),
    sa.Column("pepper_id", sa.String(16), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("last_used_at", sa.BigInteger),
    sa.Column("expires_at", sa.BigInteger),
    sa.Column("retires_at", sa.BigInteger),
    sa.Column("revoked_at", sa.BigInteger),
    sa.Column("created_by", sa.String(64)),
    sa.Column("proof", sa.String(64)),
    sa.Column("max_concurrent", sa.Integer),
    sa.Index("ix_keyrush_keys_of_account", "account_id", "created_at", "id"),
    sa.Index("ix_keyrush_keys_by_age", "created_at", "id"),
    sa.Index("ix_keyrush_keys_created_by", "created_by"),
)

#: What was done to keys, `changes` as JSON (`keyrush.store.edits`), in the order of `number`.
EVENTS = sa.Table(
    "keyrush_key_events",
    METADATA,
    sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("key_id", sa.String(64), nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("what", sa.String(16), nullable=False),
    sa.Column("by", sa.String(80)),
    sa.Column("changes", sa.Text, nullable=False),
    sa.Index("ix_keyrush_key_events_of_key", "key_id", "number"),
)

#: Whom issuers of tokens know, and for which account each acts; those that have ended stay, with
#: what was counted of them.
LINKS = sa.Table(
    "keyrush_links",
    METADATA,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("account_id", sa.ForeignKey(ACCOUNTS.c.id), nullable=False),
    sa.Column("issuer", sa.String(255), nullable=False),
    sa.Column("subject", sa.String(255), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("revoked_before", sa.BigInteger),
    sa.Column("ended_at", sa.BigInteger),
    sa.Index("ix_keyrush_links_of_account", "account_id", "created_at", "id"),
    sa.Index("ix_keyrush_links_by_subject", "subject", "issuer"),
    sa.Index("ix_keyrush_links_by_age", "issuer", "created_at"),
)

#: One account for each subject, whoever adds links at the same time.
sa.Index(
    "ux_keyrush_links",
    LINKS.c.issuer,
    LINKS.c.subject,
    unique=True,
    sqlite_where=LINKS.c.ended_at.is_(None),
    postgresql_where=LINKS.c.ended_at.is_(None),
)

USAGE = sa.Table(
    "keyrush_usage",
    METADATA,
    sa.Column("subject", sa.String(80), primary_key=True),
    sa.Column("month", sa.String(7), primary_key=True),
    sa.Column("counted", sa.BigInteger, nullable=False),
)

#: The credits of accounts: entries that are never changed, numbered within each account without a
#: gap. What expires of them is in `LOTS`, and `taken` says how much of which lot an entry took.
LEDGER = sa.Table(
    "keyrush_ledger",
    METADATA,
    sa.Column("account_id", sa.String(64), primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("amount", sa.BigInteger, nullable=False),
    sa.Column("balance", sa.BigInteger, nullable=False),
    sa.Column("reason", sa.String(16), nullable=False),
    sa.Column("reference", sa.String(80)),
    sa.Column("reverses", sa.String(80)),
    sa.Column("source", sa.String(16), nullable=False),
    sa.Column("credential_id", sa.String(64)),
    sa.Column("subject", sa.String(255)),
    sa.Column("rule", sa.Text),
    sa.Column("request_id", sa.Text),
    sa.Column("note", sa.Text),
    sa.Column("expires_at", sa.BigInteger),
    sa.Column("taken", sa.Text),
)


#: What a query says, to the letter, so that the index of such entries is found.
IS_ADDED = "reason NOT IN ('charge', 'reversal')"
IS_REVERSAL = "reason = 'reversal' AND amount <> 0"


def _on_ledger(name: str, columns: Sequence[str], where: str, *, unique: bool) -> None:
    """An index on the entries of an account of which something is true."""
    condition = sa.text(where)
    sa.Index(
        name,
        LEDGER.c.account_id,
        *(LEDGER.c[column] for column in columns),
        unique=unique,
        sqlite_where=condition,
        postgresql_where=condition,
    )


_on_ledger("ux_keyrush_ledger_reference", ["reference"], "reference IS NOT NULL", unique=True)
_on_ledger("ux_keyrush_ledger_reverses", ["reverses"], "reverses IS NOT NULL", unique=True)
#: Of what is looked for among many charges, which pay nothing for it.
_on_ledger("ix_keyrush_ledger_added", ["number"], IS_ADDED, unique=False)
_on_ledger("ix_keyrush_ledger_reversals", ["number"], IS_REVERSAL, unique=False)
#: Of what came by one door, however rare it is among the rest.
sa.Index("ix_keyrush_ledger_source", LEDGER.c.account_id, LEDGER.c.source, LEDGER.c.number)

#: What is left of grants that expire, by the number of their entry.
LOTS = sa.Table(
    "keyrush_lots",
    METADATA,
    sa.Column("account_id", sa.String(64), primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    sa.Column("remaining", sa.BigInteger, nullable=False),
    sa.CheckConstraint("remaining >= 0", name="keyrush_lot_not_negative"),
    sqlite_with_rowid=False,
)

#: Which batch of counts each process has added last, so that none is added twice.
BATCHES = sa.Table(
    "keyrush_batches",
    METADATA,
    sa.Column("worker", sa.String(80), primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("added_at", sa.BigInteger, nullable=False, index=True),
)

#: Which account has opened a session of an MCP server, by the hash of its id.
BINDINGS = sa.Table(
    "keyrush_bindings",
    METADATA,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("account_id", sa.String(64), nullable=False),
    sa.Column("ends_at", sa.BigInteger, nullable=False, index=True),
    sa.Index("ix_keyrush_bindings_of_account", "account_id", "ends_at"),
)

#: Links to the dashboard that were not used, and the sessions of those that were, by hashes.
PORTAL_LINKS = sa.Table(
    "keyrush_portal_links",
    METADATA,
    sa.Column("hash", sa.String(64), primary_key=True),
    sa.Column("account_id", sa.String(64), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("ends_at", sa.BigInteger, nullable=False, index=True),
    sa.Column("write", sa.Boolean, nullable=False),
)

PORTAL_SESSIONS = sa.Table(
    "keyrush_portal_sessions",
    METADATA,
    sa.Column("hash", sa.String(64), primary_key=True),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("account_id", sa.String(64), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("ends_at", sa.BigInteger, nullable=False, index=True),
    sa.Column("write", sa.Boolean, nullable=False),
    sa.Index("ix_keyrush_portal_sessions_of_account", "account_id", "created_at"),
)

#: Forms of the dashboard that may be sent once, and were.
SPENT_FORMS = sa.Table(
    "keyrush_spent_forms",
    METADATA,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("ends_at", sa.BigInteger, nullable=False, index=True),
)

#: Who asked, and for what: an account (`level` 0), a key of it (1), a rule in it (2), or both (3).
#: What does not tell apart at a level is empty. Activity names them by number.
SUBJECTS = sa.Table(
    "keyrush_activity_subjects",
    METADATA,
    sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("account_id", sa.String(64), nullable=False),
    sa.Column("level", sa.SmallInteger, nullable=False),
    sa.Column("credential_id", sa.String(64), nullable=False),
    sa.Column("rule", sa.Text, nullable=False),
    sa.Index(
        "ux_keyrush_activity_subjects",
        "account_id",
        "level",
        "credential_id",
        "rule",
        unique=True,
    ),
)


def _asked() -> list[sa.Column[Any]]:
    """What was asked: `whole` is the account's number, `part` that of key and rule; `kind` is
    source and outcome; `path` is null where it is the rule's.
    """
    return [
        sa.Column("whole", sa.BigInteger, nullable=False),
        sa.Column("part", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.SmallInteger, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("subject", sa.Text),
        sa.Column("method", sa.Text, nullable=False),
        sa.Column("path", sa.Text),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("credits", sa.BigInteger, nullable=False),
        sa.Column("duration", sa.BigInteger, nullable=False),
        sa.Column("request_id", sa.Text),
        sa.Column("address", sa.Text),
        sa.Column("agent", sa.Text),
    ]


#: Rows that are settled: found by index, and in totals. By `day`, so that those of the oldest go
#: together, and by the same index that finds those of an account.
ACTIVITY = sa.Table(
    "keyrush_activity",
    METADATA,
    sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("day", sa.Integer, nullable=False),
    *_asked(),
    sa.Index("ix_keyrush_activity_of_whole", "day", "whole", "kind", "at"),
    sa.Index("ix_keyrush_activity_of_part", "part", "kind", "at"),
)

#: Rows as they come, a few thousand at most: in no index, and in no totals yet.
FRESH = sa.Table(
    "keyrush_activity_fresh",
    METADATA,
    sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    *_asked(),
)


def _sums() -> list[sa.Column[int]]:
    """What a total has of its requests; see `core.activity.Total`."""
    names = ("requests", "credits", "duration", "longest")
    return [sa.Column(name, sa.BigInteger, nullable=False) for name in names]


#: Totals of a minute, of durations in one bucket; those that are fresh are in no others yet.
MINUTES = sa.Table(
    "keyrush_activity_minutes",
    METADATA,
    sa.Column("is_fresh", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("whole", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("minute", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("part", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("bucket", sa.SmallInteger, primary_key=True, autoincrement=False),
    *_sums(),
    sqlite_with_rowid=False,
)
sa.Index(
    "ix_keyrush_activity_minutes_by_age",
    MINUTES.c.minute,
    sqlite_where=MINUTES.c.is_fresh == 0,
    postgresql_where=MINUTES.c.is_fresh == 0,
)

#: Totals of subjects of every level, so that none is summed from all of its parts: of an hour and
#: a day, but for parts of half an hour, and of accounts of a minute. `length` is in minutes, `bin`
#: in lengths since 1970; where it is negative, all kinds and durations are together, as 0.
TOTALS = sa.Table(
    "keyrush_activity_totals",
    METADATA,
    sa.Column("subject", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("length", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("bin", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("bucket", sa.SmallInteger, primary_key=True, autoincrement=False),
    *_sums(),
    sa.Index("ix_keyrush_activity_totals_by_age", "length", "bin"),
    sqlite_with_rowid=False,
)

#: Accounts of which a key, the plan or limits have changed, in the order of `mark`.
CHANGES = sa.Table(
    "keyrush_changes",
    METADATA,
    sa.Column("mark", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("account_id", sa.String(64), nullable=False),
    sa.Column("changed_at", sa.BigInteger, nullable=False, index=True),
)

#: Counters of windows (see `keyrush.core.sliding`), on PostgreSQL.
WINDOWS = sa.Table(
    "keyrush_windows",
    METADATA,
    sa.Column("key", sa.String(120), primary_key=True),
    sa.Column("period", sa.BigInteger, nullable=False),
    sa.Column("current", sa.BigInteger, nullable=False),
    sa.Column("previous", sa.BigInteger, nullable=False),
    sa.Column("idle_at", sa.BigInteger, nullable=False, index=True),
)

#: Processes that count in these windows, on PostgreSQL.
WORKERS = sa.Table(
    "keyrush_workers",
    METADATA,
    sa.Column("id", sa.String(80), primary_key=True),
    sa.Column("seen_at", sa.BigInteger, nullable=False),
)

#: Processes that hold slots, on PostgreSQL, and how many each holds of each subject.
SLOT_WORKERS = sa.Table(
    "keyrush_slot_workers",
    METADATA,
    sa.Column("id", sa.String(80), primary_key=True),
    sa.Column("seen_at", sa.BigInteger, nullable=False),
)

SLOTS = sa.Table(
    "keyrush_slots",
    METADATA,
    sa.Column("key", sa.String(120), primary_key=True),
    sa.Column(
        "worker",
        sa.ForeignKey(SLOT_WORKERS.c.id, ondelete="CASCADE"),
        primary_key=True,
        index=True,
    ),
    sa.Column("slots", sa.BigInteger, nullable=False),
)

#: What several machines need to share, and a file can't do.
SHARED = (WINDOWS, WORKERS, SLOT_WORKERS, SLOTS)
