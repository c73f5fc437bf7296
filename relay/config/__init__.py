"""What the relay is told (settings.py), and what all of its processes know of it.

A worker is handed its settings as plain values: the library that checks them would be a fifth of its memory.
"""

LEASE_MARGIN = 2.0
"""Seconds of a lease that are never used."""


class ConfigError(Exception):
    """The configuration cannot be used; the text is one line for the person who wrote it."""
