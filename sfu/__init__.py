"""Calls for Python web applications: ringing, forwarding and bots in one process."""

__version__ = "0.1.0"
