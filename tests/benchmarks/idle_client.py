"""Opens TLS connections to a relay, logs in on each, and keeps them: python -m tests.benchmarks.idle_client PORT MODE COUNT CA PLAIN

MODE is starttls or implicit, CA a file, PLAIN the initial response of AUTH PLAIN. Says `open` once all are, and ends with its input.
"""

from __future__ import annotations

import socket
import ssl
import sys


def talk(sock: socket.socket, line: bytes, code: bytes) -> None:
    """Send a line if there is one, and read its reply, which must begin so."""
    if line:
        sock.sendall(line + b"\r\n")
    reply = sock.recv(4096)
    while reply and (not reply.endswith(b"\r\n") or reply.split(b"\r\n")[-2][3:4] == b"-"):
        reply += sock.recv(4096)
    assert reply.startswith(code), f"{reply!r} to {line!r}"


def enter(port: int, mode: str, context: ssl.SSLContext, plain: bytes) -> ssl.SSLSocket:
    """Connect, secure, log in."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=60)
    if mode == "starttls":
        talk(sock, b"", b"220")
        talk(sock, b"EHLO client.example", b"250")
        talk(sock, b"STARTTLS", b"220")
    secured = context.wrap_socket(sock, server_hostname="localhost")
    if mode == "implicit":
        talk(secured, b"", b"220")
    talk(secured, b"EHLO client.example", b"250")
    talk(secured, b"AUTH PLAIN " + plain, b"235")
    return secured


def main() -> None:
    """Open them, and wait."""
    port, mode, count, authority, plain = sys.argv[1:]
    context = ssl.create_default_context(cafile=authority)
    kept = [enter(int(port), mode, context, plain.encode()) for _ in range(int(count))]
    print("open", flush=True)
    sys.stdin.read()
    for sock in kept:
        sock.close()


if __name__ == "__main__":
    main()
