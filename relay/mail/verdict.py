"""What a smarthost made of one recipient: Delivered, Deferred or Failed.

Promise: doubt is temporary. An outcome that is not known (`in_doubt`) is a Deferred, never a Failed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from relay.mail.envelope import Recipient
from relay.mail.reply import Reply


class Delivered(NamedTuple):
    """The smarthost answered 250 to the final dot for this recipient."""

    reply: Reply
    reports: bool = False
    """It offered DSN (RFC 3461), so the reports this recipient's sender asked for are now its to send."""


@dataclass(frozen=True, slots=True)
class Deferred:
    """Not taken now, may be later; `in_doubt` when the final dot was sent and its reply never came (RFC 1047)."""

    reply: Reply
    in_doubt: bool = False
    ours: bool = False
    """The fault lies with this relay or its route (login, TLS, configuration), not with the message."""
    withheld: bool = False
    """Not offered, because another recipient of an all-or-nothing message was refused."""
    unreached: bool = False
    """No session could be had, or upstream is known to be down: the message was never offered."""


@dataclass(frozen=True, slots=True)
class Failed:
    """Refused for good (5yz) by the smarthost, for a reason that lies in the message or the recipient."""

    reply: Reply


Verdict = Delivered | Deferred | Failed
Verdicts = Mapping[Recipient, Verdict]
"""What became of each recipient of one message."""
