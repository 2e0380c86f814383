"""One suite for every limiter and ledger, and what is particular to each."""
