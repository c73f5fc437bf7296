"""The golden dialogs are complete: every reply of a session is in one of them word for word, and so is every extension and every rule.

Replies are read from the source of `relay.session`; what varies in them may be anything. What a dialog cannot bring about (a store that
is down, a relay that shuts down, two connections at once) is named here with the test that shows it instead.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.session.rules import KEYWORDS, RULES, Exchange

TESTS = Path(__file__).parent.parent
SOURCES = sorted((TESTS.parent / "relay" / "session").glob("*.py"))
DIALOGS = {path.stem: path.read_text("ascii").splitlines() for path in (TESTS / "conversations").glob("*.smtp")}
VARIES = "*"

ELSEWHERE = {
    "421 4.3.2 Service shutting down": "session/test_shutdown.py",
    "421 4.4.2 Timeout waiting for the client, closing": "session/test_slow_clients.py",
    "421 4.3.0 Internal error, closing": "session/test_bugs.py",
    "451 4.3.0 Internal error, try again later": "session/test_transaction.py",
    "421 4.7.0 Too many connections for this account": "session/test_auth_presence.py",
    "454 4.7.0 Temporary authentication failure, try again later": "session/test_auth_presence.py",
    "451 4.3.0 Temporary backend failure, try again later": "scenarios/test_store_down_at_reserve.py",
    "451 4.7.0 Sending limit taken by messages in flight*": "session/test_transaction.py",
    "451 4.3.5 The settings of this account cannot be read, try again later": "session/test_outgoing.py",
    "451 4.3.5 The message could not be signed, try again later": "session/test_outgoing.py",
    "451 4.3.5 No usable smarthost is set": "session/test_outgoing.py",
    "552 5.3.4 The header section is too large to be signed, it may have 64 KB and 1000 fields, 200 of them signed": (
        "session/test_sender_limits.py"
    ),
    "452 4.3.1 Insufficient system storage, try again later": "session/test_spooling.py",
    "452 4.3.1 No memory for the message now, try again later": "session/test_budget.py",
}
"""Replies that no dialog shows, and the tests that do."""


@dataclass(frozen=True, slots=True)
class Said:
    """A reply somewhere in the source."""

    place: str
    pieces: tuple[str | None, ...]
    """Of its line; None is what varies."""

    @property
    def text(self) -> str:
        """As it is named here."""
        return "".join(VARIES if piece is None else piece for piece in self.pieces)

    @property
    def pattern(self) -> re.Pattern[str]:
        """What its lines look like."""
        return re.compile("".join(".*" if piece is None else re.escape(piece) for piece in self.pieces))


def replies(source: str, name: str) -> Iterator[Said]:
    """Every `Reply(code, detail, text)` in a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Reply":
            assert len(node.args) == 3, f"{name}:{node.lineno}: a reply is written Reply(code, detail, text)"
            code, detail, text = (pieces(argument) for argument in node.args)
            kind = (code[0][0],) if code[0] else (None,)
            yield Said(f"{name}:{node.lineno}", (*code, " ", *kind, ".", *detail, " ", *text))


def pieces(node: ast.expr) -> tuple[str | None, ...]:
    """What is constant in an expression, and where something varies."""
    match node:
        case ast.Constant(value):
            return (str(value),)
        case ast.JoinedStr(values):
            return tuple(piece for value in values for piece in pieces(value))
        case _:
            return (None,)


def lines_of(dialogs: Mapping[str, Sequence[str]], kind: str) -> Iterator[str]:
    """What the relay says in the dialogs."""
    return (line[3:] for lines in dialogs.values() for line in lines if line.startswith(kind))


def unshown(said: Iterable[Said], lines: Collection[str]) -> list[Said]:
    """The replies that are in no line."""
    return [one for one in said if not any(one.pattern.fullmatch(line) for line in lines)]


def missing(exchanges: Mapping[str, Exchange], dialogs: Mapping[str, Sequence[str]]) -> list[str]:
    """What has no exchange: the lines of one stand behind each other in its dialog, whatever comments there are between them."""
    found = []
    for what, (dialog, *lines) in exchanges.items():
        spoken = [line for line in dialogs.get(dialog, ()) if line and not line.startswith("#")]
        if not any(spoken[start : start + len(lines)] == lines for start in range(len(spoken))):
            found.append(what)
    return found


