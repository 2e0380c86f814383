"""Ledgers: windows that many processes count in together."""
