"""Golden dialogs: files that say what a client says, what the relay answers, and what the smarthost got.

    # a comment, with the section of the RFC
    @user hourly=2 total=10        the user's limits; before the first @door. Also: @rules, @quota, @route, @sink, @guesses KEY=VALUE
    @spool                         what the smarthost does not take is kept; before the first @door
    @upstream rcpt match=*@bad.example reply="550 no"       a line for the smarthost's script, from here on; alone: none any more
    @door plain|clear|starttls|implicit                     connect (a connection before is closed)
    @login                         EHLO and AUTH, unseen
    C: NOOP                        a line of the client; lines that follow each other leave in one write
    C> .\\r                         octets as they are, with \\r \\n \\0 \\t \\\\ and \\xNN
    S: 250 2.0.0 {any}             a line of the relay
    S: 250-...                     all the lines of a reply up to its last
    U: RCPT TO:<a@b.example>       the last message as the smarthost got it: MAIL, each RCPT, then the lines of its content
    @tls                           the handshake after STARTTLS
    @half-close                    the client will send nothing more
    @closed                        the relay has ended the connection
    @pause                         what came before is sent now, and what follows a little later
    @edit hourly=1 total=5 | @disable | @enable | @reset    the user's account is changed
    @policy senders=domains allowed=b.example,c.example checks_from=1       who the owner's users may send as
    @setting b.example [nowhere]   the owner's mail of a domain goes to the smarthost, or by a setting that names none
    @signer b.example              it is signed, with the selector "one"
    @taken 2                       so many messages were charged, and as many answered by the smarthost

The client's placeholders: {plain} {name64} {password64} {wrong} {unknown} and {x*100}, a repetition of one or more characters. The
relay's: {any} {id} {seconds} {time} {date}.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from relay.accounts import signing
from relay.accounts.setting import Policy, Signer
from tests.session.conftest import Account, Guesses, Opening, Wire, Worker

WIDTH = 76
PATTERNS = {
    "any": ".*",
    "id": r"test[0-9a-z]+\.\d+",
    "seconds": r"\d+",
    "time": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ",
    "date": r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d [+-]\d{4}",
}
SETTINGS = ("user", "rules", "quota", "route", "sink", "guesses", "spool")
_ESCAPE = re.compile(r"\\(x[0-9a-f]{2}|.)")
_REPEAT = re.compile(r"\{([^{}]+?)\*(\d+)\}")
_PLACE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a dialog."""

    number: int
    kind: str
    """C, S, U or @."""
    text: str
    """Of C, what is sent, with its CRLF unless it was raw."""


@dataclass(slots=True)
class Dialog:
    """A file, read."""

    settings: dict[str, dict[str, Any]]
    steps: list[Step]


class Mismatch(AssertionError):
    """The relay said something else; the text shows both side by side."""


def read(path: Path) -> Dialog:
    """Read a file."""
    settings: dict[str, dict[str, Any]] = {}
    steps: list[Step] = []
    for number, line in enumerate(path.read_text("ascii").splitlines(), 1):
        kind, text = line[:2], line[3:]
        if not line or line.startswith("#"):
            continue
        if line.startswith("@"):
            word, _, rest = line[1:].partition(" ")
            if word in SETTINGS:
                settings.setdefault(word, {}).update(_settings(rest))
            else:
                steps.append(Step(number, "@", line[1:].strip()))
        elif kind == "C>":
            steps.append(Step(number, "C", _ESCAPE.sub(_unescape, text)))
        elif kind in ("C:", "S:", "U:"):
            steps.append(Step(number, kind[0], text + ("\r\n" if kind == "C:" else "")))
        else:
            raise ValueError(f"{path.name}:{number}: {line!r}")
    return Dialog(settings, steps)


