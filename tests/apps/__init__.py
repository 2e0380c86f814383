"""Tests of the apps that are mounted."""
