"""The public surface as users write it: for mypy and pyright alone, never run."""
