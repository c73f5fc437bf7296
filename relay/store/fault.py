"""What can go wrong with the store, by whose fault it is; every foreign exception is mapped to one of these at the room's border."""

from __future__ import annotations

_UNABLE = (
    "BUSY ", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "READONLY", "TRYAGAIN", "UNKILLABLE",
)  # fmt: skip
"""Errors by which a server says that it cannot do its work now: loading its data, out of memory, not persisting, a replica."""


class StoreUnavailable(Exception):
    """The store did not answer in time, or cannot work now; what was asked may or may not have been done."""


class StoreForeign(StoreUnavailable):
    """The store that answers is not the one this node's accounts and ledger live in: it came back empty, or it is another."""


class StoreRefused(Exception):
    """The store answered with an error of its own; the text is its. A script that meets one has written nothing."""


def translate_text(text: str) -> StoreUnavailable | StoreRefused:
    """The condition behind an error reply."""
    return StoreUnavailable(text) if text.startswith(_UNABLE) else StoreRefused(text)
