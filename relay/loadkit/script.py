"""What a scripted sink does out of the ordinary: rules, one per line, the first that fires wins.

    STAGE [CONDITION ...] ACTION ...

    rcpt every=10 reply="450 4.2.0 busy"        dot p=0.01 drop          dot first=3 stall=30
    rcpt match=*@bad.example reply="550 5.1.1 no such user"              data stall=forever
    dot from=5 to=15 reply="451 4.3.2 down"     dot stall=0.02..0.2      tls p=0.1 certificate=expired

Stages      connect ehlo starttls tls auth mail rcpt data dot rset quit; a chunk of BDAT is data, the last one dot; tls is where a
            handshake begins, after the 220 to STARTTLS or at once where TLS is implicit
Conditions  all must hold; match, sender, from and to are looked at first, then first, every and p, which count only what matched
  match=GLOB    the stage's subject: client address, EHLO name, user, sender (mail), recipient (rcpt), any accepted one (data, dot)
  sender=GLOB   the envelope's sender
  from=SECONDS  since the sink began to listen  to=SECONDS  and not from then on
  first=N       the first N times       every=N       every Nth time       p=X           with this probability
Actions     may be combined; a stall comes first
  stall=SECONDS or stall=LEAST..MOST, evenly spread, or stall=forever
  reply="..."   instead of the usual reply; `\\n` begins another line
  twice         the reply is sent a second time
  garbage       octets that are no reply, in place of it
  drop          abort the connection without a reply; drop=after: right after it
  close         close in order after the reply
  certificate=expired or =wrong-name: shown in the handshake; tls takes this, stall, drop (no handshake at all) and garbage, no other

A rule is asked only where the sink would otherwise say yes. Pure, but for the counts a script keeps of its own rules.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import translate
from random import Random
from typing import Literal, get_args

Stage = Literal["connect", "ehlo", "starttls", "tls", "auth", "mail", "rcpt", "data", "dot", "rset", "quit"]
STAGES: tuple[Stage, ...] = get_args(Stage)
Flaw = Literal["expired", "wrong-name"]

_CODED = re.compile(r"([2-5]\d\d)(?:[ -](.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Action:
    """What to do in place of the usual reply."""

    stall: float = 0.0
    """Seconds; infinity is forever."""
    reply: bytes = b""
    """In wire form; empty is the usual one."""
    is_twice: bool = False
    is_garbage: bool = False
    drop: Literal["", "before", "after"] = ""
    is_close: bool = False
    stall_most: float = 0.0
    """Above `stall`: the seconds are drawn from between the two."""
    certificate: Flaw | None = None

    def pause(self, random: Random) -> float:
        """Seconds to stall this time."""
        return random.uniform(self.stall, self.stall_most) if self.stall_most > self.stall else self.stall


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a script."""

    stage: Stage
    action: Action
    match: re.Pattern[str] | None = None
    sender: re.Pattern[str] | None = None
    first: int | None = None
    every: int = 1
    probability: float | None = None
    begins: float = 0.0
    ends: float = math.inf
    """Seconds since the sink's start."""

    def concerns(self, subjects: Sequence[str], sender: str, elapsed: float) -> bool:
        """Whether the time has come and the globs match."""
        if not self.begins <= elapsed < self.ends:
            return False
        if self.sender is not None and not self.sender.match(sender.lower()):
            return False
        return self.match is None or any(self.match.match(subject.lower()) for subject in subjects)

    def fires(self, count: int, random: Random) -> bool:
        """Whether the `count`th time (from 1) that it is concerned is one to act on."""
        if self.first is not None and count > self.first:
            return False
        if count % self.every:
            return False
        return self.probability is None or random.random() < self.probability


