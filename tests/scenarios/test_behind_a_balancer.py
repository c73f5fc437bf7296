"""A relay behind a balancer: clients are who they are, whoever is silent is turned away, and a stop lets mail under way end."""

from __future__ import annotations

import asyncio
import signal
import smtplib
import socket
from pathlib import Path

from relay.loadkit.script import Script
from relay.loadkit.sink import Sink
from tests.running import Relay, User, running


class Proxied(smtplib.SMTP):
    """A client whose connections begin with a header, as they do when they come by way of a balancer."""

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        sock = socket.create_connection((host, port), timeout)
        sock.sendall(b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 587\r\n")
        return sock


def enter(relay: Relay, user: User) -> smtplib.SMTP:
    """A client that is logged in."""
    client = Proxied("127.0.0.1", relay.smtp, timeout=30)
    client.login(user.name, user.password)
    return client


async def test_clients_of_a_balancer_are_told_apart_and_a_stop_lets_their_mail_end(place: Path, sink: Sink) -> None:
    async with running(place / "relay", sink.port, is_started=False) as relay:
        relay.config.write_text(relay.config.read_text().replace("[smtp]\n", '[smtp]\nproxies = ["127.0.0.0/8"]\n'))
        await relay.start()
        user = await relay.add_user()
        with socket.create_connection(("127.0.0.1", relay.smtp), timeout=10) as rude:
            rude.sendall(b"EHLO client.example\r\n")
            told = await relay.await_event("proxy_refused")
            assert (told["client"], told["reason"]) == ("127.0.0.1", "no PROXY header")
        client, idle = [await asyncio.to_thread(enter, relay, user) for _ in range(2)]
        silent = socket.create_connection(("127.0.0.1", relay.smtp), timeout=10)
        sink.script = Script.parse(["dot stall=1"])
        sending = asyncio.create_task(asyncio.to_thread(client.sendmail, "app@example.com", ["to@example.net"], "Subject: x\r\n\r\nx\r\n"))
        await asyncio.sleep(0.4)
        assert relay.process is not None
        relay.process.send_signal(signal.SIGTERM)
        assert await sending == {}
        assert (await asyncio.to_thread(idle.getreply))[0] == 421
        assert silent.recv(100) == b""
        for one in (client, idle, silent):
            one.close()
        assert await relay.stop() == 0
        assert {line["client"] for line in relay.events("connected")} == {"192.0.2.7"}
        assert len(relay.events("taken")) == sink.intake.answered == 1
        assert not relay.events("bug", "worker_died")
