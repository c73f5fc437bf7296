"""A worker is handed its settings as they are, and carries no library that only the shell, the API or a Cluster needs."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from relay.config.settings import Settings, Store, Upstream
from relay.session.ticket import Tickets
from relay.worker import Given, hand_over, receive

IMPORT = "import relay.cli.process, sys; print(*{name.partition('.')[0] for name in sys.modules})"
NOT_ITS = {"fastapi", "pydantic", "pydantic_settings", "redis", "rich", "starlette", "typer", "uvicorn"}


async def test_a_worker_imports_no_library_of_other_processes() -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", IMPORT, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    assert {"relay", "hiredis", "uvloop"} <= set(said.decode().split())
    assert not NOT_ITS & set(said.decode().split())


@pytest.mark.parametrize("tickets", [None, Tickets.fresh()])
def test_what_a_worker_is_handed_is_what_was_read_and_shows_no_secret(tickets: Tickets | None) -> None:
    settings = Settings(
        store=Store.model_validate({"url": "redis://:dAjUd39x@h", "server": Path("/opt/valkey-server")}),
        upstream=Upstream.model_validate(
            {"username": "app", "password": "hPe2mQ", "security": "tls", "alternates": [{"host": "b.example"}]}
        ),
    )
    given = receive(hand_over(Given(settings, 3, tickets)))
    assert given.number == 3 and (given.tickets is None) == (tickets is None)
    read = given.settings
    assert read.store.url.get_secret_value() == "redis://:dAjUd39x@h"
    assert read.upstream.password.get_secret_value() == "hPe2mQ"
    assert "dAjUd39x" not in repr(read) and "hPe2mQ" not in repr(read)
    assert (read.store.server, read.upstream.alternates[0].host) == (Path("/opt/valkey-server"), "b.example")
    assert [listen.port for listen in read.smtp.listen] == [listen.port for listen in settings.smtp.listen]
    assert set(vars(read)) == set(Settings.model_fields)
    assert read.smtp.processes == settings.smtp.processes  # what is computed, too
