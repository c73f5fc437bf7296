"""Nobody smuggles mail through the relay into a Postfix, which is one that takes every LF for the end of a line."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.interop import smuggling
from tests.interop.false_ends import RECIPIENT, VICTIM, attempts_by_bdat, attempts_by_data
from tests.interop.postfix import Postfix, running_postfix
from tests.running import Relay, free_port, running

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.peer]

SPOOLED = "[retry]\nfirst_wait_seconds = 1\nlongest_wait_seconds = 1\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def before() -> AsyncIterator[tuple[Relay, Postfix]]:
    """A relay, and the smarthost behind it."""
    with tempfile.TemporaryDirectory(prefix="relay-") as folder, running_postfix(Path(folder) / "postfix") as smarthost:
        async with running(Path(folder) / "relay", smarthost.port) as relay:
            yield relay, smarthost


async def test_no_pretended_end_of_data_ends_a_message(before: tuple[Relay, Postfix]) -> None:
    await smuggling.smuggle(*before, attempts_by_data())


async def test_no_end_of_data_ends_a_message_within_a_chunk(before: tuple[Relay, Postfix]) -> None:
    await smuggling.smuggle(*before, attempts_by_bdat())


async def test_no_envelope_carries_a_command_within(before: tuple[Relay, Postfix]) -> None:
    await smuggling.smuggle_in_envelopes(*before)


async def test_no_login_carries_a_command_within(before: tuple[Relay, Postfix]) -> None:
    await smuggling.smuggle_in_logins(*before)


async def test_what_is_hidden_would_arrive_if_it_were_obeyed(before: tuple[Relay, Postfix]) -> None:
    await smuggling.send_openly(*before)


@pytest.mark.parametrize("end", [b"\n.\n", b"\n.\r\n", b"\r\n.\n"])
async def test_without_the_relay_it_is_fooled(before: tuple[Relay, Postfix], end: bytes) -> None:
    assert await smuggling.send_past_the_relay(before[1], end) == {RECIPIENT, VICTIM}


async def test_nothing_is_smuggled_out_of_the_spool(place: Path) -> None:
    port = free_port()
    async with running(place / "relay", port, SPOOLED) as relay:
        await smuggling.spool_and_smuggle(relay, lambda: running_postfix(place / "postfix", port))
