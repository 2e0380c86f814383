"""Pure values and rules. Nothing here does I/O, or knows of threads, stores or frameworks."""
