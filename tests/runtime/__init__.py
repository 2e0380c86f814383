"""Threads, processes, clocks."""
