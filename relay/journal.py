"""The mail log: one function per named event, its metric beside it.

Promises: one line per event, on record before its client hears of it (so that what a client was told is there even if the process is
killed next); one id from connect to delivery (a message's id begins with its connection's); no secret ever reaches a line, because
no function takes one. Metrics are prometheus-client's, over all processes when PROMETHEUS_MULTIPROC_DIR is set.

A line is written before the call returns, unless somebody has taken it on to flush (`gather`): then the lines of one turn of the loop are
one write, and who took that on lets no reply out before it. Alarms wait for nobody, and take what has gathered with them.

Every line has `ts` (UTC, microseconds), `event` and `node`. The events, their fields and their meaning are listed in the README.
"""

from __future__ import annotations

import json
import math
import os
import stat
import threading
import time
import traceback
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

MESSAGES = Counter("relay_messages", "Messages by outcome: taken, refused, rejected, deferred, aborted.", ["outcome"])
REFUSALS = Counter("relay_refusals", "Refusals before 354, by reason.", ["reason"])
RECIPIENTS = Counter("relay_recipients_taken", "Recipients of taken messages.")
BYTES = Counter("relay_message_bytes", "Octets of taken messages, in wire form.")
AUTHENTICATIONS = Counter("relay_authentications", "AUTH exchanges by result.", ["result"])
TURNED_AWAY = Counter("relay_turned_away", "SMTP connections that were not let in.")
CONNECTIONS = Gauge("relay_connections", "Open SMTP connections.", multiprocess_mode="livesum")
ALARMS = Counter("relay_alarms", "Events that need a person, by event.", ["event"])
OVERDRAFTS = Counter("relay_overdrafts", "Messages charged beyond a limit because their lease had lapsed.")
IN_DOUBT = Counter("relay_in_doubt", "Recipients whose delivery is in doubt: the answer to the final dot never came.")
DELIVERED = Counter("relay_spool_delivered", "Recipients delivered to from the spool.")
DEFERRALS = Counter("relay_spool_deferrals", "Attempts from the spool that are to be repeated.")
REPORTS = Counter("relay_reports", "Delivery status notifications put into the spool, by action.", ["action"])
WORKER_DEATHS = Counter("relay_worker_deaths", "Worker processes that ended without being asked to.", ["role"])
API_CALLS = Counter("relay_api_calls", "HTTP API calls.", ["call", "status"])


_FORWARD_BOUNDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, math.inf)
FORWARD_SECONDS = Histogram("relay_forward_seconds", "From the final dot in to the smarthost's answer.", buckets=_FORWARD_BOUNDS)


_quote = json.encoder.encode_basestring_ascii
"""A text as a JSON string, as json.dumps writes it."""
_WRITERS: dict[type, Callable[[Any], str]] = {str: _quote, int: int.__repr__, bool: {True: "true", False: "false"}.__getitem__}


PIPE_WRITE = 4096
"""Octets that a pipe takes at once, so that no other process's come in between (PIPE_BUF, pipe(7)); to a file O_APPEND does that."""


