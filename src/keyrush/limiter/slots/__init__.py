"""Slots: how much of something goes on at the same time, in all processes."""
