"""Whole servers in processes of their own."""
