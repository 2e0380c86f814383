"""Processes, threads and clocks; nothing of keys."""
