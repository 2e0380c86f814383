"""Tokens: of sessions and of OAuth clients, the second kind of credential."""
