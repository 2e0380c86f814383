"""A fleet of keys, the load that users have: `python -m benchmarks fleet`."""
