"""Who says whether a password is right where Postfix asks: a server of Dovecot's authentication protocol, for one user."""

from __future__ import annotations

import base64
import contextlib
import socketserver
import threading
from collections.abc import Iterator


class _Session(socketserver.StreamRequestHandler):
    """One of Postfix's processes; PLAIN and LOGIN (Dovecot's "Authentication Protocol", version 1.1)."""

    server: _Server

    def handle(self) -> None:
        """Introduce itself, then answer until there is no more."""
        self.wfile.write(b"VERSION\t1\t1\nMECH\tPLAIN\tplaintext\nMECH\tLOGIN\tplaintext\nSPID\t1\nCUID\t1\nCOOKIE\t00\nDONE\n")
        named: dict[bytes, bytes] = {}
        for line in self.rfile:
            words = line.rstrip(b"\n").split(b"\t")
            if words[0] == b"AUTH":
                id, mechanism = words[1:3]
                given = [base64.b64decode(word[5:]) for word in words if word.startswith(b"resp=")]
                self._hear(id, mechanism, given, named)
            elif words[0] == b"CONT":
                self._hear(words[1], b"LOGIN", [base64.b64decode(words[2])], named)

    def _hear(self, id: bytes, mechanism: bytes, given: list[bytes], named: dict[bytes, bytes]) -> None:
        if mechanism == b"PLAIN":
            _, name, password = (given or [b"\0\0"])[0].split(b"\0")
        elif not given or id not in named:
            if given:
                named[id] = given[0]
            self.wfile.write(b"CONT\t%s\t%s\n" % (id, base64.b64encode(b"Password:" if given else b"Username:")))
            return
        else:
            name, password = named.pop(id), given[0]
        is_right = (name.decode(), password.decode()) == self.server.login
        self.wfile.write((b"OK\t%s\tuser=%s\n" if is_right else b"FAIL\t%s\tuser=%s\n") % (id, name))


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    login: tuple[str, str]


@contextlib.contextmanager
def running_sasl(name: str, password: str) -> Iterator[int]:
    """Answer on a loopback port, which is returned."""
    with _Server(("127.0.0.1", 0), _Session) as server:
        server.login = name, password
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
