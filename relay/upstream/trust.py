"""The TLS contexts of all smarthosts: each has read hundreds of authorities, takes their memory and their time, and is made once.

Promises: those who trust the same authorities, as strictly, and show the same certificate of ours share one; the sessions that may be taken
up again are kept apart by smarthost all the same. There are so many at most, whatever owners bring along, who do not displace those for
whom it is the system's or the operator's. What no smarthost uses any more is dropped.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from relay.upstream.resumption import ResumingContext
from relay.upstream.route import Target, tls_context

MOST = 32
"""Contexts of owners' own authorities and certificates, and as many of the others; each is about a megabyte."""

MOST_PLACES = 1000
"""Smarthosts whose sessions are kept to be taken up again; each takes about 15 KB."""

_Key = tuple[Path | None, str, bool, str]


@dataclass(slots=True)
class _Shelf:
    """Contexts of a kind, the one that was used last at the end; made one after the other."""

    contexts: OrderedDict[_Key, ssl.SSLContext] = field(default_factory=OrderedDict)
    making: asyncio.Lock = field(default_factory=asyncio.Lock)


class Contexts:
    """Contexts by what they depend on."""

    def __init__(self) -> None:
        self._common = _Shelf()
        self._brought = _Shelf()
        self._places: OrderedDict[Target, ResumingContext] = OrderedDict()

    def __len__(self) -> int:
        return len(self._common.contexts) + len(self._brought.contexts)

    async def of(self, target: Target) -> ResumingContext | None:
        """The context of a smarthost; None without TLS. Raises OSError, ValueError for what cannot be read: that is not remembered."""
        if target.security == "none":
            return None
        key = _key(target)
        shelf = self._brought if target.ca or target.identity else self._common
        if key not in shelf.contexts:
            async with shelf.making:
                if key not in shelf.contexts:
                    made = await asyncio.to_thread(tls_context, target)  # it may read all of the system's authorities
                    assert made is not None
                    self._put(shelf, key, made)
        # Nothing was waited for since it was seen to be there.
        shelf.contexts.move_to_end(key)
        place = self._places.get(target)
        if place is None:
            place = self._places[target] = ResumingContext.within(shelf.contexts[key])
            if len(self._places) > MOST_PLACES:
                self._places.popitem(last=False)
        self._places.move_to_end(target)
        return place

    def _put(self, shelf: _Shelf, key: _Key, context: ssl.SSLContext) -> None:
        shelf.contexts[key] = context
        if len(shelf.contexts) > MOST:
            oldest, _ = shelf.contexts.popitem(last=False)
            for target in [target for target in self._places if _key(target) == oldest]:
                del self._places[target]

    def keep_only(self, targets: Iterable[Target]) -> None:
        """Drop what is of no use to any of these."""
        used = set(targets)
        keys = set(map(_key, used))
        for target in [target for target in self._places if target not in used]:
            del self._places[target]
        for shelf in (self._common, self._brought):
            for key in [key for key in shelf.contexts if key not in keys]:
                del shelf.contexts[key]


def _key(target: Target) -> _Key:
    """All that a context depends on, but for whether there is one."""
    return target.ca_file, target.ca, target.verify, target.identity
