"""One load test from users to verdict, as one frozen description: read from a TOML file, from the command line, or both.

Promises: what cannot be used is refused before anything is sent, with one line that names the file (or the option), the key and what is
wrong; an unknown key is refused; no secret is ever part of such a line or of a repr. A span of time is a number of seconds or, as in
"1.5w", of windows, and a rate a number per second or, as in "400/w", per window: so the same file serves a window of an hour and one
of five seconds.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from heapq import heapify, heapreplace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError, ValidationInfo, model_validator

from relay.loadkit.change import Kind
from relay.loadkit.mixture import Mixture
from relay.loadkit.pattern import Burst, Closed, Pattern, Ramp, Rate, Sawtooth
from relay.loadkit.script import Script
from relay.loadkit.verdict import Limits

UNLIMITED = "unlimited"
_IN_WINDOWS = re.compile(r"(\d+(?:\.\d+)?)w")
_PER_WINDOW = re.compile(r"(\d+(?:\.\d+)?)/w")
_SPAN_OF_RULE = re.compile(r"\b(from|to|stall)=(\d+(?:\.\d+)?)w(?=\s|$)")


class ScenarioError(ValueError):
    """A scenario that cannot be used; the text is one line for the one who wrote it."""


def _window(info: ValidationInfo) -> float:
    return float((info.context or {}).get("window", 3600.0))


def _seconds(given: Any, info: ValidationInfo) -> Any:
    found = _IN_WINDOWS.fullmatch(given) if isinstance(given, str) else None
    return float(found[1]) * _window(info) if found else given


def _per_second(given: Any, info: ValidationInfo) -> Any:
    found = _PER_WINDOW.fullmatch(given) if isinstance(given, str) else None
    return float(found[1]) / _window(info) if found else given


def _mixture(given: Any) -> Mixture:
    if isinstance(given, bool) or not isinstance(given, int | str):
        raise ValueError("a number, a range or a mix was expected")
    return Mixture.parse(str(given))


def _limit(given: Any) -> int | None:
    if given == UNLIMITED or given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise ValueError(f'a whole number from 1 or "{UNLIMITED}" was expected')
    return given


def _rules(given: Any, info: ValidationInfo) -> tuple[str, ...]:
    if not isinstance(given, list | tuple) or not all(isinstance(line, str) for line in given):
        raise ValueError("a list of rules was expected")
    window = _window(info)
    lines = [_SPAN_OF_RULE.sub(lambda found: f"{found[1]}={float(found[2]) * window:g}", line) for line in given]
    Script.parse(lines)
    return tuple(lines)


Span = Annotated[float, BeforeValidator(_seconds), Field(ge=0, le=86400 * 365, allow_inf_nan=False)]
Length = Annotated[float, BeforeValidator(_seconds), Field(gt=0, le=86400 * 365, allow_inf_nan=False)]
Numbers = Annotated[Mixture, PlainValidator(_mixture)]
Limit = Annotated[int | None, PlainValidator(_limit)]
PerSecond = Annotated[float, BeforeValidator(_per_second), Field(gt=0, le=1e7, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]


class Table(BaseModel):
    """A table of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True, hide_input_in_errors=True)


