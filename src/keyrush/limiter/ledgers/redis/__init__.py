"""The ledger on Redis and Valkey."""
