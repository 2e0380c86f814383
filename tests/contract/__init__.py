"""The documented behaviour, over HTTP, and what the documents say."""
