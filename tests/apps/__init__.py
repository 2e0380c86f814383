"""Apps to mount in one's own."""
