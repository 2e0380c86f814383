"""What runs for minutes: `make chaos`; short forms run in `make test`."""
