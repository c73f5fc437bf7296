"""What the oracle makes of real relays that lose processes, answers and clients: nothing wrong; and of a message that nobody counted.

A process killed between the smarthost's 250 and its own record is the only right way to a delivery that is in no ledger. It must never be
called a fault, and one without such a cause must be.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from relay.loadkit.attempt import Attempt
from relay.loadkit.evidence import Evidence
from relay.loadkit.generator import Load
from relay.loadkit.history import read_journals
from relay.loadkit.oracle import judge
from relay.loadkit.script import Script
from relay.loadkit.sink import Sink
from relay.loadkit.verdict import Limits, Rules, Unit, Verdict
from tests.running import Relay, User, running

LIMITS = Limits(100_000, 1_000_000)
STALLS = ["dot p=0.7 stall=0.2", "data p=0.2 stall=0.1"]
"""So that whatever is killed has messages on their way."""
DROPS = ["dot p=0.1 drop=after", "dot p=0.1 drop", "dot p=0.05 garbage", "data p=0.05 drop", "dot p=0.3 stall=0.4"]
MIXED = [
    'rcpt p=0.2 reply="550 5.1.1 no such user"', 'rcpt p=0.1 reply="450 4.2.0 busy"',
    "dot p=0.1 drop=after", 'dot p=0.05 reply="451 4.3.0 no"',
]  # fmt: skip


def _load(relay: Relay, user: User, seconds: float, timeout: float = 30.0, recipients: int = 1) -> Load:
    return Load(
        "127.0.0.1", relay.smtp, [(user.name, user.password)], 20, seconds=seconds, size=300, recipients=recipients, timeout=timeout,
        patience=1.5, rate=150,
    )  # fmt: skip


async def _begin(relay: Relay, seconds: float) -> tuple[User, asyncio.Task[list[Attempt]]]:
    """A user, and a load of it that has begun."""
    user = await relay.add_user(LIMITS.hourly or 0, LIMITS.total or 0)
    return user, asyncio.create_task(_load(relay, user, seconds).run())


async def _judge(
    relay: Relay, user: User, attempts: Sequence[Attempt], sink: Sink, unit: Unit = "messages", ledger: bool = True
) -> Verdict:
    received = tuple(sink.messages)
    await asyncio.sleep(2)  # what the sink has just answered is counted by then
    units = {user.name: (await relay.usage(user))["sent_total"]} if ledger else None
    history = await asyncio.to_thread(read_journals, [relay.journal])
    return judge(Evidence(attempts, history, received, {user.name: LIMITS}, ledger=units), Rules(unit=unit))


def _told(verdict: Verdict) -> str:
    return "\n".join(verdict.lines())


async def test_workers_that_are_killed_amid_their_messages_are_no_fault(place: Path, sink: Sink) -> None:
    sink.script = Script.parse(STALLS)
    async with running(place / "relay", sink.port, workers=2) as relay:
        user, sending = await _begin(relay, 5)
        for _ in range(5):
            await asyncio.sleep(0.8)
            for name, pid in relay.workers().items():
                if name.startswith("smtp"):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        attempts = await sending
        verdict = await _judge(relay, user, attempts, sink)
    assert any(attempt.is_unanswered for attempt in attempts)
    assert verdict.holds, _told(verdict)


async def test_a_relay_that_is_killed_as_a_whole_is_no_fault(place: Path, sink: Sink) -> None:
    sink.script = Script.parse(STALLS)
    async with running(place / "relay", sink.port, workers=2) as relay:
        user, sending = await _begin(relay, 4)
        await asyncio.sleep(2)
        assert relay.process is not None
        for pid in (relay.process.pid, *relay.workers().values()):  # one after the other, and nobody is left to write of it
            os.kill(pid, signal.SIGKILL)
        attempts = await sending
        verdict = await _judge(relay, user, attempts, sink, ledger=False)
    assert any(attempt.is_unanswered for attempt in attempts)
    assert verdict.holds, _told(verdict)


@pytest.mark.parametrize("mode", ["spool", "refuse"])
@pytest.mark.parametrize("timeout", [0.2, 30.0])
async def test_lost_answers_and_impatient_clients_are_no_fault(place: Path, sink: Sink, mode: str, timeout: float) -> None:
    sink.script = Script.parse(DROPS)
    async with running(place / "relay", sink.port, workers=1, is_started=False) as relay:
        relay.config.write_text(relay.config.read_text().replace("[upstream]\n", f'[upstream]\nwhen_unavailable = "{mode}"\n'))
        await relay.start()
        await relay.add_owner()
        user = await relay.add_user(LIMITS.hourly or 0, LIMITS.total or 0)
        attempts = await _load(relay, user, 4, timeout).run()
        verdict = await _judge(relay, user, attempts, sink)
    assert any(attempt.is_unanswered for attempt in attempts) == (timeout < 1)
    assert verdict.holds, _told(verdict)
    assert "never counted" not in _told(verdict)


async def test_recipients_who_fare_differently_are_charged_for_whom_they_reach(place: Path, sink: Sink) -> None:
    sink.script = Script.parse(MIXED)
    async with running(place / "relay", sink.port, "[quota]\nunit = 'recipients'\nrejected_minimum = 100000\n", workers=1) as relay:
        user = await relay.add_user(LIMITS.hourly or 0, LIMITS.total or 0)
        attempts = await _load(relay, user, 3, recipients=4).run()
        verdict = await _judge(relay, user, attempts, sink, "recipients")
    assert {attempt.units for attempt in attempts if attempt.is_taken} == {4}
    assert "miscounted" not in _told(verdict)
    assert "taken = sink" not in verdict.broken, _told(verdict)


async def test_what_reaches_the_sink_past_the_ledger_is_found(place: Path, sink: Sink) -> None:
    async with running(place / "relay", sink.port, workers=1) as relay:
        user = await relay.add_user(LIMITS.hourly or 0, LIMITS.total or 0)
        attempts = await _load(relay, user, 1).run()
        sink.script = Script.parse(["dot stall=0.5"])
        past = await Load("127.0.0.1", sink.port, connections=1, messages=5, size=300, timeout=0.2).run()
        for attempt in past:
            attempt.user = user.name
        sink.script = Script()
        await asyncio.sleep(1.2)
        attempts = [*attempts, *past, *await _load(relay, user, 1).run()]
        verdict = await _judge(relay, user, attempts, sink)
    assert verdict.broken == {"taken = sink"}, _told(verdict)
    assert "5 reached the sink without a reply to their final dot, 5 of them in no record" in _told(verdict)
