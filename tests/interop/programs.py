"""The client programs: how each is told to send a message, and what each calls the ways in which that may fail."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import smtplib
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiosmtplib

from tests.interop.client import HELO, Front, Mail, Outcome, Way
from tests.peer import need
from tests.running import User
from tests.surroundings import missing

Send = Callable[[Front, Way, User, Mail], Awaitable[Outcome]]

PATIENCE = 60
"""Seconds that a program may take."""


@dataclass(frozen=True, slots=True)
class Client:
    """A program and the words it has for its failures."""

    name: str
    send: Send
    login_refused: str
    deferred: str
    """DATA answered with 451."""
    refused: str
    """DATA answered with 550."""
    distrusts: str
    has_smtputf8: bool = True
    is_peer: bool = True
    """Whether it has to be installed."""


async def run(front: Front, words: Sequence[str | Path], stdin: bytes = b"") -> tuple[int, str, str]:
    """Run a program away from the settings of whoever runs the tests: its exit status and what it said."""
    environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(front.folder), "LANG": "C.UTF-8"}
    process = await asyncio.create_subprocess_exec(
        *words, env=environment, cwd=front.folder,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate(stdin)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode(errors="replace"), err.decode(errors="replace")


def _judge(status: int, out: str, err: str) -> Outcome:
    return Outcome(str(status) if status else "", out + err)


def _options(mail: Mail) -> list[str]:
    return ["BODY=8BITMIME", *(["SMTPUTF8"] if mail.is_international else [])]


# -- in Python -----------------------------------------------------------------------------------------------------------------


async def _smtplib(front: Front, way: Way, user: User, mail: Mail) -> Outcome:
    return await asyncio.to_thread(_smtplib_in_thread, way, user, mail)


def _smtplib_in_thread(way: Way, user: User, mail: Mail) -> Outcome:
    try:
        if way.is_implicit:
            client: smtplib.SMTP = smtplib.SMTP_SSL("localhost", way.port, HELO, timeout=PATIENCE, context=way.trust)
        else:
            client = smtplib.SMTP("localhost", way.port, HELO, timeout=PATIENCE)
        with client:
            if not way.is_implicit:
                client.starttls(context=way.trust)
            client.ehlo()
            client.user, client.password = user.name, user.password
            if mail.is_international:
                client.command_encoding = "utf-8"  # what send_message does for such addresses
            client.auth(way.mechanism, {"PLAIN": client.auth_plain, "LOGIN": client.auth_login}[way.mechanism])
            refused = client.sendmail(mail.sender, mail.recipients, mail.content, _options(mail))
    except (smtplib.SMTPException, ssl.SSLError) as error:
        return _excuse(error, getattr(error, "smtp_code", ""))
    return Outcome("", str(refused))


async def _aiosmtplib(front: Front, way: Way, user: User, mail: Mail) -> Outcome:
    client = aiosmtplib.SMTP(
        hostname="localhost", port=way.port, local_hostname=HELO, timeout=PATIENCE, use_tls=way.is_implicit,
        start_tls=not way.is_implicit, tls_context=way.trust,
    )  # fmt: skip
    try:
        async with client:
            await client.ehlo()
            log_in = {"PLAIN": client.auth_plain, "LOGIN": client.auth_login}[way.mechanism]
            await log_in(user.name, user.password)
            refused, said = await client.sendmail(mail.sender, mail.recipients, mail.content, mail_options=_options(mail))
    except (aiosmtplib.SMTPException, ssl.SSLError) as error:
        return _excuse(error, getattr(error, "code", ""))
    return Outcome("", f"{refused} {said}")


def _excuse(error: Exception, code: object) -> Outcome:
    if isinstance(error.__cause__, ssl.SSLError):  # what aiosmtplib says of TLS depends on when it came to it
        error = error.__cause__
    return Outcome(f"{type(error).__name__} {code}".strip(), str(error))


# -- at the shell --------------------------------------------------------------------------------------------------------------


async def _swaks(front: Front, way: Way, user: User, mail: Mail) -> Outcome:
    swaks = need("swaks")
    file = front.folder / f"{mail.mark}.txt"
    # Lines as a file here has them; and the closing dot, which it takes for the end: without it another line end would be put behind.
    file.write_bytes(mail.content.replace(b"\r\n", b"\n") + b".\n")
    status, out, err = await run(front, [
        swaks, "--server", "localhost", "--port", str(way.port), "--tls-on-connect" if way.is_implicit else "--tls", "--helo", HELO,
        "--tls-verify", "--tls-ca-path", way.authority, "--auth", way.mechanism, "--auth-user", user.name,
        "--auth-password", user.password, "--from", mail.sender, "--to", ",".join(mail.recipients), "--data", f"@{file}",
        "--no-strip-from", "--suppress-data", "--pipeline",
    ])  # fmt: skip
    if "Net::SSLeay" in err:
        missing("Net::SSLeay is not installed (Debian: libnet-ssleay-perl)")
    return _judge(status, out, err)


async def _curl(front: Front, way: Way, user: User, mail: Mail) -> Outcome:
    return await send_with_curl(front, way, user, mail, mail.content)


async def send_with_curl(front: Front, way: Way, user: User, mail: Mail, octets: bytes, *more: str) -> Outcome:
    """Let curl send a file of these octets, which need not be those of the message, with more options than the usual ones."""
    curl = need("curl")
    file = front.folder / f"{mail.mark}.eml"
    file.write_bytes(octets)
    url = f"{'smtps' if way.is_implicit else 'smtp'}://localhost:{way.port}/{HELO}"
    return _judge(*await run(front, [
        curl, *more, "--silent", "--show-error", "--write-out", "%{response_code}", "--url", url, "--ssl-reqd", "--cacert", way.authority,
        "--user", f"{user.name}:{user.password}", "--login-options", f"AUTH={way.mechanism}", "--mail-from", mail.sender,
        *(word for recipient in mail.recipients for word in ("--mail-rcpt", recipient)), "--upload-file", file,
    ]))  # fmt: skip


async def _msmtp(front: Front, way: Way, user: User, mail: Mail) -> Outcome:
    msmtp = need("msmtp")
    settings = front.folder / f"{mail.mark}.msmtprc"
    settings.touch(0o600)  # it takes no other
    settings.write_text(
        f"account default\nhost localhost\nport {way.port}\ndomain {HELO}\nfrom {mail.sender}\nauth {way.mechanism.lower()}\n"
        f"user {user.name}\npassword {user.password}\ntls on\ntls_starttls {'off' if way.is_implicit else 'on'}\n"
        f"tls_trust_file {way.authority}\n"
    )
    return _judge(*await run(front, [msmtp, "--file", settings, "--", *mail.recipients], mail.content.replace(b"\r\n", b"\n")))


# -- nodemailer ----------------------------------------------------------------------------------------------------------------


async def _nodemailer(front: Front, way: Way, user: User, mail: Mail) -> Outcome:
    [outcome] = await send_with_nodemailer(front, way, user, [as_it_is(mail)])
    return outcome


def as_it_is(mail: Mail) -> dict[str, Any]:
    """What to tell nodemailer for a message that is composed already."""
    envelope = {"from": mail.sender, "to": mail.recipients, "use8BitMime": True}
    return {"envelope": envelope, "raw": base64.b64encode(mail.content).decode()}


async def send_with_nodemailer(front: Front, way: Way, user: User, mails: Sequence[dict[str, Any]], **options: Any) -> list[Outcome]:
    """Let nodemailer send these, by a transport with these options beside the usual ones."""
    options |= {
        "host": "127.0.0.1", "port": way.port, "secure": way.is_implicit, "requireTLS": not way.is_implicit, "name": HELO,
        "tls": {"servername": "localhost", "ca": way.authority.read_text()}, "authMethod": way.mechanism,
        "auth": {"user": user.name, "pass": user.password},
    }  # fmt: skip
    return await send_as_told(front, options, mails)


async def send_as_told(front: Front, options: dict[str, Any], mails: Sequence[dict[str, Any]]) -> list[Outcome]:
    """Let nodemailer send these, by a transport with these very options."""
    node, package = need("node"), os.environ.get("NODEMAILER", "")
    if not package:
        missing("NODEMAILER does not name a folder that has nodemailer")
    script = Path(__file__).with_name("nodemailer.cjs")
    status, out, err = await run(front, [node, script, package], json.dumps({"options": options, "mails": mails}).encode())
    assert status == 0, err
    return [Outcome(**line) for line in json.loads(out)]


_PYTHON = ("SMTPAuthenticationError 535", "SMTPDataError 451", "SMTPDataError 550", "SSLCertVerificationError")

CLIENTS = (
    Client("smtplib", _smtplib, *_PYTHON, is_peer=False),
    Client("aiosmtplib", _aiosmtplib, *_PYTHON, is_peer=False),
    Client("swaks", _swaks, "28", "25", "25", "29", has_smtputf8=False),
    Client("curl", _curl, "67", "55", "55", "60"),
    Client("msmtp", _msmtp, "77", "69", "65", "69", has_smtputf8=False),
    Client("nodemailer", _nodemailer, "EAUTH 535", "EENVELOPE 451", "EENVELOPE 550", "ESOCKET"),
)
