"""The audit: one user's book recounted from what stands in it; pure.

Promise: what was changed by anything but the ledger's scripts is a difference with its place, what was expected and what was found.
Counters are held against the entries they sum up, entries against the records of the settles that made them, as far as those reach
back; the sums in the first record kept speak for all before it. (What lies before it is checked for its order and its sums only.)

Reading the book in one look is the ledger's.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from relay.quota.limit import Rules

SECOND = 1_000_000
SLACK = SECOND
"""How much later than its lease a hold may end, in µs: where the clock stands still, a renewed one ends 1 µs later than it did."""

INSTANT = 7
"""Octets with which an entry of the records begins: its instant, µs since 1970."""
AHEAD = "is ahead of the store's clock"

COUNTERS = (
    "taken", "gone", "rejected", "rgone", "held", "marks", "last", "soonest", "lapses", "check", "sum", "rsum", "base", "holds",
)  # fmt: skip
"""As verify.lua answers them; what a book has none of is None. One of an earlier version has no `check`, and a later one no `sum`."""
WEIGHTS = {
    "taken": 1, "gone": 3, "rejected": 5, "rgone": 7, "held": 11, "marks": 13, "last": 1, "soonest": 2, "lapses": 1,
}  # fmt: skip
"""What each counter is multiplied with in `check`."""
PRIME = 2**32 - 5
"""What `check` is taken modulo (form.lua)."""
BESIDE = ("sum", "rsum", "marks")
"""Counters that an earlier version wrote together, for the audit alone."""
Scored = Sequence[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class Look:
    """A user's book as it was read, in one step."""

    clock: int
    """The store's clock, µs."""
    counters: dict[str, str | None]
    log: Scored
    rlog: Scored
    open: Scored
    lapsed: Scored
    records: Sequence[bytes]
    """The oldest first."""


@dataclass(frozen=True, slots=True)
class Record:
    """One settle that charged something."""

    id: str
    units: int
    accepted: int
    rejected: int
    outcome: str
    at: int
    """The commit instant, µs since 1970 by the store's clock."""
    taken: int
    """Units ever taken, this settle's included; `all_rejected` likewise."""
    all_rejected: int

    @classmethod
    def of(cls, entry: bytes) -> tuple[Record, ...] | None:
        """Read an entry as post.lua wrote it: instant and sums after it, then each settle of one call; None if it is none."""
        at, (sums, *words) = int.from_bytes(entry[:INSTANT], "big"), show(entry[INSTANT:]).split(" ")
        settles = [_settle(word) for word in words]
        first, comma, second = sums.partition(",")
        taken, rejected = _whole(first), _whole(second) if comma else 0
        read = [settle for settle in settles if settle is not None]
        if taken is None or rejected is None or not read or len(read) < len(settles):
            return None
        records = []
        taken -= sum(accepted for _, _, accepted, _, _ in read)
        rejected -= sum(bounced for _, _, _, bounced, _ in read)
        for id, units, accepted, bounced, outcome in read:
            taken, rejected = taken + accepted, rejected + bounced
            records.append(cls(id, units, accepted, bounced, outcome, at, taken, rejected))
        return tuple(records)


def _settle(text: str) -> tuple[str, int, int, int, str] | None:
    """Id, units, accepted, rejected and outcome: id[:units][,accepted,rejected[,late]]; it is one unit, and all was accepted."""
    member, *rest = text.split(",")
    id, _, word = member.rpartition(":") if ":" in member else (member, "", "1")
    units = _whole(word)
    accepted, rejected = (_whole(rest[0]), _whole(rest[1])) if len(rest) > 1 else (units, 0)
    if not id or not units or accepted is None or rejected is None or not accepted + rejected or rest[2:] not in ([], ["late"]):
        return None
    return None if len(rest) == 1 else (id, units, accepted, rejected, "late" if rest[2:] else "ok")


@dataclass(frozen=True, slots=True)
class Audit:
    """What a recount found."""

    differences: tuple[str, ...]
    records: int
    """How many records there were to recount from."""
    since: int | None
    """The instant of the first of them, µs; None without any."""


