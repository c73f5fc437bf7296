"""Errors of the relay's own routes, as they are described: `{"error": {"code", "message"}}`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class Fault(BaseModel):
    """What went wrong."""

    code: str
    """The status in words, as not_found."""
    message: str


class FaultBody(BaseModel):
    """The body of every error."""

    error: Fault


_WORDS = {
    400: "Something in the request cannot be used; the message names it",
    401: "Wrong credentials",
    403: "The owner is disabled",
    404: "Nobody and nothing of that name, among what is the caller's",
    405: "The path knows other methods",
    408: "The body did not arrive in time",
    413: "The body is too large",
    429: "Too many failed attempts; Retry-After says when",
    500: "A fault of the relay; it is on record",
    503: "The store or the spool cannot be used now",
}

FAULTS: dict[int | str, dict[str, Any]] = {status: {"model": FaultBody, "description": text} for status, text in _WORDS.items()}
"""For the routes of a router."""
