"""The records a load leaves, as the oracle is given them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from relay.loadkit.attempt import Attempt
from relay.loadkit.change import Change
from relay.loadkit.history import History
from relay.loadkit.received import Received
from relay.loadkit.verdict import Limits


@dataclass(frozen=True, slots=True)
class Evidence:
    """The records. A journal or a sink that is None was not looked at, and what rests on it is not judged."""

    attempts: Sequence[Attempt] = ()
    history: History | None = None
    received: Sequence[Received] | None = None
    limits: Mapping[str, Limits] = field(default_factory=dict)
    """By user, as they were when the load began; the refusals of a user who is not there are not judged."""
    changes: Sequence[Change] = ()
    """All that were made to these users while the load ran."""
    ledger: Mapping[str, int] | None = None
    """Units the ledger says each user has taken in all, read after the run; of users whose whole life is in the journal."""
    is_foreign: bool = False
    """No relay of ours: there is no journal, and its 250s are judged by."""
    undone: Sequence[str] = ()
    """Changes that were planned and never asked for."""
