"""A Django site with calls."""
