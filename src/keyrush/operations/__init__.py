"""What the command line, the account API and code call: accounts, keys, credits, usage."""
