"""Where windows are counted."""
