"""The certificate: what can be used, how a renewal takes its place, and what is told of it."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat, load_pem_private_key

from relay.journal import Journal
from relay.session.certificate import Certificate, CertificateUnusable, Watch, check_certificate
from tests.certificate import write_pair

DAY = 86400.0


class Log:
    """A journal and what it says."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.journal = Journal(self.fd, "test")

    def events(self, *names: str) -> list[dict[str, Any]]:
        lines = map(json.loads, self._file.read_text().splitlines())
        return [line for line in lines if not names or line["event"] in names]

    async def await_events(self, name: str, count: int) -> list[dict[str, Any]]:
        async with asyncio.timeout(10):
            while len(found := self.events(name)) < count:
                await asyncio.sleep(0.005)
        assert len(found) == count
        return found


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    yield (log := Log(tmp_path / "journal"))
    os.close(log.fd)


@asynccontextmanager
async def watching(
    certificate: Certificate, log: Log, is_herald: bool = True, interval: float = 0.02, clock: Callable[[], float] = time.time
) -> AsyncIterator[Watch]:
    """A watch that runs, and has told what it has to tell at its start."""
    watch = Watch(certificate, log.journal, "test", is_herald, interval, clock)
    task = asyncio.create_task(watch.run())
    await log.await_events("certificate_loaded", 1)
    yield watch
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def shown(context: ssl.SSLContext, trust: ssl.SSLContext) -> str:
    """The serial number that a client is shown by a context."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    server, client = context.wrap_bio(up, down, server_side=True), trust.wrap_bio(down, up, server_hostname="localhost")
    for side in (client, server) * 3:
        with suppress(ssl.SSLWantReadError):
            side.do_handshake()
    found = client.getpeercert()
    assert found is not None
    return str(found["serialNumber"]).lower().lstrip("0")


async def test_a_renewal_takes_the_place_of_the_old_and_what_has_begun_keeps_it(
    authority: trustme.CA, trust: ssl.SSLContext, tmp_path: Path, log: Log
) -> None:
    certificate = Certificate(*write_pair(authority, tmp_path))
    before = certificate.context()
    first = shown(before, trust)
    async with watching(certificate, log):
        write_pair(authority, tmp_path)
        loaded = await log.await_events("certificate_loaded", 2)
    assert certificate.context() is not before
    second = shown(certificate.context(), trust)
    assert shown(before, trust) == first != second
    assert [line["serial"] for line in loaded] == [first, second]
    assert loaded[1]["file"] == str(tmp_path / "certificate.pem")
    assert loaded[1]["not_after"].endswith("Z") and "organizationName" not in loaded[1]["subject"]
    assert not log.events("certificate_unusable", "certificate_expires", "certificate_expired")


async def test_a_pair_half_replaced_changes_nothing_is_told_of_once_and_used_when_it_is_whole(
    authority: trustme.CA, trust: ssl.SSLContext, tmp_path: Path, log: Log
) -> None:
    file, key = write_pair(authority, tmp_path)
    certificate = Certificate(file, key)
    before = certificate.context()
    other = authority.issue_cert("localhost")
    async with watching(certificate, log):
        file.write_bytes(other.cert_chain_pems[0].bytes())
        (told,) = await log.await_events("certificate_unusable", 1)
        await asyncio.sleep(0.2)
        assert len(log.events("certificate_unusable")) == 1
        assert certificate.context() is before
        assert told["alarm"] and str(key) in told["error"] and "\n" not in told["error"]
        key.unlink()
        await log.await_events("certificate_unusable", 2)
        key.write_bytes(other.private_key_pem.bytes())
        await log.await_events("certificate_loaded", 2)
    assert shown(certificate.context(), trust) == log.events("certificate_loaded")[1]["serial"]


async def test_a_signal_reads_the_files_again_at_once_and_says_what_came_of_it(authority: trustme.CA, tmp_path: Path, log: Log) -> None:
    certificate = Certificate(*write_pair(authority, tmp_path))
    async with watching(certificate, log, interval=60) as watch:
        watch.hurry()
        await log.await_events("certificate_loaded", 2)
        (tmp_path / "key.pem").write_text("not PEM")
        for count in (1, 2):
            watch.hurry()
            await log.await_events("certificate_unusable", count)
        write_pair(authority, tmp_path)
        watch.hurry()
        await log.await_events("certificate_loaded", 3)


async def test_a_link_that_is_moved_to_another_pair_is_a_renewal(authority: trustme.CA, tmp_path: Path, log: Log) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        write_pair(authority, tmp_path / name)
    (tmp_path / "now").symlink_to("old")
    certificate = Certificate(tmp_path / "now" / "certificate.pem", tmp_path / "now" / "key.pem")
    async with watching(certificate, log):
        (tmp_path / "next").symlink_to("new")
        (tmp_path / "next").rename(tmp_path / "now")
        await log.await_events("certificate_loaded", 2)


async def test_the_end_is_told_two_weeks_before_and_daily_and_then_as_past(authority: trustme.CA, tmp_path: Path, log: Log) -> None:
    ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=90)
    certificate = Certificate(*write_pair(authority, tmp_path, not_after=ends))
    now = ends.timestamp() - 14.5 * DAY
    async with watching(certificate, log, clock=lambda: now):
        await asyncio.sleep(0.1)
        assert not log.events("certificate_expires")
        now += DAY
        (told,) = await log.await_events("certificate_expires", 1)
        assert told["alarm"] and told["not_after"] == ends.strftime("%Y-%m-%dT%H:%M:%SZ")
        await asyncio.sleep(0.1)
        now += DAY + 1
        await log.await_events("certificate_expires", 2)
        now = ends.timestamp() + 1
        await log.await_events("certificate_expired", 1)
        now += DAY + 1
        await log.await_events("certificate_expired", 2)
        write_pair(authority, tmp_path, not_after=ends + datetime.timedelta(days=90))
        await log.await_events("certificate_loaded", 2)
        now += DAY + 1
        await asyncio.sleep(0.1)
        assert (len(log.events("certificate_expires")), len(log.events("certificate_expired"))) == (2, 2)


async def test_one_worker_of_a_node_tells_of_the_end_for_all(authority: trustme.CA, tmp_path: Path, log: Log) -> None:
    ends = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    certificate = Certificate(*write_pair(authority, tmp_path, not_after=ends))
    async with watching(certificate, log, is_herald=False):
        await asyncio.sleep(0.1)
        assert not log.events("certificate_expires", "certificate_expired")


@pytest.mark.parametrize(
    ("what", "named"),
    [
        ("another's key", "{file} and {key} cannot be used: "),
        ("no key", "{key}: No such file or directory"),
        ("a certificate for a key", "{key}: not a private key"),
        ("a key for a certificate", "{file}: not a certificate, as PEM"),
        ("nothing", "{file}: not a certificate, as PEM"),
        ("garbage", "{file}: not a certificate, as PEM"),
        ("half a certificate", "{file}: not a certificate, as PEM"),
        ("a garbage key", "{key}: not a private key"),
        ("an encrypted key", "{key}: the key has a passphrase"),
        ("a garbage encrypted key", "{key}: "),
    ],
)
def test_what_cannot_be_used_is_one_line_that_names_the_file_at_fault(what: str, named: str, authority: trustme.CA, tmp_path: Path) -> None:
    file, key = write_pair(authority, tmp_path)
    whole = file.read_bytes()
    match what:
        case "another's key":
            key.write_bytes(authority.issue_cert("localhost").private_key_pem.bytes())
        case "no key":
            key.unlink()
        case "a certificate for a key":
            key.write_bytes(whole)
        case "a key for a certificate":
            file.write_bytes(key.read_bytes())
        case "nothing":
            file.write_bytes(b"")
        case "garbage":
            file.write_bytes(bytes(range(256)))
        case "half a certificate":
            file.write_bytes(whole[: len(whole) // 2])
        case "a garbage key":
            key.write_text("not PEM")
        case "an encrypted key":
            private = load_pem_private_key(key.read_bytes(), None)
            key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")))
        case _:
            key.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n")
    for use in (check_certificate, Certificate):
        with pytest.raises(CertificateUnusable) as raised:
            use(file, key)
        assert str(raised.value).startswith(named.format(file=file, key=key)) and "\n" not in str(raised.value), raised.value


def test_a_certificate_and_its_key_may_be_one_file(authority: trustme.CA, trust: ssl.SSLContext, tmp_path: Path) -> None:
    leaf = authority.issue_cert("localhost")
    (file := tmp_path / "both.pem").write_bytes(leaf.private_key_and_cert_chain_pem.bytes())
    assert shown(Certificate(file, file).context(), trust) == Certificate(file, file).facts.serial


def test_nothing_older_than_tls_1_2_is_spoken_and_nothing_renegotiated(authority: trustme.CA, tmp_path: Path) -> None:
    context = Certificate(*write_pair(authority, tmp_path)).context()
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION and context.options & ssl.OP_NO_COMPRESSION
    for cipher in context.get_ciphers():
        assert "TLSv1.3" in cipher["protocol"] or cipher["name"].startswith(("ECDHE-", "DHE-")), cipher["name"]
