"""Who calls: credentials proved against a store, and kept while that holds."""
