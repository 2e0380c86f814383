"""Windows in a file that all workers of one machine map into their memory."""
