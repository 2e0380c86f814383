"""What is counted, buffered here and flushed to the store."""
