"""Monthly counts."""
