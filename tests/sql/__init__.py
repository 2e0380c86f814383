"""Databases: schema, patience, changes, hosts, poolers."""