def audit(look: Look, rules: Rules) -> Audit:
    """Recount a book."""
    entries = [Record.of(text) for text in look.records]
    records = [record for entry in entries for record in entry or ()]
    found = [f"records: number {i} cannot be read: {show(look.records[i - 1])!r}" for i, entry in enumerate(entries, 1) if entry is None]
    counters = {name: _whole(text if text is not None else "0") for name, text in look.counters.items()}
    found += [f"{name}: expected a whole number, found {look.counters[name]!r}" for name, value in counters.items() if value is None]
    count = _Count(look, rules, {name: value or 0 for name, value in counters.items()}, records)
    if not found:  # what cannot be read cannot be compared
        found = list(count.differences())
    return Audit(tuple(found), len(records), records[0].at if records else None)


class _Count:
    """One recount under way; each method yields differences."""

    def __init__(self, look: Look, rules: Rules, counters: dict[str, int], records: Sequence[Record]) -> None:
        self._look = look
        self._rules = rules
        self._is = counters
        self._last = counters["last"]
        self._records = records

    def differences(self) -> Iterator[str]:
        yield from self._check()
        yield from self._missing()
        yield from self._clock()
        yield from self._chain()
        yield from self._log("log", self._look.log, ("taken", "gone", "sum"), [(r.at, r.accepted, r.taken) for r in self._records])
        rejected = [(r.at, r.rejected, r.all_rejected) for r in self._records]
        yield from self._log("rlog", self._look.rlog, ("rejected", "rgone", "rsum"), rejected)
        yield from self._holds()

    def _check(self) -> Iterator[str]:
        """The counters are those that were written together."""
        check = sum(weight * self._is[name] for name, weight in WEIGHTS.items()) % PRIME
        if self._look.counters["check"] is not None and check != self._is["check"]:
            yield f"check: expected {check} over the counters, found {self._is['check']}: they are not those written together"

    def _missing(self) -> Iterator[str]:
        """What the scripts always write together is there or not there together."""
        counters = self._look.counters
        # Who was never rejected has neither of those two; and an earlier version had `holds`.
        beside = [name for name in BESIDE if counters["check"] is None and (name != "rsum" or counters["rejected"] is not None)]
        missing = [name for name in beside if counters[name] is None and (name != "marks" or counters["holds"] is None)]
        if missing and (len(missing) < len(beside) or self._records):
            yield from (f"{name}: expected beside the other counters, found none" for name in missing)
        charged = self._is["taken"] + self._is["rejected"]
        if self._is["base"] > charged:
            yield f"base: expected {charged} (taken and rejected) at most, found {self._is['base']}"
        if self._records and self._is["base"] > self._before(self._records[0]):
            yield f"base: expected {self._before(self._records[0])} (before the first record) at most, found {self._is['base']}"
        if not missing and not self._records and charged > self._is["base"] and self._rules.records:
            yield f"records: expected some of {charged} units, found none (unless records were kept only from now on)"

    @staticmethod
    def _before(record: Record) -> int:
        """The units ever charged before a record's own."""
        return record.taken + record.all_rejected - record.accepted - record.rejected

    def _clock(self) -> Iterator[str]:
        if self._last > self._look.clock:
            ahead = (self._last - self._look.clock) / SECOND
            yield f"last: {self._last} {AHEAD} {self._look.clock} by {ahead:.6f} s: it was set back, or last was changed"
        if self._records and self._records[-1].at > self._last:
            yield f"last: expected {self._records[-1].at} or later (the last record), found {self._last}"

    def _chain(self) -> Iterator[str]:
        """The records follow one on the other, and the last one's sums are the counters."""
        if not self._records:
            return
        first, last = self._records[0], self._records[-1]
        if first.taken < first.accepted or first.all_rejected < first.rejected:
            yield f"records: {first.id}: its sums {first.taken} and {first.all_rejected} are less than itself"
        for before, record in zip(self._records, self._records[1:], strict=False):
            expected = (before.taken + record.accepted, before.all_rejected + record.rejected)
            if (record.taken, record.all_rejected) != expected:
                found = (record.taken, record.all_rejected)
                yield f"records: {record.id} after {before.id}: expected the sums {_two(expected)}, found {_two(found)}"
            if record.at < before.at:
                yield f"records: {record.id} after {before.id}: expected {before.at} or later, found {record.at}"
        twice = sorted(id for id, count in Counter(record.id for record in self._records).items() if count > 1)
        if twice:
            yield f"records: settled more than once: {', '.join(twice)}"
        if (self._is["taken"], self._is["rejected"]) != (last.taken, last.all_rejected):
            expected, found = (last.taken, last.all_rejected), (self._is["taken"], self._is["rejected"])
            yield f"taken and rejected: expected {_two(expected)} (the last record, {last.id}), found {_two(found)}"

    # -- the two logs --------------------------------------------------------------------------------------------------------

    def _log(self, name: str, log: Scored, names: tuple[str, str, str], records: Sequence[tuple[int, int, int]]) -> Iterator[str]:
        """Entries against the counters `names` (ever, left the window, in the window) and against (at, units, sum) of the records."""
        ever, gone, inside = (self._is[each] for each in names)
        if not 0 <= gone <= ever:
            yield f"{names[1]}: expected 0 to {names[0]} = {ever}, found {gone}"
        if self._look.counters[names[2]] is not None and inside != ever - gone:  # a book of an earlier version has none yet
            yield f"{names[2]}: expected {names[0]} - {names[1]} = {ever - gone}, found {inside}"
        entries: list[tuple[int, int]] = []
        for member, score in log:
            bucket = _whole(member)
            if bucket is None or not float(score).is_integer():
                yield f"{name}: entry {member!r} with {score:.17g} is no bucket with a sum"
            else:
                entries.append((bucket, int(score)))
        yield from self._order(name, entries, gone, ever)
        total = (entries[-1][1] if entries else gone) - gone
        if total != ever - gone:
            yield f"{name}: expected the entries to sum up to {names[0]} - {names[1]} = {ever - gone}, found {total}"
        if records:
            yield from self._against(name, names, entries, gone, records)

    def _order(self, name: str, entries: Sequence[tuple[int, int]], gone: int, ever: int) -> Iterator[str]:
        bucket_before, sum_before = -1, gone
        for bucket, score in entries:
            if score <= sum_before:
                yield f"{name}: bucket {bucket}: expected a sum above {sum_before}, found {score}"
            if score > ever:
                yield f"{name}: bucket {bucket}: expected a sum of at most {ever}, found {score}"
            if bucket <= bucket_before:
                yield f"{name}: bucket {bucket}: expected after {bucket_before}"
            bucket_before, sum_before = bucket, max(score, sum_before)
            if self._leaves(bucket) <= self._last:
                yield f"{name}: bucket {bucket}: it left the window at {self._leaves(bucket)}, expected none of it at {self._last}"
            if bucket > self._bucket(self._last):
                yield f"{name}: bucket {bucket}: expected {self._bucket(self._last)} (last) at the latest"

    def _against(
        self, name: str, names: tuple[str, str, str], entries: Sequence[tuple[int, int]], gone: int,
        records: Sequence[tuple[int, int, int]],
    ) -> Iterator[str]:  # fmt: skip
        """The entries are what the records say they are, as far back as they reach."""
        expected: dict[int, int] = {}  # the sum at the end of each bucket
        for at, units, total in records:
            if units:
                expected[self._bucket(at)] = total
        before = records[0][2] - records[0][1]  # the sum before the first record
        first = self._bucket(records[0][0])
        left = [total for bucket, total in expected.items() if self._leaves(bucket) <= self._last]
        inside = {bucket: total for bucket, total in expected.items() if self._leaves(bucket) > self._last}
        for bucket in sorted(inside.keys() - dict(entries).keys()):
            yield f"{name}: bucket {bucket}: expected an entry with the sum {inside[bucket]} (records), found none"
        older = gone
        for bucket, total in entries:
            if bucket in inside and total != inside[bucket]:
                yield f"{name}: bucket {bucket}: expected the sum {inside[bucket]} (records), found {total}"
            elif bucket not in inside and bucket > first:
                yield f"{name}: bucket {bucket}: expected no entry (records), found the sum {total}"
            elif bucket not in inside:
                older = total
        if left:
            if gone != left[-1]:
                yield f"{names[1]}: expected {left[-1]} (records that have left the window), found {gone}"
        elif older > before or (older < before and first not in expected):
            # Units of the first record's own bucket may stand in one entry with those of records that are no longer kept.
            yield f"{name}: expected {before} up to the first record, found {older}"

    def _bucket(self, instant: int) -> int:
        return instant // (self._rules.resolution * SECOND)

    def _leaves(self, bucket: int) -> int:
        return ((bucket + 1) * self._rules.resolution + self._rules.window) * SECOND

    # -- holds ---------------------------------------------------------------------------------------------------------------

    def _holds(self) -> Iterator[str]:
        held = 0
        if self._look.open and self._is["soonest"] > self._look.open[0][1]:
            yield f"soonest: expected {self._look.open[0][1]:.17g} (the first open hold) at most, found {self._is['soonest']}"
        for member, ends in self._look.open:
            units = _units(member)
            if units is None:
                yield f"open: {member!r} is no hold, expected id:units"
                continue
            held += units
            if ends <= self._last:
                yield f"open: {member}: its lease ended at {ends:.17g}, expected none of it at {self._last} (last)"
            # A lease that was configured longer shows as a difference until its holds are gone.
            latest = self._last + int(self._rules.lease * SECOND) + SLACK
            if ends > latest:
                yield f"open: {member}: expected its lease to end at {latest} (last + lease) at the latest, found {ends:.17g}"
        if held != self._is["held"]:
            yield f"held: expected {held} (the open holds), found {self._is['held']}"
        name, mark = ("marks", _mark) if self._look.counters["holds"] is None else ("holds", _mark_before)
        counted = sum(mark(member, score) for member, score in (*self._look.open, *self._look.lapsed)) % (1 << 32)
        if self._look.counters[name] is not None and counted != self._is[name]:
            yield f"{name}: expected {self._is[name]} over the open and the lapsed holds, found {counted}: they are not those written"
        if self._look.lapsed and self._look.counters["check"] is not None and not self._is["lapses"]:
            yield "lapses: expected 1 (there are lapsed holds), found 0"
        open = {member for member, _ in self._look.open}
        for member, since in self._look.lapsed:
            if _units(member) is None:
                yield f"lapsed: {member!r} is no hold, expected id:units"
            elif member in open:
                yield f"lapsed: {member}: it is open as well"
            if since > self._last:
                yield f"lapsed: {member}: expected {self._last} (last) or earlier, found {since:.17g}"


def _mark(member: str, score: float) -> float:
    """What a hold adds to `marks`, as book.lua counts it."""
    own = int(hashlib.sha1(member.encode(), usedforsecurity=False).hexdigest()[:8], 16)
    # The scripts write whole instants only: one with a fraction must not pass for the whole one beside it.
    instant = int(score) if float(score).is_integer() else score
    return ((own % (1 << 21) + 1) * (instant % (1 << 31)) + own) % (1 << 32)


def _mark_before(member: str, score: float) -> float:
    """What a hold added to `holds`, as an older version counted it."""
    return int(hashlib.sha1(f"{member}:{score:.17g}".encode(), usedforsecurity=False).hexdigest()[:8], 16)


def _units(member: str) -> int | None:
    id, mark, units = member.rpartition(":")
    number = _whole(units)
    return number if id and mark and number else None


def show(value: bytes) -> str:
    """What the store holds, as text."""
    return value.decode("utf-8", "backslashreplace")


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None


def _two(sums: tuple[int, int]) -> str:
    return f"{sums[0]} taken and {sums[1]} rejected"
