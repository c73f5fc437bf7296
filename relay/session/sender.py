"""Who a message may say it is from, by the policy of its user's owner; pure.

What one address is, and that a domain does not stand for those below it, is `Outfit.allows`'s to say; the local part is compared in lower
case too where addresses are listed. The null sender is nobody's name, so everybody may use it; it is no author.
"""

from __future__ import annotations

from relay.accounts.setting import Outfit
from relay.mail.author import read_authors
from relay.mail.field import header_end, header_of, read_fields
from relay.mail.reply import Reply
from relay.mail.trace import MAX_HEADER

NOT_ALLOWED = Reply(550, "7.1", "Sender address not allowed for this account")
NOT_ITS_AUTHOR = Reply(550, "7.1", "From or Sender has an address that is not allowed for this account")
NO_AUTHOR = Reply(550, "7.1", "From is missing, or From or Sender is there twice or cannot be read")


def authors_of(wire: bytes, *, has_header: bool) -> tuple[str, ...] | None:
    """The addresses in From and Sender of a message in wire form; None where they cannot be told."""
    end = header_end(wire) if has_header else 0
    if not 0 <= end <= MAX_HEADER and len(wire) > MAX_HEADER:  # reading must not hold up other sessions
        return None
    return read_authors(read_fields(header_of(wire) if has_header else b""))


def judge(outfit: Outfit, authors: tuple[str, ...] | None) -> Reply | None:
    """What is said against a message's authors, where the policy looks at them; None: nothing."""
    if authors is None:
        return NO_AUTHOR
    return None if all(map(outfit.allows, authors)) else NOT_ITS_AUTHOR
