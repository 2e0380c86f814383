"""The database that store and ledger share."""
