"""Everything is killed again and again under two nodes with forty clients: the accounts of promises 1 to 3 close all the same.

CHAOS_SECONDS (default 45) and CHAOS_SEED are taken from the environment; the figures are printed, and written to the file CHAOS_REPORT
if set; beside it is kept what a run that fails leaves on disk.
"""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.account import Evidence, read, violations
from tests.chaos import USERS, Figures, opened, run

SECONDS = float(os.environ.get("CHAOS_SECONDS", "45"))
KILLS = 50
ACCEPTANCES = 1000
REFUSALS = 100
"""For the limit: users who are far from theirs prove nothing about it."""


async def test_everything_is_killed_at_random_and_the_accounts_close(place: Path) -> None:
    seed = int(os.environ.get("CHAOS_SEED", "0")) or random.randrange(1, 1 << 32)
    print(f"\nchaos: seed {seed}, {SECONDS:g} s")
    async with opened(place, seed) as world:
        try:
            await run(world, SECONDS, KILLS, ACCEPTANCES)
            await world.heal()
            left = await world.drain(timeout=60 + SECONDS / 10)
            evidence = await world.evidence()
            found = [f"not at rest: {what}" for what in left] + violations(evidence)
        except BaseException:
            keep(place, [f"seed        {seed}, cut short"], True)
            raise
        keep(place, [*figures(world.figures, evidence), f"violations  {len(found)}", *found], bool(found))
        audit = await world.nodes[0].cli("ledger", "verify")
        statuses = [await node.stop() for node in world.nodes]
    bugs = [event["traceback"] for event in evidence.events if event["event"] == "bug"]
    assert not bugs, f"{len(bugs)} bugs, the first:\n{bugs[0]}"
    assert not found, f"{len(found)} violations:\n" + "\n".join(found[:60])
    assert (audit["users"], audit["different"], statuses) == (USERS, 0, [0, 0])
    assert world.figures.kills.total() >= KILLS
    assert world.figures.accepted_after >= ACCEPTANCES
    assert world.figures.limited >= REFUSALS


def keep(place: Path, lines: list[str], has_failed: bool) -> None:
    """Print the figures, and keep them if asked to; of a run that failed, all that is on disk."""
    print("\n".join(lines))
    if report := os.environ.get("CHAOS_REPORT"):
        Path(report).write_text("\n".join(lines) + "\n")
        if has_failed:
            shutil.copytree(place, f"{report}.place", dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sock"))


def figures(run: Figures, evidence: Evidence) -> Iterator[str]:
    """What happened, to read."""
    reading = read(evidence)
    events: Counter[str] = Counter(event["event"] for event in evidence.events)
    outcomes = run.outcomes
    yield f"seed        {run.seed}, {run.seconds:.0f} s"
    yield f"kills       {run.kills.total()}: " + ", ".join(f"{what} {count}" for what, count in run.kills.most_common())
    yield f"stops       {run.stops} of the store"
    yield (
        f"messages    {outcomes['attempted']} attempted: {outcomes['taken']} accepted ({run.accepted_after} after the first kill), "
        f"{outcomes['refused']} refused ({run.limited} at the limit), "
        f"{outcomes['silent']} without a reply to the final dot, {outcomes['unsent']} cut off before"
    )
    unheard = sum(1 for id in reading.taken if (sent := reading.sent.get(reading.mark(id))) and sent.outcome == "silent")
    yield f"taken       {len(reading.taken)}, {unheard} of them without their client's knowing"
    extra = {what: count - 1 for what, count in reading.at_sink.items() if count > 1}
    reasons: Counter[str] = Counter()
    for event in evidence.events:
        if event["event"] in ("in_doubt", "killed_in_flight"):
            reasons.update(event["event"] for recipient in event["recipients"] if (reading.mark(event["id"]), recipient) in extra)
    yield f"copies      {sum(extra.values())} beyond one; records for them: {dict(reasons)}"
    yield f"doubts      {events['in_doubt']} in doubt, {events['killed_in_flight']} killed in flight"
    spooled = sum(1 for event in evidence.events if event["event"] == "taken" and event.get("spooled"))
    yield f"spooled     {spooled} messages; {events['deferred']} deferrals, {events['delivered']} deliveries from the spool"
    at_sink = sum(1 for copy in evidence.copies if not copy.mark)
    yield f"reports     {events['reported']} written, {at_sink} at the smarthost, {run.released} refused by it and released by a person"
    yield f"overdrafts  {events['overdraft']}; charges kept {events['charge_kept']}, at risk {events['charge_at_risk']}"
    yield f"drain       {run.drain:.1f} s"
