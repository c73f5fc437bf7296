"""The smarthost of the upstream benchmark: it takes everything, in a process of its own, and does as little about it as it can.

python -m tests.benchmarks.upstream_sink CERTIFICATE KEY; prints the ports of its listeners: plain, with CHUNKING, and with TLS from the
first octet. It ends with its input.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import sys
from collections.abc import Callable
from typing import cast

import uvloop

FEATURES = b"250-sink.example\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n"
_CHUNK = re.compile(rb"BDAT ([0-9]+) LAST")


class Taker(asyncio.Protocol):
    """One connection."""

    def __init__(self, features: bytes) -> None:
        self._features = features
        self._rest = b""
        self._skips = 0
        """Octets of a chunk that have yet to come."""
        self._is_content = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(b"220 sink.example ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        """Answer what has come, in one write."""
        answers: list[bytes] = []
        if self._is_content:
            # The content holds no lone dot, so that what ends with one is the end of it.
            self._rest = (self._rest + data)[-5:]
            if self._rest == b"\r\n.\r\n":
                self._is_content, self._rest = False, b""
                answers.append(b"250 2.0.0 Ok: queued\r\n")
        elif self._skips:
            self._skip(len(data), answers)
        else:
            self._read(self._rest + data, answers)
        if answers:
            self._transport.write(b"".join(answers))

    def _skip(self, octets: int, answers: list[bytes]) -> None:
        self._skips -= octets
        if not self._skips:
            answers.append(b"250 2.0.0 Ok: queued\r\n")

    def _read(self, data: bytes, answers: list[bytes]) -> None:
        start = 0
        while (end := data.find(b"\r\n", start)) >= 0:
            line = data[start:end]
            start = end + 2
            if found := _CHUNK.fullmatch(line):
                self._skips = int(found[1])
                self._skip(len(data) - start, answers)
                self._rest = b""
                return
            answers.append(self._answer(line))
        self._rest = data[start:]

    def _answer(self, line: bytes) -> bytes:
        match line[:4].upper():
            case b"EHLO":
                return self._features
            case b"DATA":
                self._is_content = True
                return b"354 End data with <CR><LF>.<CR><LF>\r\n"
            case b"QUIT":
                asyncio.get_running_loop().call_soon(self._transport.close)
                return b"221 2.0.0 Bye\r\n"
            case _:
                return b"250 2.1.0 Ok\r\n"


def taking(features: bytes) -> Callable[[], Taker]:
    """What makes connections that offer these."""
    return lambda: Taker(features)


async def serve(certificate: str, key: str) -> None:
    """Serve until there is no more input."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    loop = asyncio.get_running_loop()
    plain, chunking = taking(FEATURES + b"250 8BITMIME\r\n"), taking(FEATURES + b"250-8BITMIME\r\n250 CHUNKING\r\n")
    servers = [
        await loop.create_server(plain, "127.0.0.1", 0),
        await loop.create_server(chunking, "127.0.0.1", 0),
        await loop.create_server(plain, "127.0.0.1", 0, ssl=context),
    ]
    print(*(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


if __name__ == "__main__":
    uvloop.run(serve(*sys.argv[1:]))
