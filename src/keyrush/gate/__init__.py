"""What stands behind the middleware: the order of checks, and what holds it together."""
