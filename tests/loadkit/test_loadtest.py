"""The whole of it: users made over HTTP, a load, a sink, a verdict."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from rich.console import Console

from relay.loadkit.loadtest import LoadOptions, expand, run_loadtest, run_sink
from relay.loadkit.provision import Provision, ProvisionError, provision
from relay.loadkit.script import Script
from relay.loadkit.sink import Sink
from tests.loadkit.conftest import StartSink


class Settings(BaseHTTPRequestHandler):
    """A TES API that knows one token."""

    seen: list[dict[str, object]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append(body)
        is_welcome = body["token"] == "good" and self.path == "/v1.0/settings/addSmtp"
        answer = {"status": "success", "smtp_user_name": f"u{len(self.seen)}", "smtp_password": "p"}
        if not is_welcome:
            answer = {"status": "error", "message": "Token MissMatch"}
        text = json.dumps(answer).encode()
        self.send_response(200 if is_welcome else 401)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def api() -> Iterator[str]:
    Settings.seen.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Settings)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


async def test_users_are_made_through_the_api(api: str) -> None:
    made = await provision(Provision(api, "o1", "good", users=2, hourly=5, total=50))
    assert made == [("u1", "p"), ("u2", "p")]
    assert Settings.seen[0] == {"owner_id": "o1", "token": "good", "total_limit": 50, "hourly_limit": 5}


async def test_an_api_that_refuses_is_an_error_without_the_token(api: str) -> None:
    wish = Provision(api, "o1", "sesame")
    with pytest.raises(ProvisionError, match="Token MissMatch") as refused:
        await provision(wish)
    assert "sesame" not in str(refused.value) + repr(wish)
    with pytest.raises(ProvisionError, match="not an http"):
        await provision(Provision("file:///etc/passwd", "o1", "t"))
    with pytest.raises(ProvisionError):
        await provision(Provision("http://127.0.0.1:1", "o1", "t"))


@pytest.mark.parametrize("is_json", [False, True])
async def test_a_load_test_sends_and_judges(start_sink: StartSink, api: str, is_json: bool) -> None:
    target = await start_sink('data every=5 reply="451 4.0.0 busy"', credentials={"u1": "p", "u2": "p"})
    options = LoadOptions(port=target.port, provision=Provision(api, "o1", "good", users=2), connections=2, messages=20, json=is_json)
    out = io.StringIO()
    result = await run_loadtest(options, Console(file=out, width=100))
    assert result.holds
    assert (result.tally.taken, result.tally.refused) == (16, 4)
    if is_json:
        shown = json.loads(out.getvalue())
        assert shown["load"]["codes"] == {"250": 16, "451 data": 4}
        assert shown["load"]["p50_ms"] <= shown["load"]["p99_ms"] <= shown["load"]["max_ms"]
    else:
        assert "reply 451 data" in out.getvalue()
        assert "nothing to judge by" in out.getvalue()


async def test_a_load_that_nothing_forwards_is_found_lost_at_its_own_sink(start_sink: StartSink, tmp_path: Path) -> None:
    target = await start_sink()
    (tmp_path / "relay.log").write_text("")
    sinks: list[Sink] = []
    options = LoadOptions(port=target.port, connections=1, messages=3, sink=0, journals=(f"{tmp_path}/*.log",), hourly=5, quiet_seconds=0.1)
    result = await run_loadtest(options, Console(file=io.StringIO()), sinks.append)
    assert {finding.kind for finding in result.verdict.findings} >= {"lost", "answered but not taken"}
    assert not result.holds
    assert sinks[0].port > 0
    assert sinks[0].intake.connections == 0


async def test_a_journal_that_is_not_there_is_said_before_the_load(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such journal"):
        await run_loadtest(LoadOptions(messages=1, journals=(f"{tmp_path}/*.log",)), Console(file=io.StringIO()))
    (tmp_path / "a.log").write_text("")
    assert expand(f"{tmp_path}/a.log") == expand(f"{tmp_path}/*.log") == [tmp_path / "a.log"]


async def test_a_live_display_is_drawn_on_a_terminal(start_sink: StartSink) -> None:
    target = await start_sink()
    out = io.StringIO()
    options = LoadOptions(port=target.port, connections=1, seconds=0.4, rate=50)
    await run_loadtest(options, Console(file=out, force_terminal=True, width=100))
    assert "load (running)" in out.getvalue()


async def test_a_sink_left_running_tells_its_counts_every_second() -> None:
    sink = Sink(script=Script())
    lines: list[str] = []
    task = asyncio.create_task(run_sink(sink, lines.append, every=0.1))
    while not lines:
        await asyncio.sleep(0.01)
    await run_loadtest(LoadOptions(port=sink.port, connections=1, messages=3), Console(file=io.StringIO()))
    await asyncio.sleep(0.25)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert lines[0] == f"sink listens on 127.0.0.1:{sink.port}"
    assert "messages=3 ids=3 duplicates=0 damaged=0" in lines[-1]
    assert "354=3" in lines[-1]
