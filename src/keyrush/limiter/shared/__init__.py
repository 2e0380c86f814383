"""What one process does with a ledger: asks it, leases from it, and goes on without it."""
