"""The certificate is renewed while mail comes in: no connection is dropped, and who comes next is shown the new one."""

from __future__ import annotations

import asyncio
import os
import signal
import smtplib
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme

from relay.loadkit.sink import Sink
from tests.certificate import trusting, write_pair
from tests.running import Relay, User, free_port, running

WORKERS = 2


@dataclass(slots=True)
class Place:
    """A relay with all kinds of doors."""

    relay: Relay
    authority: trustme.CA
    trust: ssl.SSLContext
    folder: Path
    starttls: int
    implicit: int

    def renew(self) -> None:
        """Put a new certificate in the place of the old."""
        write_pair(self.authority, self.folder)

    def hang_up(self) -> None:
        """Send SIGHUP to the relay."""
        assert self.relay.process is not None
        self.relay.process.send_signal(signal.SIGHUP)

    def enter(self, port: int, user: User) -> smtplib.SMTP:
        """A client with TLS that is logged in."""
        client: smtplib.SMTP
        if port == self.implicit:
            client = smtplib.SMTP_SSL("localhost", port, timeout=30, context=self.trust)
        else:
            client = smtplib.SMTP("localhost", port, timeout=30)
            client.starttls(context=self.trust)
        client.login(user.name, user.password)
        return client

    def shown(self, port: int, user: User) -> str:
        """The serial number that a new client is shown."""
        with self.enter(port, user) as client:
            return serial(client)

    async def loaded(self, count: int) -> str:
        """Wait until every worker has loaded so many; returns the serial number of the last."""
        return str((await self.relay.await_event("certificate_loaded", timeout=30, after=count * WORKERS - 1))["serial"])


def serial(client: smtplib.SMTP) -> str:
    """The serial number that a client was shown."""
    assert isinstance(client.sock, ssl.SSLSocket)
    found = client.sock.getpeercert()
    assert found is not None
    return str(found["serialNumber"]).lower().lstrip("0")


@asynccontextmanager
async def secured(folder: Path, upstream: int) -> AsyncIterator[Place]:
    """A relay whose certificate is in `folder`."""
    authority = trustme.CA()
    file, key = write_pair(authority, folder)
    starttls, implicit = free_port(), free_port()
    extra = (
        f'[[smtp.listen]]\nport = {starttls}\ntls = "starttls"\n[[smtp.listen]]\nport = {implicit}\ntls = "implicit"\n'
        f'[smtp.tls]\ncertificate = "{file}"\nkey = "{key}"\n'
    )
    async with running(folder / "relay", upstream, extra, WORKERS) as relay:
        yield Place(relay, authority, trusting(authority), folder, starttls, implicit)


def send(client: smtplib.SMTP) -> None:
    """One message, which must be taken."""
    client.sendmail("app@example.com", ["to@example.net"], "Subject: x\r\n\r\nHello\r\n")


async def test_open_connections_go_on_and_new_ones_are_shown_the_new_certificate(place: Path, sink: Sink) -> None:
    async with secured(place, sink.port) as found:
        user = await found.relay.add_user()
        first = await found.loaded(1)
        open_ones = [await asyncio.to_thread(found.enter, port, user) for port in (found.starttls, found.implicit) for _ in range(4)]
        processes = found.relay.workers()
        found.renew()
        found.hang_up()
        second = await found.loaded(2)
        assert second != first
        for port in (found.starttls, found.implicit):
            assert {await asyncio.to_thread(found.shown, port, user) for _ in range(6)} == {second}
        for client in open_ones:
            assert serial(client) == first
            await asyncio.to_thread(send, client)
            client.quit()
        assert found.relay.workers() == processes
        assert sink.intake.answered == len(open_ones)
        assert not found.relay.events("worker_died", "bug", "certificate_unusable")


async def test_a_renewal_is_seen_without_a_signal(place: Path, sink: Sink) -> None:
    async with secured(place, sink.port) as found:
        user = await found.relay.add_user()
        await found.loaded(1)
        found.renew()
        second = await found.loaded(2)
        assert await asyncio.to_thread(found.shown, found.implicit, user) == second


async def test_renewals_under_load_cost_no_message_and_no_connection(place: Path, sink: Sink) -> None:
    async with secured(place, sink.port) as found:
        user = await found.relay.add_user(hourly=100_000)
        is_over = False

        def stay(port: int) -> int:
            with found.enter(port, user) as client:
                count = 0
                while not is_over:
                    send(client)
                    count += 1
            return count

        def come_and_go(port: int) -> int:
            count = 0
            while not is_over:
                with found.enter(port, user) as client:
                    send(client)
                count += 1
            return count

        ports = (found.starttls, found.implicit)
        tasks = [asyncio.create_task(asyncio.to_thread(work, port)) for work in (stay, come_and_go) for port in ports]
        for renewal in range(8):
            found.renew()
            found.hang_up()
            await found.loaded(renewal + 2)
        is_over = True
        counts = await asyncio.gather(*tasks)
        assert all(counts)
        assert sink.intake.answered == sum(counts) == len(found.relay.events("taken"))
        assert not found.relay.events("worker_died", "bug", "certificate_unusable")
        assert (await found.relay.usage(user))["sent_in_window"] == sum(counts)


async def test_half_a_renewal_changes_nothing_until_its_other_half_comes(place: Path, sink: Sink) -> None:
    async with secured(place, sink.port) as found:
        user = await found.relay.add_user()
        first = await found.loaded(1)
        fresh = found.authority.issue_cert("localhost")
        (place / "certificate.pem").write_bytes(fresh.cert_chain_pems[0].bytes())
        found.hang_up()
        told = await found.relay.await_event("certificate_unusable", after=WORKERS - 1)
        assert told["alarm"] and str(place / "certificate.pem") in told["error"]
        assert await asyncio.to_thread(found.shown, found.starttls, user) == first
        (place / "key.pem").write_bytes(fresh.private_key_pem.bytes())
        found.hang_up()
        second = await found.loaded(2)
        assert await asyncio.to_thread(found.shown, found.starttls, user) == second != first


async def test_a_signal_to_a_relay_without_a_certificate_ends_no_process(place: Path, sink: Sink) -> None:
    async with running(place / "relay", sink.port) as relay:
        processes = relay.workers()
        assert relay.process is not None
        for pid in (relay.process.pid, *processes.values()):
            os.kill(pid, signal.SIGHUP)
        await asyncio.sleep(0.5)
        user = await relay.add_user()
        assert (await asyncio.to_thread(relay.send, user))[0].startswith("250 ")
        assert relay.workers() == processes and not relay.events("worker_died")


async def test_a_session_is_resumed_by_whichever_worker_is_met(place: Path, sink: Sink) -> None:
    async with secured(place, sink.port) as found:
        await found.relay.add_user()
        resumed = await asyncio.to_thread(_resumptions, found, 30)
        assert resumed == 30
        met = {line["id"][:8] for line in found.relay.events("connected")}
        assert len(met) == WORKERS


def _resumptions(found: Place, count: int) -> int:
    session, resumed = None, 0
    for _ in range(count + 1):
        sock = socket.create_connection(("localhost", found.implicit), timeout=30)
        with found.trust.wrap_socket(sock, server_hostname="localhost", session=session) as wire:
            assert wire.recv(4096).startswith(b"220 ")
            session = wire.session
            resumed += bool(wire.session_reused)
            wire.sendall(b"QUIT\r\n")
            wire.recv(4096)
    return resumed
