"""What may be done to accounts, keys and credits."""
