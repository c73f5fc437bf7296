"""Trying again, and giving up in writing: when to try, the one who tries, and the reports on what failed."""
