"""The one socket that a user keeps open: messages, sessions, events."""
