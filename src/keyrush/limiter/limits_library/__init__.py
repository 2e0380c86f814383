"""Windows in the storages of the library `limits`."""
