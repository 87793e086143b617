"""Hypothesis tries the same examples each time, however slow the machine is."""

from hypothesis import settings

settings.register_profile("deterministic", derandomize=True, deadline=None, database=None)
settings.load_profile("deterministic")
