"""The life of a call: the state table, and the service that owns it."""
