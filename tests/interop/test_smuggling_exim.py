"""Nobody smuggles mail through the relay into an Exim."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.interop import smuggling
from tests.interop.exim import Exim, running_exim
from tests.interop.false_ends import RECIPIENT, TRUE_END, VICTIM, attempts_by_bdat, attempts_by_data
from tests.running import Relay, free_port, running

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.peer]

SPOOLED = "[retry]\nfirst_wait_seconds = 1\nlongest_wait_seconds = 1\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def before() -> AsyncIterator[tuple[Relay, Exim]]:
    """A relay, and the smarthost behind it."""
    with tempfile.TemporaryDirectory(prefix="relay-") as folder, running_exim(Path(folder) / "exim") as smarthost:
        async with running(Path(folder) / "relay", smarthost.port) as relay:
            yield relay, smarthost


async def test_no_pretended_end_of_data_ends_a_message(before: tuple[Relay, Exim]) -> None:
    await smuggling.smuggle(*before, attempts_by_data())


async def test_no_end_of_data_ends_a_message_within_a_chunk(before: tuple[Relay, Exim]) -> None:
    await smuggling.smuggle(*before, attempts_by_bdat())


async def test_no_envelope_carries_a_command_within(before: tuple[Relay, Exim]) -> None:
    await smuggling.smuggle_in_envelopes(*before)


async def test_no_login_carries_a_command_within(before: tuple[Relay, Exim]) -> None:
    await smuggling.smuggle_in_logins(*before)


async def test_what_is_hidden_would_arrive_if_it_were_obeyed(before: tuple[Relay, Exim]) -> None:
    await smuggling.send_openly(*before)


async def test_without_the_relay_what_is_hidden_is_obeyed(before: tuple[Relay, Exim]) -> None:
    assert await smuggling.send_past_the_relay(before[1], TRUE_END) == {RECIPIENT, VICTIM}


async def test_nothing_is_smuggled_out_of_the_spool(place: Path) -> None:
    port = free_port()
    async with running(place / "relay", port, SPOOLED) as relay:
        await smuggling.spool_and_smuggle(relay, lambda: running_exim(place / "exim", port))
