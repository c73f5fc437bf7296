"""A book's counters as they stand in the store: read, changed as no script would, and written as an earlier version did."""

from __future__ import annotations

from relay.store.client import Command, Store

FORM = (
    ("taken", 6), ("gone", 6), ("rejected", 6), ("rgone", 6), ("held", 6), ("marks", 4), ("last", 7), ("soonest", 7), ("lapses", 1),
    ("check", 4),
)  # fmt: skip
"""Each counter and its octets, in their order; then the beginning of ids."""
PLANT = """
local form = '>i6i6i6i6i6I4I7I7BI4c8'
local numbers = {struct.unpack(form, redis.call('HGET', KEYS[1], 'taken'))}
numbers[tonumber(ARGV[1])] = numbers[tonumber(ARGV[1])] + tonumber(ARGV[2])
redis.call('HSET', KEYS[1], 'taken', struct.pack(form, unpack(numbers, 1, 11)))
"""
BEGUN = """
local octets = redis.call('HGET', KEYS[1], 'taken')
redis.call('HSET', KEYS[1], 'taken', string.sub(octets, 1, 53) .. ARGV[1])
"""


def read(octets: bytes | None) -> dict[str, int]:
    """What the counters say; all is 0 before the first."""
    found, at = {}, 0
    for name, size in FORM:
        found[name] = int.from_bytes((octets or bytes(61))[at : at + size], "big", signed=size == 6)
        at += size
    return found


def moved(book: str, name: str, by: int) -> Command:
    """Change one counter, and leave the others as they are, the check too."""
    return ("EVAL", PLANT, 1, book, [each for each, _ in FORM].index(name) + 1, by)


def begun(book: str, prefix: str) -> tuple[Command]:
    """Change how ids are said to begin."""
    return (("EVAL", BEGUN, 1, book, prefix),)


async def write_a_field_each(store: Store, book: str) -> None:
    """Write the counters as the version did that had a field for each of them."""
    counters = read(await store.command("HGET", book, "taken"))
    fields = {name: counters[name] for name in ("taken", "gone", "held", "marks", "last")}
    fields["sum"] = counters["taken"] - counters["gone"]
    if counters["rejected"]:
        fields |= {name: counters[name] for name in ("rejected", "rgone")} | {"rsum": counters["rejected"] - counters["rgone"]}
    await store.command("HSET", book, *(part for pair in fields.items() for part in pair))