@dataclass(slots=True)
class Script:
    """Rules in order. The counts of `first` and `every` live here: a script swapped in again goes on where it stopped."""

    rules: tuple[Rule, ...] = ()
    _by_stage: dict[Stage, list[int]] = field(init=False, repr=False)
    _counts: list[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._counts = [0] * len(self.rules)
        self._by_stage = {}
        for index, rule in enumerate(self.rules):
            self._by_stage.setdefault(rule.stage, []).append(index)

    @classmethod
    def parse(cls, lines: Iterable[str]) -> Script:
        """Read a script; empty lines and those that begin with `#` are skipped. Raises ValueError naming the line and its fault."""
        kept = (line.strip() for line in lines)
        return cls(tuple(parse_rule(line) for line in kept if line and not line.startswith("#")))

    def decide(self, stage: Stage, subjects: Sequence[str], sender: str, random: Random, elapsed: float = 0.0) -> Action | None:
        """What to do out of the ordinary, or None, `elapsed` seconds after the sink's start."""
        for index in self._by_stage.get(stage, ()):
            rule = self.rules[index]
            if rule.concerns(subjects, sender, elapsed):
                self._counts[index] += 1
                if rule.fires(self._counts[index], random):
                    return rule.action
        return None


def parse_rule(line: str) -> Rule:
    """Read one rule. Raises ValueError naming what is wrong."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise ValueError(f"rule {line!r}: {error}") from None
    if not words or words[0] not in STAGES:
        raise ValueError(f"rule {line!r}: begins with none of the stages {', '.join(STAGES)}")
    rule = Rule(words[0], Action())
    seen: set[str] = set()
    for word in words[1:]:
        key, equals, value = word.partition("=")
        if key in seen:
            raise ValueError(f"rule {line!r}: {key} stands there twice")
        seen.add(key)
        try:
            rule = _apply(rule, key, value if equals else None)
        except ValueError as error:
            raise ValueError(f"rule {line!r}: {error}") from None
    if problem := _conflict(rule):
        raise ValueError(f"rule {line!r}: {problem}")
    return rule


def _conflict(rule: Rule) -> str:
    """What is wrong with a rule as a whole."""
    action = rule.action
    if action == Action():
        return "no action; one of reply, stall, drop, close, garbage, twice, certificate is needed"
    if rule.begins >= rule.ends:
        return f"from={rule.begins:g} is not before to={rule.ends:g}"
    if rule.stage != "tls":
        return "certificate belongs to the stage tls" if action.certificate else ""
    is_fit = not action.reply and not action.is_twice and not action.is_close and action.drop != "after"
    return "" if is_fit else "a handshake may stall, drop, be garbage or show a certificate; it has no reply"


def _apply(rule: Rule, key: str, value: str | None) -> Rule:
    if key in ("match", "sender", "first", "every", "p", "from", "to"):
        return _add_condition(rule, key, value)
    return replace(rule, action=_add_action(rule.action, key, value))


def _add_condition(rule: Rule, key: str, value: str | None) -> Rule:
    if not value:
        raise ValueError(f"{key} needs a value")
    match key:
        case "match":
            return replace(rule, match=re.compile(translate(value.lower())))
        case "sender":
            return replace(rule, sender=re.compile(translate(value.lower())))
        case "first":
            return replace(rule, first=_count(key, value))
        case "every":
            return replace(rule, every=_count(key, value))
        case "from":
            return replace(rule, begins=_number(key, value))
        case "to":
            return replace(rule, ends=_number(key, value))
    probability = _number(key, value)
    if not 0 <= probability <= 1:
        raise ValueError(f"p={value} is not between 0 and 1")
    return replace(rule, probability=probability)


def _add_action(action: Action, key: str, value: str | None) -> Action:
    match key, value:
        case "reply", str(text) if text:
            return replace(action, reply=wire_reply(text.replace("\\n", "\n")))
        case "stall", "forever":
            return replace(action, stall=math.inf)
        case "stall", str(text) if text:
            least, most = _range(key, text)
            return replace(action, stall=least, stall_most=most)
        case "certificate", "expired" | "wrong-name":
            return replace(action, certificate=value)
        case "certificate", _:
            raise ValueError(f"certificate={value} is neither certificate=expired nor certificate=wrong-name")
        case "reply" | "stall", _:
            raise ValueError(f"{key} needs a value")
        case "drop", None | "before":
            return replace(action, drop="before")
        case "drop", "after":
            return replace(action, drop="after")
        case "drop", _:
            raise ValueError(f"drop={value} is neither drop=before nor drop=after")
        case "twice" | "garbage" | "close", str():
            raise ValueError(f"{key} takes no value")
        case "twice", None:
            return replace(action, is_twice=True)
        case "garbage", None:
            return replace(action, is_garbage=True)
        case "close", None:
            return replace(action, is_close=True)
    raise ValueError(f"{key} is neither a condition nor an action")


def wire_reply(text: str) -> bytes:
    """Write a reply's lines as RFC 5321 section 4.2 has them. Raises ValueError if they are no reply."""
    lines: list[str] = []
    for line in text.split("\n"):
        found = _CODED.fullmatch(line.strip("\r"))
        if found is None:
            raise ValueError(f"reply line {line!r} does not begin with a reply code")
        if lines and lines[0][:3] != found[1]:
            raise ValueError(f"reply line {line!r} has another code than the first line")
        lines.append(f"{found[1]}-{found[2] or ''}")
    last = lines[-1]
    lines[-1] = f"{last[:3]} {last[4:]}"
    return "".join(f"{line}\r\n" for line in lines).encode("utf-8")


def _count(key: str, value: str) -> int:
    if not value.isascii() or not value.isdigit() or int(value) < 1:
        raise ValueError(f"{key}={value} is not a whole number from 1")
    return int(value)


def _range(key: str, value: str) -> tuple[float, float]:
    """`LEAST..MOST`, or one number and 0."""
    first, dots, last = value.partition("..")
    if not dots:
        return _number(key, first), 0.0
    least, most = _number(key, first), _number(key, last)
    if most <= least:
        raise ValueError(f"{key}={value} is no range from less to more")
    return least, most


def _number(key: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"{key}={value} is not a number") from None
    if not math.isfinite(number) or number < 0:
        raise ValueError(f"{key}={value} is not a number from 0")
    return number
