"""An HTTP API with just enough of the vendors' calls, that can be told to go wrong."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "good"


class Office(ThreadingHTTPServer):
    """Users by name; `seen` is what was asked: method, path and body. `broken` are the paths that answer 500."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Desk)
        self.users: dict[str, dict[str, Any]] = {}
        self.seen: list[tuple[str, str, dict[str, Any]]] = []
        self.broken: set[str] = set()
        self.most = 1000
        """Users that it makes before it refuses."""
        self.refusal = "no more"
        self.sent = 7
        """Units that it says each user has sent."""
        self.moved: tuple[int, str] | None = None
        """The status and the place of a redirect that answers everything."""
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_port}"


class _Desk(BaseHTTPRequestHandler):
    server: Office

    def do_POST(self) -> None:
        body = self._body("POST")
        if body.get("token") != TOKEN and not self._is_owner():
            return self._answer(401, {"status": "error", "message": f"Token MissMatch, not {body.get('token')}"})
        if self.path in ("/v1.0/settings/addSmtp", "/api/v1/users"):
            return self._add(body)
        user = str(body.get("smtp_user_name"))
        if user not in self.server.users:
            return self._answer(400, {"status": "error", "message": "unknown user"})
        if self.path == "/v1.0/settings/resetSmtpPassword":
            return self._answer(200, {"status": "success", "smtp_user_name": user, "smtp_password": "new"})
        self.server.users[user].update(body)
        return self._answer(200, {"status": "success", "message": "SMTP User Updated"})

    def do_PATCH(self) -> None:
        body = self._body("PATCH")
        self.server.users[self._user()].update(body)
        self._answer(200, {"smtp_user_name": self._user()})

    def do_DELETE(self) -> None:
        self._body("DELETE")
        if not self._is_owner() or self.server.broken or self._user() not in self.server.users:
            return self._answer(404, {})
        del self.server.users[self._user()]
        return self._answer(204, {})

    def do_GET(self) -> None:
        self._body("GET")
        found = self._is_owner() and self._user() in self.server.users
        self._answer(200 if found else 404, {"sent_total": self.server.sent, "in_flight": 1} if found else {})

    def _add(self, body: dict[str, Any]) -> None:
        with self.server.lock:
            name = f"u{len(self.server.users) + 1}"
            if len(self.server.users) < self.server.most:
                self.server.users[name] = body
                answer = {"status": "success", "smtp_user_name": name, "smtp_password": "p"}
            else:
                answer = {"status": "error", "message": self.server.refusal}
        self._answer(200, answer)

    def _body(self, method: str) -> dict[str, Any]:
        length = int(self.headers.get("Content-Length") or 0)
        body: dict[str, Any] = json.loads(self.rfile.read(length) or b"{}")
        self.server.seen.append((method, self.path, body))
        return body

    def _user(self) -> str:
        return self.path.split("/")[4]

    def _is_owner(self) -> bool:
        return self.headers.get("Authorization") == "Basic " + base64.b64encode(f"o1:{TOKEN}".encode()).decode()

    def _answer(self, status: int, answer: dict[str, Any]) -> None:
        if any(self.path.startswith(path) for path in self.server.broken):
            status, answer = 500, {"status": "error", "message": "broken"}
        text = b"" if status == 204 else json.dumps(answer).encode()
        if self.server.moved is not None:
            status, place = self.server.moved
            text = b""
        self.send_response(status)
        if self.server.moved is not None:
            self.send_header("Location", place + self.path)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def open_office() -> Iterator[Office]:
    """One that serves until the end."""
    office = Office()
    thread = threading.Thread(target=office.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield office
    finally:
        office.shutdown()
        thread.join()
        office.server_close()
