"""What the smarthost knows of a message, read from what it received."""

from __future__ import annotations

import re
from email import message_from_bytes
from email.message import Message

from relay.loadkit.received import Received
from tests.account import Copy

_HOP = re.compile(rb"^Received:(?:[^\r\n]|\r\n(?=[ \t]))*?\sby \S+ with \S+ id ([^\s;]+)", re.MULTILINE)
_MESSAGE_ID = re.compile(rb"^Message-ID:\s*<([^@>\s]+)@", re.MULTILINE | re.IGNORECASE)


def read_copy(received: Received) -> Copy:
    """The copy of a message whose content the sink has kept. Its mark is its sender."""
    content = received.content or b""
    head = content[: content.find(b"\r\n\r\n") + 2]
    found = _HOP.search(head) if received.sender else None
    found = found or _MESSAGE_ID.search(head)
    failed = () if received.sender else read_failed(content)
    return Copy(found[1].decode() if found else "", received.sender, received.recipients, failed, received.is_intact)


def read_failed(content: bytes) -> tuple[str, ...]:
    """The recipients that a report (RFC 3464) says have failed."""
    found: list[str] = []
    for part in message_from_bytes(content).walk():
        if part.get_content_type() not in ("message/delivery-status", "message/global-delivery-status"):
            continue
        groups = part.get_payload()
        for group in groups if isinstance(groups, list) else []:
            if isinstance(group, Message) and str(group.get("Action", "")).strip().lower() == "failed":
                found.append(str(group["Final-Recipient"]).partition(";")[2].strip())
    return tuple(found)
