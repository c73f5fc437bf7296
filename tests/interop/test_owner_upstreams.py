"""An owner's own smarthosts, set by nodemailer's words: what is read back suits nodemailer, and real smarthosts take mail by it."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.interop.client import BODIES, Front, compose, running_front
from tests.interop.exim import running_exim_upstream
from tests.interop.opensmtpd import running_opensmtpd
from tests.interop.postfix import running_postfix_upstream
from tests.interop.programs import CLIENTS, as_it_is, send_as_told
from tests.interop.upstream import PASSWORD, USER, Upstream
from tests.running import Relay

pytestmark = pytest.mark.peer

Start = Callable[[Path], AbstractContextManager[Upstream]]
SMTPLIB = CLIENTS[0]


async def ask(relay: Relay, method: str, path: str, body: object = None, token: dict[str, Any] | None = None) -> Any:
    """Make a call of the Webitel dialect, and return what it answers."""
    headers = {"Content-Type": "application/json"} | ({"X-Access-Token": token["token"], "X-Key": token["key"]} if token else {})
    request = urllib.request.Request(
        f"http://127.0.0.1:{relay.api}{path}", json.dumps(body).encode() if body is not None else None, headers, method=method
    )

    def call() -> Any:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    return await asyncio.to_thread(call)


async def read_back(relay: Relay, domain: str, options: dict[str, Any]) -> dict[str, Any]:
    """Set the smarthost of a domain, and return what the dialect then says of it."""
    token = await ask(relay, "POST", "/login", {"username": relay.owner, "password": relay.token})
    settings = f"/api/v2/email/settings?domain={domain}"
    await ask(relay, "POST", settings, {"provider": "smtp", "from": f"app@{domain}", "options": options}, token)
    found: dict[str, Any] = (await ask(relay, "GET", settings, None, token))["options"]
    return found


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_nodemailer_sends_through_the_relay_by_the_options_that_it_reads_back(front: Front, tls: str) -> None:
    user, way = await front.relay.add_user(), front.ways[tls]
    given = {
        "host": "localhost", "port": way.port, "secure": way.is_implicit, "requireTLS": not way.is_implicit, "name": "client.example",
        "tls": {"rejectUnauthorized": True, "ca": way.authority.read_text()}, "auth": {"user": user.name, "pass": user.password},
    }  # fmt: skip
    options = await read_back(front.relay, f"{tls}.example", given)
    assert options == given
    mails = [compose(body) for body in BODIES.values()]
    for mail, outcome in zip(mails, await send_as_told(front, options, list(map(as_it_is, mails))), strict=True):
        assert outcome.failure == "", outcome.text
        await front.check_arrived(mail, user)
    await front.check_account(user, len(mails))


@pytest.mark.parametrize(
    "start", [running_postfix_upstream, running_exim_upstream, running_opensmtpd], ids=["postfix", "exim", "opensmtpd"]
)
async def test_an_owner_s_mail_goes_by_its_domain_to_its_own_smarthost(start: Start, place: Path) -> None:
    with start(place / "smarthost") as upstream:
        guard = f'[guard]\nallow_networks = ["127.0.0.1/32"]\nallow_ports = {list(upstream.ports.values())}\n'
        async with running_front(place, guard) as front:
            user = await front.relay.add_user()
            for security, port in upstream.ports.items():
                await read_back(front.relay, "example.com", {
                    "host": "127.0.0.1", "port": port, "secure": security == "tls", "requireTLS": security != "tls",
                    "tls": {"servername": "localhost", "ca": upstream.authority.read_text()},
                    "auth": {"user": USER, "pass": PASSWORD},
                })  # fmt: skip
                for body in BODIES.values():
                    mail = compose(body)
                    outcome = await SMTPLIB.send(front, front.ways["starttls"], user, mail)
                    assert outcome.failure == "", outcome.text
                    found = await asyncio.to_thread(upstream.await_copy, mail.mark)
                    assert found.rstrip(b"\n").endswith(mail.content.replace(b"\r\n", b"\n").rstrip(b"\n"))
                    assert b"by relay.example with ESMTPSA id " in found
            elsewhere = compose(BODIES["plain"], sender="app@elsewhere.example")
            assert (await SMTPLIB.send(front, front.ways["starttls"], user, elsewhere)).failure == ""
            [copy] = front.copies(elsewhere)
            assert copy.sender == elsewhere.sender and len(front.sink.messages) == 1
            await front.check_account(user, 2 * len(BODIES) + 1)
            assert not front.relay.events("spooled", "upstream_misconfigured")
