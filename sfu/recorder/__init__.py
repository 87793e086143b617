"""Recordings: encoded frames from the rooms into files that prove themselves, in a process of its own."""
