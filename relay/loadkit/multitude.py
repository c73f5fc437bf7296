"""Many connections at a time: silent ones, and ones that all upload the same message at once.

Promise: the message exists once, however many connections upload it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from relay.loadkit.attempt import Attempt
from relay.loadkit.caller import Caller, Tls, dial
from relay.loadkit.message import Template

AT_ONCE = 50
"""Connections that are being made at a time: more would wait for the handshakes of the others."""
TIMEOUT = 120.0


async def enter(port: int, users: Sequence[tuple[str, str]], count: int, tls: Tls) -> list[Caller]:
    """Open connections and log in on each. Raises Unwelcome if one is not let in, when all the others are cut."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> Caller:
        async with gate:
            return await dial("127.0.0.1", port, *users[number % len(users)], tls, TIMEOUT)

    results = await asyncio.gather(*(one(number) for number in range(count)), return_exceptions=True)
    callers = [found for found in results if isinstance(found, Caller)]
    for found in results:
        if isinstance(found, BaseException):
            for caller in callers:
                caller.abort()
            raise found
    return callers


async def leave(callers: Iterable[Caller]) -> None:
    """Take leave on every one."""
    await asyncio.gather(*(caller.quit() for caller in callers))


async def upload(port: int, users: Sequence[tuple[str, str]], count: int, size: int) -> list[Attempt]:
    """Let every one of so many connections upload a message at the same time; returns what came of each."""
    callers = await enter(port, users, count, "none")
    load_id, recipients = "multitude-0", ("to@load.example",)
    wire = Template(size, len(load_id)).write(load_id, "load@load.example", recipients[0])
    attempts = [Attempt(load_id, users[number % len(users)][0], number, 1) for number in range(count)]
    try:
        sending = zip(callers, attempts, strict=True)
        await asyncio.gather(*(caller.send(attempt, "load@load.example", recipients, wire) for caller, attempt in sending))
        await leave(callers)
    except BaseException:
        for caller in callers:
            caller.abort()
        raise
    return attempts