def open_log(path: Path) -> int:
    """Open a mail log to append to it, and make it if need be; raises OSError."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


class Tally:
    """What every message and connection counts, kept in plain numbers until it is told: a figure of prometheus-client costs over 1 µs."""

    def __init__(self) -> None:
        self._taken, self._refused = MESSAGES.labels("taken"), MESSAGES.labels("refused")
        self._authenticated = AUTHENTICATIONS.labels("ok")
        self._clear()

    def _clear(self) -> None:
        self.connections = self.logins = 0
        self.refusals: dict[str, int] = {}
        """By reason."""
        self.taken: list[tuple[int, int, float]] = []
        """Of each message its recipients, its octets, and how many seconds it took."""

    def tell(self) -> None:
        """Add it to the figures. Of prometheus-client 0.2x Histogram._sum and ._buckets are relied on: it has no call for many at once."""
        if self.connections:
            CONNECTIONS.inc(self.connections)
        if self.logins:
            self._authenticated.inc(self.logins)
        for reason, count in self.refusals.items():
            self._refused.inc(count)
            REFUSALS.labels(reason).inc(count)
        if self.taken:
            recipients, octets, seconds = zip(*self.taken, strict=True)
            self._taken.inc(len(seconds))
            RECIPIENTS.inc(sum(recipients))
            BYTES.inc(sum(octets))
            FORWARD_SECONDS._sum.inc(sum(seconds))
            ordered, below = sorted(seconds), 0
            for bucket, bound in zip(FORWARD_SECONDS._buckets, _FORWARD_BOUNDS, strict=True):
                upto = bisect_right(ordered, bound)
                if upto > below:
                    bucket.inc(upto - below)
                    below = upto
        self._clear()


class Journal:
    """Writes events to one file descriptor, whole lines at a time; O_APPEND lets several processes share a file."""

    def __init__(self, fd: int, node: str, style: str = "json") -> None:
        self._fd = fd
        self._is_json = style == "json"
        self._node = node
        self._quoted = json.dumps(node)
        self._second = -1
        self._stamp = ""
        self._encode = json.JSONEncoder(separators=(",", ":")).encode
        self._tally = Tally()
        self._is_pipe = _is_pipe(fd)
        self.waiting: list[str] = []
        """Lines that are to be written at the end of the turn."""
        self._on_first: Callable[[], None] | None = None
        self._thread = 0
        self._is_loss_told = False

    def event(self, name: str, **fields: Any) -> None:
        """Write one line. Rooms call the named functions below, which also count."""
        if not self._is_json:
            self._write(name, _logfmt(fields))
            return
        try:  # nearly all are flat: as the encoder writes them, in half the time
            text = "".join([f',"{field}":{_WRITERS[value.__class__](value)}' for field, value in fields.items()])
        except KeyError:
            text = "," + self._encode(fields)[1:-1]
        self._write(name, text)

    def _write(self, name: str, fields: str) -> None:
        """Write one line; `fields` as the style has them behind others. What all begin with need not go through an encoder each time."""
        now = time.time()
        if not 0 <= (past := now - self._second) < 1:
            second = int(now)
            past = now - second
            self._second, self._stamp = second, time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
        if self._is_json:
            line = f'{{"ts":"{self._stamp}{int(past * 1e6):06d}Z","event":"{name}","node":{self._quoted}{fields}}}\n'
        else:
            line = f"ts={self._stamp}{int(past * 1e6):06d}Z event={name} node={self._node}{fields}\n"
        if self._on_first is None or threading.get_ident() != self._thread:
            self._record(line.encode("ascii", "backslashreplace"))
            return
        self.waiting.append(line)
        if len(self.waiting) == 1:
            self._on_first()

    # -- on record -----------------------------------------------------------------------------------------------------------

    def gather(self, on_first: Callable[[], None] | None) -> None:
        """Keep what this thread writes until `flush`; `on_first` hears of the first line to wait. None: keep nothing from now on."""
        self.flush()
        self._on_first, self._thread = on_first, threading.get_ident()

    def flush(self) -> None:
        """Write what has gathered; on record on return, as far as it can be."""
        if self.waiting:
            lines, self.waiting = self.waiting, []
            if self._is_pipe:
                for part in _by_pipe(lines):
                    self._record(part)
            else:
                self._record("".join(lines).encode("ascii", "backslashreplace"))

    def _record(self, left: bytes) -> None:
        """Write whole lines."""
        try:
            while left:  # a disk that is nearly full takes a part, and says so only of the next
                left = left[os.write(self._fd, left) :]
        except OSError as error:
            # A full log disk must not stop mail whose account is in the ledger; the counter shows it.
            ALARMS.labels("journal_lost").inc(left.count(b"\n"))
            if not self._is_loss_told:
                self._is_loss_told = True
                with suppress(OSError):
                    os.write(2, f"relay: the mail log cannot be written: {error.strerror}; lines are lost\n".encode())

    def reopen(self, path: Path) -> None:
        """Go on in the file that has this name now, what has gathered still in the old one; raises OSError, then nothing has changed."""
        self.flush()
        fd = open_log(path)
        try:
            os.dup2(fd, self._fd, inheritable=False)
        finally:
            os.close(fd)

    def tell_figures(self) -> None:
        """Bring the figures up to date; whoever takes messages calls it now and then, and at the end."""
        self._tally.tell()

    # -- connections ---------------------------------------------------------------------------------------------------------

    def connected(self, id: str, client: str, port: int, tls: bool) -> None:
        """A client connected; `port` is the listener's."""
        self._tally.connections += 1
        if self._is_json:  # as `event` writes it, in half the time; so it is where somebody logs in, and leaves
            self._write("connected", f',"id":{_quote(id)},"client":{_quote(client)},"port":{port},"tls":{"true" if tls else "false"}')
        else:
            self.event("connected", id=id, client=client, port=port, tls=tls)

    def disconnected(self, id: str, taken: int, refused: int) -> None:
        """A connection ended; the counts are of its messages."""
        self._tally.connections -= 1
        if self._is_json:
            self._write("disconnected", f',"id":{_quote(id)},"taken":{taken},"refused":{refused}')
        else:
            self.event("disconnected", id=id, taken=taken, refused=refused)

    def turned_away(self, id: str, client: str, port: int, reply: str) -> None:
        """A client connected and was not let in: there are too many connections, or the relay shuts down."""
        TURNED_AWAY.inc()
        self.event("turned_away", id=id, client=client, port=port, reply=reply)

    def authenticated(self, id: str, user: str, mechanism: str) -> None:
        """AUTH succeeded."""
        self._tally.logins += 1
        if self._is_json:
            self._write("authenticated", f',"id":{_quote(id)},"user":{_quote(user)},"mechanism":{_quote(mechanism)}')
        else:
            self.event("authenticated", id=id, user=user, mechanism=mechanism)

    def auth_refused(self, id: str, user: str, client: str, reply: str) -> None:
        """AUTH failed; `reply` is what the client heard."""
        AUTHENTICATIONS.labels(reply[:3]).inc()
        self.event("auth_refused", id=id, user=user, client=client, reply=reply)

    # -- messages ------------------------------------------------------------------------------------------------------------

    def refused(self, id: str, user: str, reason: str, units: int, reply: str, retry_after: int | None) -> None:
        """The ledger, the account or its owner's settings refused the transaction before 354, or at the dot."""
        self._tally.refusals[reason] = self._tally.refusals.get(reason, 0) + 1
        self.event("refused", id=id, user=user, reason=reason, units=units, retry_after=retry_after, reply=reply)

    def taken(
        self,
        id: str,
        user: str,
        sender: str,
        recipients: list[str],
        units: int,
        at: int,
        octets: int,
        seconds: float,
        reply: str,
        spooled: list[str] | None = None,
    ) -> None:
        """A message was taken: `at` is its commit instant on the store's clock in µs (0: not yet recorded, see charge_kept).

        `spooled` are the recipients the spool answers for, waiting or to be reported on; the others were delivered to.
        """
        self._tally.taken.append((len(recipients), octets, seconds))
        if self._is_json and not spooled:  # as below, in half the time: nearly every message ends here
            q = _quote
            to = q(recipients[0]) if len(recipients) == 1 else ",".join(map(q, recipients))
            fields = (
                f',"id":{q(id)},"user":{q(user)},"sender":{q(sender)},"recipients":[{to}],"units":{units},'
                f'"at":{at},"octets":{octets},"seconds":{seconds:.6f},"reply":{q(reply)}'
            )
            self._write("taken", fields)
            return
        self.event(
            "taken", id=id, user=user, sender=sender, recipients=recipients, units=units, at=at, octets=octets,
            seconds=round(seconds, 6), reply=reply, **({"spooled": spooled} if spooled else {}),
        )  # fmt: skip

    def rejected(self, id: str, user: str, sender: str, recipients: list[str], outcome: str, reply: str) -> None:
        """A message was not taken after its upload; `outcome` is rejected (5yz), deferred (4yz), in_doubt or aborted."""
        MESSAGES.labels(outcome).inc()
        self.event("rejected", id=id, user=user, sender=sender, recipients=recipients, outcome=outcome, reply=reply)

    def settled(self, id: str, user: str, units: int, at: int, late: bool) -> None:
        """A charge is recorded that had to wait for the store, or came after its lease had lapsed (`late`); `at` is its commit instant."""
        self.event("settled", id=id, user=user, units=units, at=at, late=late)

    def released(self, id: str, user: str, reason: str) -> None:
        """A hold was given back without a charge, other than by its own transaction's reply."""
        self.event("released", id=id, user=user, reason=reason)

    def overdraft(self, id: str, user: str, units: int, at: int) -> None:
        """A charge was recorded after its lease had lapsed and exceeds a limit; it is held against the user."""
        OVERDRAFTS.inc()
        self.alarm("overdraft", id=id, user=user, units=units, at=at)

    def charge_waits(self, id: str, user: str, units: int, is_durable: bool) -> None:
        """A message was taken and the store did not answer: the charge will be recorded; it is on disk, or in memory only."""
        if is_durable:
            self.alarm("charge_kept", id=id, user=user, units=units)
        else:
            self.alarm("charge_at_risk", id=id, user=user, units=units)

    # -- the spool -----------------------------------------------------------------------------------------------------------

    def in_doubt(self, id: str, recipients: list[str], reply: str) -> None:
        """The final dot was sent and its answer has not come: these recipients may get a second copy (RFC 1047)."""
        IN_DOUBT.inc(len(recipients))
        self.event("in_doubt", id=id, recipients=recipients, reply=reply)

    def killed_in_flight(self, id: str, incarnation: str, recipients: list[str]) -> None:
        """The process that worked on a spooled message died: these recipients may get a second copy."""
        self.event("killed_in_flight", id=id, incarnation=incarnation, recipients=recipients)

    def delivered(self, id: str, recipients: list[str], reply: str, attempts: int, seconds: float) -> None:
        """The smarthost took a spooled message for these recipients, `seconds` after it had arrived."""
        DELIVERED.inc(len(recipients))
        self.event("delivered", id=id, recipients=recipients, reply=reply, attempts=attempts, seconds=round(seconds, 3))

    def deferred(self, id: str, recipients: list[str], reply: str, attempts: int, wait: float) -> None:
        """A spooled message was not taken for these recipients; it is tried again after `wait` seconds."""
        DEFERRALS.inc()
        self.event("deferred", id=id, recipients=recipients, reply=reply, attempts=attempts, wait=round(wait, 1))

    def reported(self, id: str, recipients: list[str], action: str, dsn: str) -> None:
        """A report on these recipients is in the spool under the id `dsn`; `action` is RFC 3464's: failed, delayed, relayed."""
        REPORTS.labels(action).inc()
        self.event("reported", id=id, recipients=recipients, action=action, dsn=dsn)

    def discarded(self, id: str, recipients: list[str], reason: str) -> None:
        """These recipients get neither the message nor a report: reason never (NOTIFY), null_sender, operator or owner."""
        self.event("discarded", id=id, recipients=recipients, reason=reason)

    def held(self, id: str, reason: str) -> None:
        """A spooled message waits for a person, or for its user to be enabled."""
        self.event("held", id=id, reason=reason)

    def unheld(self, id: str, reason: str) -> None:
        """A held message is tried again; `reason` is why it was held."""
        self.event("unheld", id=id, reason=reason)

    def smarthost_down(self, host: str, text: str) -> None:
        """A smarthost gave no session; it is tried again now and then, and until it is back mail goes elsewhere or waits."""
        self.alarm("smarthost_down", host=host, text=text)

    def smarthost_up(self, host: str) -> None:
        """It gives sessions again."""
        self.event("smarthost_up", host=host)

    # -- faults --------------------------------------------------------------------------------------------------------------

    def alarm(self, name: str, **fields: Any) -> None:
        """Something a person must look at."""
        ALARMS.labels(name).inc()
        self.event(name, alarm=True, **fields)
        if threading.get_ident() == self._thread:
            self.flush()

    def bug(self, id: str, error: BaseException) -> None:
        """An error that nothing expected, with its traceback; the client heard 451 and a constant text."""
        self.alarm("bug", id=id, error=type(error).__name__, traceback="".join(traceback.format_exception(error)))


def _is_pipe(fd: int) -> bool:
    """Whether a long write may be cut up: by a pipe, or by a socket, which is what systemd's journal reads from."""
    try:
        mode = os.fstat(fd).st_mode
        return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
    except OSError:  # it cannot be written to either
        return False


def _by_pipe(lines: Sequence[str]) -> Iterator[bytes]:
    """Lines, as many at once as a pipe takes without another process's in between."""
    part = b""
    for line in lines:
        octets = line.encode("ascii", "backslashreplace")
        if part and len(part) + len(octets) > PIPE_WRITE:
            yield part
            part = b""
        part += octets
    yield part


def _logfmt(line: dict[str, Any]) -> str:
    return "".join(f" {key}={_logfmt_value(value)}" for key, value in line.items())


def _logfmt_value(value: Any) -> str:
    if isinstance(value, list):
        value = ",".join(map(str, value))
    text = str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)
    return json.dumps(text) if not text or any(c in ' ="\\' or not c.isprintable() for c in text) else text