class Target(Table):
    """[target]: the server that is put to the test; without a port, a relay of its own."""

    host: str = ""
    port: int | None = Field(None, ge=1, le=65535)
    tls: Literal["none", "starttls", "implicit"] = "none"
    allow_remote: bool = False
    journal: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Its journals, paths or glob patterns; none: it is judged as a stranger, by what its clients heard."""
    credentials: str = ""
    """A JSON file of [["user", "password"], ...]."""

    @property
    def is_given(self) -> bool:
        """Whether there is a server to aim at."""
        return bool(self.host) or self.port is not None


class Api(Table):
    """[api]: where users are made, changed and asked about."""

    url: str = ""
    owner: str = ""
    token: str = Field("", repr=False)


class Counting(Table):
    """[quota]: how the server counts; what a relay of its own is told, and what any server is judged by."""

    window_seconds: int = Field(3600, ge=1, le=86400 * 31)
    resolution_seconds: int = Field(1, ge=1, le=3600)
    unit: Literal["messages", "recipients"] = "messages"
    rejected_factor: float = Field(2.0, ge=1.0)
    rejected_minimum: int = Field(50, ge=1)
    rejected_unlimited: int = Field(1000, ge=1)


class Sending(Table):
    """[load]: what is sent, over how many connections and for how long; the first of two ends to be reached ends it."""

    connections: Count = 20
    messages: Count | None = None
    seconds: Length | None = None
    size: Numbers = Mixture.parse("2048")
    recipients: Numbers = Mixture.parse("1")
    per_connection: int = Field(0, ge=0)
    timeout: Length = 60.0
    patience: Span = 15.0
    quiet: Span = 5.0
    """How long at most to wait, once all is sent, for what the relay still owes the sink."""
    seed: int = 0


class ByLoop(Table):
    """As fast as answered."""

    kind: Literal["closed"] = "closed"

    def pattern(self, window: float) -> Pattern:
        """The pattern itself."""
        return Closed()


class ByRate(Table):
    """At an even rate."""

    kind: Literal["rate"]
    rate: PerSecond

    def pattern(self, window: float) -> Pattern:
        """The pattern itself."""
        return Rate(self.rate)


class ByBurst(Table):
    """Many at once, again and again."""

    kind: Literal["burst"]
    messages: Count
    every: Length

    def pattern(self, window: float) -> Pattern:
        """The pattern itself."""
        return Burst(self.messages, self.every)


class ByRamp(Table):
    """From one rate to another."""

    kind: Literal["ramp"]
    start: Annotated[float, BeforeValidator(_per_second), Field(ge=0, le=1e7, allow_inf_nan=False)] = 0.0
    end: PerSecond
    over: Length

    def pattern(self, window: float) -> Pattern:
        """The pattern itself."""
        return Ramp(self.start, self.end, self.over)


class BySawtooth(Table):
    """Around the boundary of a fixed window."""

    kind: Literal["sawtooth"]
    messages: Count
    edge: Length
    anchor: Literal["clock", "first"] = "clock"

    def pattern(self, window: float) -> Pattern:
        """The pattern itself."""
        if self.edge > window / 2:
            raise ScenarioError(f"pattern.edge: {self.edge:g} s is more than half a window")
        return Sawtooth(self.messages, self.edge, window, self.anchor)


Arrival = Annotated[ByLoop | ByRate | ByBurst | ByRamp | BySawtooth, Field(discriminator="kind")]


class Group(Table):
    """[[users]]: users with the same limits; `share` is their part of the connections, against the other groups'."""

    count: Count = 1
    hourly: Limit = 1000
    total: Limit = 1_000_000
    share: float = Field(1.0, gt=0, allow_inf_nan=False)

    @property
    def limits(self) -> Limits:
        """Their limits."""
        return Limits(self.hourly, self.total)


class Planned(Table):
    """[[change]]: what is asked of the API while the load runs. What a change of limits does not name stays as it is."""

    at: Span
    kind: Kind
    hourly: Limit = None
    total: Limit = None
    users: Annotated[tuple[int, ...], Field(strict=False)] = ()
    """Which ones, counted from 1 over all groups; none is all."""

    @model_validator(mode="after")
    def _has_limits_where_they_belong(self) -> Planned:
        given = self.model_fields_set & {"hourly", "total"}
        if (self.kind == "limits") != bool(given):
            raise ValueError("hourly or total is needed" if self.kind == "limits" else f"{self.kind} takes no limits")
        return self


class Upstream(Table):
    """[sink]: the smarthost of this process. Without a port there is none, but for a relay of its own, which gets one."""

    port: int | None = Field(None, ge=0, le=65535)
    script: Annotated[tuple[str, ...], PlainValidator(_rules)] = ()
    seed: int = 0


