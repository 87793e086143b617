"""Calls between the users of the site."""
