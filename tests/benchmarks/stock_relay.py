"""What stock parts make of the same job: aiosmtpd's controller, redis-py, aiosmtplib. Started by `relay bench --beside`.

python -m tests.benchmarks.stock_relay: listens on BENCH_PORT, forwards to BENCH_SINK, lets in BENCH_USER with BENCH_PASSWORD, offers
STARTTLS with BENCH_CERTIFICATE, in BENCH_WORKERS processes that share the port (SO_REUSEPORT), each with uvloop. For every message: a
quota script in a store of its own that writes to disk before it answers, as ours does; `sendmail` on one of 20 open sessions; a line of
log. It keeps none of the relay's promises: it counts in a fixed hour, before the smarthost is asked, and gives nothing back.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, TextIO

import aiosmtplib
import redis.asyncio
import uvloop
from aiosmtpd.controller import UnthreadedController
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from relay.store.embedded import Embedded
from relay.worker import die_with

SESSIONS = 20
LIMIT = 10**8
QUOTA = """
local hour = redis.call('INCRBY', KEYS[1], ARGV[1])
local total = redis.call('INCRBY', KEYS[2], ARGV[1])
if hour == tonumber(ARGV[1]) then redis.call('EXPIRE', KEYS[1], 3600) end
return hour <= tonumber(ARGV[2]) and total <= tonumber(ARGV[2])
"""


class Handler:
    """Takes a message, counts it, passes it on."""

    def __init__(self, store: str, log: TextIO) -> None:
        self._redis = redis.asyncio.Redis(connection_pool=redis.asyncio.BlockingConnectionPool.from_url(store, max_connections=16))
        self._quota = self._redis.register_script(QUOTA)
        self._log = log
        self._idle: asyncio.Queue[aiosmtplib.SMTP] = asyncio.Queue()
        self._made = 0

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """One message, whole."""
        user = os.environ["BENCH_USER"]
        keys = [f"{user}:{int(time.time()) // 3600}", f"{user}:total"]
        if not await self._quota(keys, [1, LIMIT]):
            return "451 4.7.0 Sending limit reached"
        client = await self._client()
        try:
            _, said = await client.sendmail(envelope.mail_from or "", envelope.rcpt_tos, envelope.content or b"")
        except aiosmtplib.SMTPException as error:
            self._made -= 1
            return f"451 4.4.1 {type(error).__name__}"
        self._idle.put_nowait(client)
        line = {"ts": time.time(), "event": "taken", "user": user, "from": envelope.mail_from, "to": envelope.rcpt_tos, "said": said}
        self._log.write(json.dumps(line) + "\n")
        self._log.flush()
        return f"250 2.0.0 {said}"

    async def _client(self) -> aiosmtplib.SMTP:
        """A session that nobody uses."""
        if self._idle.empty() and self._made < SESSIONS:
            self._made += 1
            client = aiosmtplib.SMTP(hostname="127.0.0.1", port=int(os.environ["BENCH_SINK"]), start_tls=False)
            await client.connect()
            return client
        return await self._idle.get()


def authenticate(server: SMTP, session: Session, envelope: Envelope, mechanism: str, claim: LoginPassword) -> AuthResult:
    """Let in the one user there is."""
    known = (os.environ["BENCH_USER"].encode(), os.environ["BENCH_PASSWORD"].encode())
    return AuthResult(success=(claim.login, claim.password) == known, handled=False)


class Shared(UnthreadedController):
    """aiosmtpd's controller on a port that processes share."""

    async def listen(self) -> None:
        """Listen."""
        await self.loop.create_server(self._factory_invoker, self.hostname, self.port, reuse_port=True, backlog=1024)


async def work(store: str, log: TextIO) -> None:
    """Be one of the processes."""
    logging.getLogger("mail.log").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")  # it warns of each connection that may log in without TLS
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(os.environ["BENCH_CERTIFICATE"])
    options: dict[str, Any] = {
        "authenticator": authenticate, "auth_required": True, "auth_require_tls": False, "tls_context": context, "enable_SMTPUTF8": True,
        "data_size_limit": 26_214_400,
    }  # fmt: skip
    port = int(os.environ["BENCH_PORT"])
    controller = Shared(Handler(store, log), "127.0.0.1", port, loop=asyncio.get_running_loop(), server_hostname="stock.example", **options)
    await controller.listen()
    await asyncio.Event().wait()


async def supervise(folder: Path) -> None:
    """Start the store and the processes, and end them when told to."""
    stop = asyncio.Event()
    for told in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(told, stop.set)
    embedded = Embedded(folder, None, "256mb", lambda name, text: None)
    url = await embedded.start()
    workers: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(int(os.environ["BENCH_WORKERS"])):
            command = [sys.executable, "-m", "tests.benchmarks.stock_relay", url, str(folder / f"{number}.log")]
            workers.append(subprocess.Popen(command, preexec_fn=die_with(os.getpid())))
        await stop.wait()
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait()
        await embedded.stop()


def main() -> None:
    """Run."""
    if len(sys.argv) == 3:
        with Path(sys.argv[2]).open("a", encoding="utf-8") as log:
            uvloop.run(work(sys.argv[1], log))
    with tempfile.TemporaryDirectory(prefix="stock-relay-") as folder:
        asyncio.run(supervise(Path(folder)))


if __name__ == "__main__":
    main()