class Scenario(Table):
    """All of it."""

    name: str = ""
    description: str = ""
    target: Target = Target()
    api: Api = Api()
    quota: Counting = Counting()
    users: Annotated[tuple[Group, ...], Field(strict=False, min_length=1)] = (Group(),)
    load: Sending = Sending()
    pattern: Arrival = ByLoop()
    change: Annotated[tuple[Planned, ...], Field(strict=False)] = ()
    sink: Upstream = Upstream()
    relay: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """More settings, by section, of a relay of its own."""

    @model_validator(mode="after")
    def _fits_together(self) -> Scenario:
        self.arrival  # noqa: B018 - raises where it does not fit the window
        total = sum(group.count for group in self.users)
        if self.load.connections < total:
            raise ValueError(f"load.connections: {self.load.connections} are fewer than the {total} users")
        for number, change in enumerate(self.change, 1):
            if strangers := [user for user in change.users if not 1 <= user <= total]:
                raise ValueError(f"change.{number}.users: there is no user {strangers[0]}, only 1 to {total}")
        if self.load.recipients.least < 1:
            raise ValueError("load.recipients: at least one is needed")
        return self

    @property
    def arrival(self) -> Pattern:
        """When messages are due."""
        return self.pattern.pattern(self.quota.window_seconds)


def assign(groups: Sequence[Group], connections: int) -> list[int]:
    """The user, by number from 0 over all groups, of each connection: by the groups' shares, and each user has one at least."""
    total = sum(group.count for group in groups)
    weights = [group.share / group.count for group in groups for _ in range(group.count)]
    held = [1] * total
    # The one that has the least for its weight is next: what rounding leaves over goes round.
    queue = [(1 / weight, user) for user, weight in enumerate(weights)]
    heapify(queue)
    for _ in range(connections - total):
        user = queue[0][1]
        held[user] += 1
        heapreplace(queue, (held[user] / weights[user], user))
    return [user for user in range(total) for _ in range(held[user])]


# -- reading -----------------------------------------------------------------------------------------------------------------


def read_scenario(path: Path | None, given: Mapping[str, tuple[str, Any]] | None = None) -> Scenario:
    """Read a scenario; `given` overrides it: by dotted key ("load.size"), the option that stands for it and its value.

    `users.hourly` and `users.total` are for every group, `users.count` for the only one. Raises ScenarioError.
    """
    found = _parse(path) if path is not None else {}
    given = given or {}
    for key, (option, value) in given.items():
        _override(found, key, option, value)
    if path is not None:
        found.setdefault("name", path.stem)
    load = found.setdefault("load", {})
    if isinstance(load, dict) and not {"messages", "seconds"} & load.keys():
        load["messages"] = 1000
    counting = found.get("quota")
    window = counting.get("window_seconds", 3600) if isinstance(counting, dict) else 3600
    try:
        return Scenario.model_validate(found, context={"window": window if isinstance(window, int | float) else 3600})
    except ValidationError as error:
        raise ScenarioError(_first_line(error, str(path) if path else "", given)) from None


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ScenarioError(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ScenarioError(f"{path}: {error}") from None


def _override(found: dict[str, Any], key: str, option: str, value: Any) -> None:
    table, _, name = key.partition(".")
    if not name:
        found[table] = value
        return
    place = found.setdefault(table, [{}] if table == "users" else {})
    if table == "users" and isinstance(place, list):
        if name == "count" and len(place) != 1:
            raise ScenarioError(f"{option}: the scenario has {len(place)} groups of users")
        for group in place:
            if isinstance(group, dict):
                group[name] = value
    elif isinstance(place, dict):
        place[name] = value


def _first_line(error: ValidationError, where: str, given: Mapping[str, tuple[str, Any]]) -> str:
    """The first fault as one line; secrets are in none, since no value is shown."""
    fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
    parts = [str(part) for part in fault["loc"]]
    if parts[:1] == ["pattern"] and len(parts) > 2:
        del parts[1]  # the kind, which pydantic counts as a step of the way
    plain = ".".join(part for part in parts if not part.isdigit())
    option = next((option for key, (option, _) in given.items() if plain == key or plain.startswith(f"{key}.")), "")
    text = str(fault["msg"]).removeprefix("Value error, ")
    text = "is not known here" if fault["type"] == "extra_forbidden" else text[:1].lower() + text[1:]
    # Tables of a list are counted from 1, as one counts them in the file.
    key = ".".join(str(int(part) + 1) if part.isdigit() else part for part in parts)
    prefix = option or ": ".join(word for word in (where, key) if word)
    return " ".join(f"{prefix}: {text}".split()) if prefix else text
