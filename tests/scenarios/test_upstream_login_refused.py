"""The smarthost refuses the relay's login: an operator's matter, told by an alarm; mail waits in the spool, and no client hears of it."""

from __future__ import annotations

import ssl
from dataclasses import replace

import pytest
import trustme

from tests.smarthost_faults import World, world_of_module

pytestmark = pytest.mark.asyncio(loop_scope="module")


def certificate() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context


world = world_of_module(
    sink={"tls": "starttls", "certificate": certificate(), "credentials": {"relay": "right"}},
    upstream={"security": "starttls", "verify": False, "username": "relay", "password": "wrong", "forward_deadline_seconds": 3},
    store={"timeout_seconds": 1},
)


async def test_mail_waits_until_the_login_is_right_and_then_goes_out_once(world: World) -> None:
    heard = await world.send()
    assert heard.reply == f"250 2.0.0 {heard.id} Queued"
    [alarm] = world.told(heard.id, "upstream_misconfigured")
    assert alarm["alarm"]
    assert "login refused: 535" in alarm["cause"]
    assert "wrong" not in world.relay.journal.read_text()
    world.sink.manners = replace(world.sink.manners, credentials={"relay": "wrong"})
    await world.account()
    assert world.count(heard.mark) == 1


@pytest.mark.parametrize("reply", ["530 5.7.0 authentication required", "503 5.5.1 bad sequence"])
async def test_a_smarthost_that_wants_another_login_amid_a_session_defers_the_message(world: World, reply: str) -> None:
    world.sink.manners = replace(world.sink.manners, credentials={"relay": "wrong"})
    world.script(f'mail first=1 reply="{reply}"')
    heard = await world.send()
    assert heard.reply == f"250 2.0.0 {heard.id} Queued"
    assert world.told(heard.id, "upstream_misconfigured")
    await world.account()
    assert world.count(heard.mark) == 1
