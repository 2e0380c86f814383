"""Tokens: how they are read, judged, verified, and whom they stand for."""