def _settings(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for word in text.split():
        key, _, value = word.partition("=")
        found[key] = value.split(",") if key == "without" else None if value == "none" else _number(value)
    return found


def _number(value: str) -> Any:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(value)
    return value


def _unescape(found: re.Match[str]) -> str:
    code = found[1]
    return chr(int(code[1:], 16)) if len(code) > 1 else {"r": "\r", "n": "\n", "0": "\0", "t": "\t"}.get(code, code)


async def play(dialog: Dialog, open_worker: Opening) -> None:
    """Carry a dialog out; raises Mismatch."""
    options: dict[str, Any] = {key: value for key, value in dialog.settings.items() if key != "user"}
    if "guesses" in options:
        options["guesses"] = Guesses(**options["guesses"])
    options["is_spooling"] = options.pop("spool", None) is not None
    async with open_worker(**options) as worker:
        account = await worker.add_user(**dialog.settings.get("user", {}))
        player = Player(worker, account)
        for index, step in enumerate(dialog.steps):
            following = dialog.steps[index + 1].kind if index + 1 < len(dialog.steps) else ""
            await player.take(step, following)
        if player.wire is not None:
            await player.wire.close()
        taken, answered = await worker.account_of(account)
        assert taken == answered, f"charged {taken}, and the smarthost answered {answered}"


@dataclass(slots=True)
class Player:
    """Where a dialog has come to."""

    worker: Worker
    account: Account
    wire: Wire | None = None
    rows: list[tuple[str, str]] = field(default_factory=list)
    """Expected and found."""
    rules: list[str] = field(default_factory=list)
    group: bytes = b""
    content: Iterator[str] | None = None
    pending: str = ""
    """A line that was read and not yet looked at."""

    async def take(self, step: Step, following: str) -> None:
        """Carry one step out; a group of the client's lines leaves with its last."""
        self.content = self.content if step.kind == "U" else None
        if step.kind == "@":
            self.rows.append((f"@{step.text}", ""))
            await self._direct(*step.text.partition(" ")[::2])
            return
        if step.kind == "C":
            self.group += self._fill(step.text)
            self.rows.append((f"C: {step.text.strip()}"[:200], ""))
            if following != "C":
                await self._send()
            return
        if step.text == "250-...":
            while (line := await self._line()).startswith("250-"):
                self.rows.append((f"S: {line}", f"S: {line}"))
            self.pending = line
            return
        found = await self._line() if step.kind == "S" else self._upstream_line()
        self._compare(step, f"{step.kind}: {found}")

    async def _send(self) -> None:
        octets, self.group = self.group, b""
        assert self.wire is not None
        with suppress(ConnectionError):
            await self.wire.write(octets)

    async def _line(self) -> str:
        assert self.wire is not None
        if self.pending:
            line, self.pending = self.pending, ""
            return line
        try:
            async with asyncio.timeout(5):
                octets = await self.wire.reader.readline()
        except TimeoutError:
            return "(silence)"
        except ConnectionError as error:
            return f"({error})"
        return octets.decode("ascii", "backslashreplace").removesuffix("\r\n") if octets else "(closed)"

    def _upstream_line(self) -> str:
        if self.content is None:
            self.content = iter(_describe(self.worker))
        return next(self.content, "(nothing more)")

    def _compare(self, step: Step, found: str) -> None:
        expected = f"{step.kind}: {step.text}"
        self.rows.append((expected, found))
        if not _matches(expected, found):
            raise Mismatch(f"line {step.number}\n{self._side_by_side()}")

    def _side_by_side(self) -> str:
        lines = []
        for expected, found in self.rows:
            mark = "  " if not found or _matches(expected, found) else "->"
            lines.append(f"{mark} {expected[:WIDTH]:{WIDTH}} | {found}".rstrip())
        return "\n".join(lines)

    def _fill(self, text: str) -> bytes:
        name, password = self.account.name, self.account.password
        places = {
            "plain": self.account.plain, "name64": _base64(name), "password64": _base64(password),
            "wrong": _base64(f"\0{name}\0wrong"), "unknown": _base64("\0nobody\0wrong"),
        }  # fmt: skip
        text = _REPEAT.sub(lambda found: found[1] * int(found[2]), text)
        return _PLACE.sub(lambda found: places[found[1]].decode() if found[1] in places else found[0], text).encode("latin-1")

    # -- directives ----------------------------------------------------------------------------------------------------------

    async def _direct(self, word: str, rest: str) -> None:
        if word in ("edit", "disable", "enable", "reset"):
            await self._change(word, rest)
            return
        if word in ("policy", "setting", "signer"):
            await self._arrange(word, rest)
            return
        if word == "upstream":
            self.rules = [*self.rules, rest] if rest else []
            self.worker.script(*self.rules)
        elif word == "taken":
            assert await self.worker.account_of(self.account) == (int(rest), int(rest)), self._side_by_side()
        elif word == "door":
            if self.wire is not None:
                await self.wire.close()
            self.wire = await self.worker.connect(rest)
        else:
            await self._handle(word)

    async def _handle(self, word: str) -> None:
        assert self.wire is not None
        match word:
            case "login":
                await self.wire.log_in(self.account)
            case "tls":
                await self.wire.secure(self.worker.trust)
            case "half-close":
                await self._send()
                self.wire.writer.write_eof()
            case "closed":
                if not await self.wire.is_closed():
                    raise Mismatch(f"still open, or more was said\n{self._side_by_side()}")
            case "pause":
                await self._send()
                await asyncio.sleep(0.02)
            case _:
                raise ValueError(f"@{word}")

    async def _change(self, word: str, rest: str) -> None:
        provisioning, name = self.worker.provisioning, self.account.name
        changes: dict[str, Callable[[], Any]] = {
            "edit": lambda: provisioning.edit_user(name, **_settings(rest)),
            "disable": lambda: provisioning.edit_user(name, is_enabled=False),
            "enable": lambda: provisioning.edit_user(name, is_enabled=True),
            "reset": lambda: provisioning.reset_password(name),
        }
        await changes[word]()

    async def _arrange(self, word: str, rest: str) -> None:
        owner, arranging = self.account.owner_id, self.worker.arranging
        match word:
            case "policy":
                given = dict(pair.split("=") for pair in rest.split())
                allowed = tuple(given.get("allowed", "").split(",")) if "allowed" in given else ()
                senders = {"any": Policy("any"), "domains": Policy("domains"), "addresses": Policy("addresses")}[given["senders"]]
                await arranging.set_policy(owner, replace(senders, allowed=allowed, checks_from="checks_from" in given))
            case "setting":
                domain, _, where = rest.partition(" ")
                await self.worker.put_setting(self.account, domain, *([] if where else [self.worker.sink.port]))
            case _:
                await arranging.set_signer(owner, Signer(rest, "one", signing.new_key("ed25519")))


def _matches(expected: str, found: str) -> bool:
    pieces = _PLACE.split(expected)
    pattern = "".join(PATTERNS.get(piece, re.escape("{" + piece + "}")) if i % 2 else re.escape(piece) for i, piece in enumerate(pieces))
    return re.fullmatch(pattern, found) is not None


def _describe(worker: Worker) -> list[str]:
    message = worker.sink.messages[-1]
    assert message.content is not None
    lines = [f"MAIL FROM:<{message.sender}> {message.mail_params}".rstrip()]
    for address, params in zip(message.recipients, message.rcpt_params, strict=True):
        lines.append(f"RCPT TO:<{address}> {params}".rstrip())
    said = [line.encode().decode("ascii", "backslashreplace") for line in lines]
    return said + message.content.decode("ascii", "backslashreplace").split("\r\n")[:-1]


def _base64(text: str) -> bytes:
    return base64.b64encode(text.encode())
