"""Who a message may say it is from, by the policy of its user's owner; pure.

What one address is, and that a domain does not stand for those below it, is `Outfit.allows`'s to say; the local part is compared in lower
case too where addresses are listed. The null sender is nobody's name, so everybody may use it; it is no author.
"""

from __future__ import annotations

from relay.accounts.setting import Outfit
from relay.mail.author import read_authors
from relay.mail.field import fields_named, header_end, header_of, is_all_fields
from relay.mail.reply import Reply
from relay.mail.trace import MAX_HEADER

NOT_ALLOWED = Reply(550, "7.1", "Sender address not allowed for this account")
NOT_ITS_AUTHOR = Reply(550, "7.1", "From or Sender has an address that is not allowed for this account")
NO_AUTHOR = Reply(550, "7.1", "From is missing, or From or Sender is there twice or cannot be read")


def authors_of(wire: bytes, *, has_header: bool, is_strict: bool = False) -> tuple[str, ...] | None:
    """The addresses in From and Sender of a message in wire form; None where they cannot be told.

    Strictly they cannot where a line of the header section is no part of a field: what one reader passes over is From to the next.
    """
    if not has_header or (len(wire) > MAX_HEADER and header_end(wire, MAX_HEADER + 4) < 0):  # reading must not hold up other sessions
        return None
    head = header_of(wire)
    if is_strict and not is_all_fields(head):
        return None
    return read_authors(fields_named(head, b"from", b"sender", at_most=3))  # of three, one is there twice


def judge(outfit: Outfit, authors: tuple[str, ...] | None) -> Reply | None:
    """What is said against a message's authors, where the policy looks at them; None: nothing."""
    if authors is None:
        return NO_AUTHOR
    return None if all(map(outfit.allows, dict.fromkeys(authors))) else NOT_ITS_AUTHOR
