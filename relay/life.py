"""The life of a process: a signal ends it, and so does the end of a task that is to go on as long as it does.

Promise: nothing goes wrong unseen. What nobody caught, in a callback or in a task that nobody awaits, is in the mail log as what it is,
a bug; and a process that has lost a part of itself (it hears no more that accounts have changed, say) does not go on without: it ends as
if it were told to, and another is started in its place.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from relay.journal import Journal


class Life:
    """One process's; `stop` is set when it is to end."""

    def __init__(self, journal: Journal, name: str, log: Path | None = None) -> None:
        """Must be made in the loop; `name` stands in the mail log for the process, `log` is that where it is a file."""
        self.stop = asyncio.Event()
        self.on_reload: list[Callable[[], None]] = []
        """What is to be read anew as well as the log is opened anew."""
        self._log = log
        self._journal = journal
        self._name = name
        self._parts: set[asyncio.Task[None]] = set()
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_uncaught)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop.set)
        for number in (signal.SIGHUP, signal.SIGUSR1):
            loop.add_signal_handler(number, self._reload)

    def _on_uncaught(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError) and "transport" in context:
            return  # a connection broke, of which its protocol hears
        self._journal.bug(self._name, error or RuntimeError(context["message"]))

    def _reload(self) -> None:
        """SIGHUP, or SIGUSR1 of who is used to that: the mail log may have been moved away, and what else is read anew."""
        if self._log is not None:
            try:
                self._journal.reopen(self._log)
            except OSError as error:  # it goes on in the old one
                self._journal.alarm("journal_not_reopened", id=self._name, error=f"{self._log}: {error.strerror}")
        for read in self.on_reload:
            read()

    def carry(self, part: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a part that is to go on until `lay_down`."""
        task = asyncio.create_task(part())
        self._parts.add(task)
        task.add_done_callback(self._on_end)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._journal.bug(self._name, error)
        self.stop.set()

    async def lay_down(self) -> None:
        """End the parts that are carried."""
        for task in self._parts:
            task.cancel()
        if self._parts:
            await asyncio.wait(self._parts)
