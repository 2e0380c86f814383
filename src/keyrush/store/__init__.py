"""Where accounts, keys and counts are kept."""
