"""Synthetic publishers and receivers for any of the servers, in one process with a C engine."""
