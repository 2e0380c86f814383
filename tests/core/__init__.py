"""The values and rules that do no I/O."""