def offered(dialogs: Mapping[str, Sequence[str]]) -> set[str]:
    """The keywords of EHLO: the dialog of the greeting has every line of them, and the relay is held to it."""
    lines = [line[7:] for line in dialogs["greeting"] if re.match(r"S: 250[- ]", line)]
    return {line.split()[0] for line in lines if not re.match(r"relay\.example|[0-9]\.", line)}


ALL = [said for path in SOURCES for said in replies(path.read_text(), path.name)]
SHOWN = set(lines_of(DIALOGS, "S: "))


def test_every_reply_of_a_session_is_in_a_dialog_word_for_word() -> None:
    absent = [said for said in unshown(ALL, SHOWN) if said.text not in ELSEWHERE]
    assert not absent, "\n".join(f"{said.place} {said.text}" for said in absent)


def test_what_is_shown_elsewhere_is_shown_there_and_by_no_dialog() -> None:
    assert {said.text for said in unshown(ALL, SHOWN)} == ELSEWHERE.keys()
    for text, file in ELSEWHERE.items():
        words = text.strip(VARIES).split(" ", 2)[2].partition(",")[0]
        assert words in (TESTS / file).read_text(), f"{file} does not show {text}"


def test_every_reply_has_an_enhanced_code() -> None:
    """RFC 2034 section 4; what has none (the greeting, EHLO's, 334, 354) is not written as a Reply."""
    assert len(ALL) > 60
    assert not [said.place for said in ALL if re.match(r"\d* [\d*]\. ", said.text)]


def test_a_dialog_never_shows_a_reply_of_another_class_than_its_enhanced_code() -> None:
    codes = [found for line in SHOWN if (found := re.match(r"(\d)\d\d (\d)\.\d", line))]
    assert len(codes) > 60
    assert all(found[1] == found[2] for found in codes)


def test_every_extension_that_is_offered_has_an_exchange() -> None:
    assert offered(DIALOGS) == KEYWORDS.keys()
    assert not missing(KEYWORDS, DIALOGS)


def test_every_rule_has_an_exchange() -> None:
    assert not missing(RULES, DIALOGS)


# -- the checks themselves ---------------------------------------------------------------------------------------------------


def test_a_reply_that_no_dialog_shows_is_found() -> None:
    source = 'A = Reply(250, "0.0", "OK")\ndef b(n):\n    return Reply(550, "7.1", f"Limit of {n} reached")\n'
    said = list(replies(source, "planted.py"))
    assert [(one.place, one.text) for one in said] == [("planted.py:1", "250 2.0.0 OK"), ("planted.py:3", "550 5.7.1 Limit of * reached")]
    assert unshown(said, {"250 2.0.0 OK", "550 5.7.1 Limit of {seconds} reached"}) == []
    assert unshown(said, {"250 2.0.0 OK", "550 5.7.1 {any}", "550 5.7.0 Limit of 5 reached", "550 5.7.1 Limit of 5 reached."}) == [said[1]]


def test_an_exchange_that_is_not_there_is_found() -> None:
    dialogs = {"one": ["# a comment", "C: NOOP", "# another", "S: 250 2.0.0 OK", "C: QUIT"]}
    assert missing({"there": ("one", "C: NOOP", "S: 250 2.0.0 OK")}, dialogs) == []
    gone: dict[str, Exchange] = {
        "not answered so": ("one", "C: NOOP", "S: 250 2.0.0 Ok"), "not in this order": ("one", "C: QUIT", "C: NOOP"),
        "no such dialog": ("two", "C: NOOP"),
    }  # fmt: skip
    assert missing(gone, dialogs) == list(gone)


def test_a_keyword_of_ehlo_is_found_on_whatever_line_it_stands() -> None:
    dialogs = {"greeting": ["S: 250-relay.example greets a", "S: 250-SIZE 5", "S: 250 NEW", "S: 250 2.0.0 OK", "C: EHLO a"]}
    assert offered(dialogs) == {"SIZE", "NEW"}
