"""What can be wrong with the spool, one condition for each party at fault."""

from __future__ import annotations


class SpoolUnavailable(Exception):
    """The spool cannot do what was asked: nothing was acknowledged, nothing is changed. The text is for the operator."""


class SpoolFull(SpoolUnavailable):
    """The disk's reserve is reached: nothing new is taken, what is in the spool goes on."""


class SpoolUnusable(SpoolUnavailable):
    """The file is no spool of this version of the relay: a person must look, and nothing is touched."""


class EntryCorrupt(Exception):
    """One entry cannot be read as it was written; it is held for a person."""
