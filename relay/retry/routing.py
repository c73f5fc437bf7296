"""Routing: by which route an entry goes now, whatever it was taken under, and what becomes of those that have none.

Promises:
- An entry goes by its owner's setting as it is when it is claimed: a changed one holds for what waits already, and mail taken under the
  relay's own smarthost goes by the owner's once there is one.
- What was to go by an owner's route never goes by the relay's own: without a route it is held, and goes on when there is one.
- An owner whose settings cannot be read, or name no smarthost, delays no mail but its own; that costs no attempt.

The entries of an owner whose settings have changed are sorted into their new piles beside the runner's work.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from functools import partial

from relay.accounts.directory import Directory, Unreadable
from relay.accounts.setting import Outfit
from relay.journal import Journal
from relay.spool.entry import Entry
from relay.spool.fault import SpoolUnavailable
from relay.spool.pile import Pile
from relay.spool.spool import Spool
from relay.store.client import StoreRefused, StoreUnavailable
from relay.upstream.route import Route

PART = 250
"""Entries that are sorted in one commit: so long, some ten milliseconds, others may have to wait to write."""


class Routing:
    """Knows where the spool's mail goes."""

    def __init__(self, spool: Spool, directory: Directory, journal: Journal, learn: Callable[[Route, str], None]) -> None:
        """`learn` hears of every route that is met, and whose it is."""
        self._spool = spool
        self._directory = directory
        self._journal = journal
        self._learn = learn
        self.unreadable: dict[str, str] = {}
        """Owners whose settings cannot be read, and why."""
        self._useless: set[str] = set()
        """Ids of routes without a smarthost, of which is told."""
        self._versions: dict[str, int] = {}
        """The version of the settings by which an owner's entries were last sorted."""
        self._sorting: dict[str, asyncio.Task[None]] = {}

    async def choose(self, entries: Sequence[Entry]) -> list[Entry]:
        """Those of the entries that lie in the pile of a route by which they can go now; raises StoreUnavailable."""
        outfits = await self._read({entry.owner for entry in entries})
        chosen = []
        for entry in entries:
            outfit = outfits.get(entry.owner)
            if outfit is None:
                continue
            if entry.route != (place(outfit, entry.domain) or ""):
                self._sort(entry.owner)
            elif self._is_of_use(outfit, entry):
                chosen.append(entry)
        return chosen

    def _is_of_use(self, outfit: Outfit, entry: Entry) -> bool:
        """Whether there is a smarthost; tells once of a route that has none."""
        setting = outfit.setting_for(entry.domain)
        if setting is None or setting.choices:
            return True
        if setting.id not in self._useless:
            self._useless.add(setting.id)
            self._journal.alarm("route_unusable", owner=entry.owner, domain=setting.domain, error="it names no smarthost")
        return False

    async def _read(self, owners: Collection[str]) -> dict[str, Outfit]:
        """The settings of these owners, but of those that cannot be read; raises StoreUnavailable."""
        ordered = sorted(owners)
        answers = await asyncio.gather(*map(self._directory.outfit, ordered), return_exceptions=True)
        found = {}
        for owner, answer in zip(ordered, answers, strict=True):
            if isinstance(answer, StoreRefused | Unreadable):
                if owner not in self.unreadable:
                    self._journal.alarm("route_unusable", owner=owner, domain="", error=str(answer))
                self.unreadable[owner] = str(answer)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                found[owner] = answer
                self.unreadable.pop(owner, None)
                for setting in answer.settings.values():
                    self._learn(setting.route, owner)
                    if setting.choices:
                        self._useless.discard(setting.id)
        return found

    # -- what changes --------------------------------------------------------------------------------------------------------

    async def review(self, blocked: Collection[Pile]) -> None:
        """Look anew at the settings of those whose mail does not go out: in blocked piles, or held. Raises StoreUnavailable."""
        held = await self._spool.owners_without_route()
        routes = defaultdict[str, set[str]](set)
        for pile in blocked:
            routes[pile.owner].add(pile.route)
        outfits = await self._read({*routes, *held, *self.unreadable})
        self._versions = {owner: version for owner, version in self._versions.items() if owner in outfits}
        for owner, outfit in outfits.items():
            if self._versions.get(owner) == outfit.version:
                continue
            if owner in held or not _is_plain(outfit, routes[owner]):
                self._sort(owner)
            else:
                self._versions[owner] = outfit.version

    def _sort(self, owner: str) -> None:
        """Begin to sort an owner's entries, unless that is under way."""
        if owner not in self._sorting:
            self._sorting[owner] = task = asyncio.create_task(self._sort_all(owner))
            task.add_done_callback(lambda _: self._sorting.pop(owner))

    async def _sort_all(self, owner: str) -> None:
        try:
            outfit = (await self._read([owner])).get(owner)
            if outfit is None:
                return
            seqs = await self._spool.seqs_of(owner)
            parts = [seqs[start : start + PART] for start in range(0, len(seqs), PART)]
            if all([await self._sort_part(part, outfit) for part in parts]):
                self._versions[owner] = outfit.version
        except (SpoolUnavailable, StoreUnavailable):
            pass  # the runner tells of it; whoever next meets what is not sorted has it sorted
        except Exception as error:
            self._journal.bug("retry", error)

    async def _sort_part(self, seqs: Sequence[int], outfit: Outfit) -> bool:
        """Sort some; False: it cannot be written now, or one of them never: the next part may be well."""
        try:
            done = await self._spool.sort(seqs, partial(place, outfit))
        except SpoolUnavailable:
            return False
        for id in done.held:
            self._journal.held(id, "route")
        for id in done.unheld:
            self._journal.unheld(id, "route")
        return True

    async def close(self) -> None:
        """Leave off sorting; what is not sorted yet is met again."""
        for task in (tasks := list(self._sorting.values())):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def place(outfit: Outfit, domain: str) -> str | None:
    """The id of the setting by which mail of a domain goes; None: there is none."""
    setting = outfit.setting_for(domain)
    return None if setting is None else setting.id


def _is_plain(outfit: Outfit, routes: set[str]) -> bool:
    """Whether there is one route only for whatever the owner sends, and all lies there."""
    domains = list(outfit.settings)
    if not domains:
        return routes <= {""}
    return domains == [""] and routes <= {outfit.settings[""].id}
